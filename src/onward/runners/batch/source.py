"""Where rows come from. A source knows its columns and gives its rows in order, in chunks of a size; nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from onward.runners.batch.records import Chunk, Reject
from onward.types import Array


class Source(Protocol):
    """Rows with named columns. `rows` is their number where that is known without reading them.

    `live` says that only the rows themselves tell whether they are the same as before: its chunks have digests.
    """

    rows: int | None
    live: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        ...

    def facts(self) -> Sequence[Any]:
        """What tells cheaply whether this is still the same input."""
        ...

    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        ...

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """The rows from `start` on, `size` at a time, broken ones counted. Raises `SourceUnreadable`."""
        ...


class Files:
    """The files that a source is made of, in order; what tells one input from another."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths = tuple(paths)
        self._root = root

    def facts(self) -> list[Any]:
        """Each file's name, size and time of change."""
        found = []
        for path in self.paths:
            status = path.stat()
            found.append([self._name(path), status.st_size, status.st_mtime_ns])
        return found

    def digest(self) -> str:
        """SHA-256 over names and contents."""
        whole = hashlib.sha256(b"onward-input-1")
        for path in self.paths:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
            whole.update(len(self._name(path)).to_bytes(8, "big") + self._name(path).encode() + content)
        return whole.hexdigest()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else path.name


class TypedFiles:
    """What sources of text files have in common: their files tell whether they are the same, `_types` their columns.

    A column without a type holds something nested, which stays as it is.
    """

    live = False
    rows: int | None = None
    _files: Files
    _types: Mapping[str, pa.DataType | None]

    @property
    def schema(self) -> pa.Schema:
        """See `Source`."""
        return pa.schema([(name, type_ or pa.string()) for name, type_ in self._types.items()])

    def facts(self) -> Sequence[Any]:
        """See `Source`."""
        return self._files.facts()

    def digest(self) -> str:
        """See `Source`."""
        return self._files.digest()


def cut(batches: Iterable[pa.RecordBatch], size: int, *, start: int) -> Iterator[Chunk]:
    """Record batches of any sizes as chunks of exactly `size` rows (the last may be smaller)."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    row = start
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, size - count)
            batch = batch.slice(part.num_rows)
            waiting.append(part)
            count += part.num_rows
            if count == size:
                yield _chunk(waiting, row)
                row += count
                waiting, count = [], 0
    if waiting:
        yield _chunk(waiting, row)


def _chunk(batches: list[pa.RecordBatch], row: int) -> Chunk:
    table = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
    return Chunk(table=table, rows=np.arange(row, row + table.num_rows, dtype=np.int64))


def chunk_of_columns(
    columns: Mapping[str, tuple[pa.Array, dict[int, Any]]], rows: Array, broken: Iterable[Reject] = ()
) -> Chunk:
    """A chunk of columns with, by place, the values that did not fit."""
    raw: dict[int, dict[str, Any]] = {}
    for name, (_, misfits) in columns.items():
        for place, value in misfits.items():
            raw.setdefault(place, {})[name] = value
    if columns:
        table = pa.RecordBatch.from_arrays([column for column, _ in columns.values()], names=list(columns))
    else:
        table = pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
    return Chunk(table=table, rows=rows, raw=raw, broken=list(broken))
