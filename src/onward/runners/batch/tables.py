"""Parquet and Arrow files, one or many, also in folders named `column=value`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.records import Chunk
from onward.runners.batch.source import Files, cut

_READ_ROWS = 1 << 16
_READ_BYTES = 1 << 20
"""Of a column at once: a mapped file would count as memory of the job, as much of it as has been read."""
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError)
"""What reading a damaged file raises; ValueErrors for names and texts that are no UTF-8."""


class TableFiles:
    """Files with typed columns; all of them have the columns of the first. See `Source`."""

    live = False

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self._files = Files(paths, root)
        self._partitions = [_partition(path, root) for path in paths]
        names = list(dict.fromkeys(name for one in self._partitions for name in one))
        self._partition_types = {name: self._type(name) for name in names}
        self._counts = [_rows(path) for path in paths]
        self.rows: int | None = sum(self._counts)
        schema = _schema(paths[0])
        for name, type_ in self._partition_types.items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, type_))
        self._schema = schema.remove_metadata()

    @property
    def schema(self) -> pa.Schema:
        """See `Source`."""
        return self._schema

    def facts(self) -> Sequence[Any]:
        """See `Source`."""
        return self._files.facts()

    def digest(self) -> str:
        """See `Source`."""
        return self._files.digest()

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """See `Source`."""
        return cut(self._batches(columns, size, start), size, start=start)

    def _batches(self, columns: Sequence[str], size: int, start: int) -> Iterator[pa.RecordBatch]:
        before = 0
        target = pa.schema([self._schema.field(name) for name in columns])
        for path, partition, count in zip(self._files.paths, self._partitions, self._counts, strict=True):
            skip, before = start - before, before + count
            if skip >= count:
                continue
            stored = [name for name in columns if name not in partition]
            try:
                for batch in _read(path, stored, min(size, _READ_ROWS), max(skip, 0)):
                    batch.validate(full=True)  # offsets and texts of a damaged file would be read beyond their ends
                    yield self._fit(batch, target, partition, path)
            except _DAMAGED as error:
                raise SourceUnreadable(_first_line(error), where=str(path)) from error

    def _fit(self, batch: pa.RecordBatch, target: pa.Schema, partition: dict[str, str], path: Path) -> pa.RecordBatch:
        arrays = []
        for field in target:
            if field.name in partition:
                text = pa.scalar(partition[field.name])
                arrays.append(pa.repeat(text.cast(field.type), batch.num_rows))
                continue
            if field.name not in batch.schema.names:
                raise SourceUnreadable(f"column {field.name!r} is missing", where=str(path))
            column = batch.column(field.name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            arrays.append(column if column.type == field.type else column.cast(_plain(field.type)))
        if not arrays:
            return batch
        return pa.RecordBatch.from_arrays(arrays, names=target.names)

    def _type(self, name: str) -> pa.DataType:
        values = [one[name] for one in self._partitions if name in one]
        return pa.int64() if all(value.lstrip("-").isdigit() for value in values) else pa.string()


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() in (".parquet", ".pq")


def _rows(path: Path) -> int:
    try:
        if _is_parquet(path):
            return int(pq.read_metadata(path).num_rows)
        with pa.memory_map(str(path)) as stored:
            reader = pa.ipc.open_file(stored)
            return sum(reader.get_batch(index).num_rows for index in range(reader.num_record_batches))
    except _DAMAGED as error:
        raise SourceUnreadable(_first_line(error), where=str(path)) from error


def _schema(path: Path) -> pa.Schema:
    try:
        if _is_parquet(path):
            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as stored:
                schema = pa.ipc.open_file(stored).schema
        return pa.schema([pa.field(field.name, _plain(field.type), field.nullable) for field in schema])
    except _DAMAGED as error:
        raise SourceUnreadable(_first_line(error), where=str(path)) from error


def _read(path: Path, columns: Sequence[str], size: int, skip: int) -> Iterator[pa.RecordBatch]:
    """The batches of one file from row `skip` on; whole row groups before it are not read."""
    if not _is_parquet(path):
        with pa.memory_map(str(path)) as stored:
            reader = pa.ipc.open_file(stored)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                passed = min(skip, batch.num_rows)
                skip -= passed
                yield batch.select(list(columns)).slice(passed)
        return
    with pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        groups: list[int] = []
        for index in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(index).num_rows
            if not groups and skip >= rows:
                skip -= rows
            else:
                groups.append(index)
        for batch in file.iter_batches(size, row_groups=groups, columns=list(columns), use_threads=False):
            passed = min(skip, batch.num_rows)
            skip -= passed
            if passed < batch.num_rows:
                yield batch.slice(passed)


def _partition(path: Path, root: Path) -> dict[str, str]:
    """The columns that the folders between root and file name: `day=2026-01-01`."""
    parts = path.relative_to(root).parts[:-1] if path.is_relative_to(root) else ()
    pairs = (part.partition("=") for part in parts)
    return {unquote(name): unquote(value) for name, equals, value in pairs if equals}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
