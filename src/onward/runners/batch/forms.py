"""The forms of an output file: Parquet, Arrow, CSV and JSON lines, each written a table at a time."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from onward.runners.batch.cells import JSON_CONTENT, as_json_text

_GROUP_ROWS = 1 << 17


class Writer(Protocol):
    """Writes one file."""

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class ParquetForm:
    """Small tables share a row group: readers want few, large ones."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=_repeating(schema))
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """See `Writer`."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=2 * _GROUP_ROWS)
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        """See `Writer`."""
        if self._rows:
            self._flush()
        self._writer.close()


class ArrowForm:
    """The IPC file form, also known as Feather 2."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pa.ipc.new_file(str(path), schema)

    def write(self, table: pa.Table) -> None:
        """See `Writer`."""
        self._writer.write_table(table)

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()


class CsvForm:
    """What has no plain text form is JSON text, bytes are base64."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        flat = pa.schema([pa.field(field.name, _flat(field.type)) for field in schema])
        delimiter = "\t" if path.suffix == ".tsv" else ","
        self._writer = pa_csv.CSVWriter(str(path), flat, write_options=pa_csv.WriteOptions(delimiter=delimiter))
        self._schema = flat

    def write(self, table: pa.Table) -> None:
        """See `Writer`."""
        columns = [
            column if column.type == field.type else pa.array(map(_as_text, column.to_pylist()), pa.string())
            for column, field in zip(table.columns, self._schema, strict=True)
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()


class JsonForm:
    """One object a line; numbers that JSON does not have are null, and columns of JSON text are what the text says."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._stream = path.open("wb")
        self._json = [field.name for field in schema if field.metadata == JSON_CONTENT]
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode

    def write(self, table: pa.Table) -> None:
        """See `Writer`."""
        for batch in table.to_batches(max_chunksize=4096):
            rows = batch.to_pylist()
            for name in self._json:
                for row in rows:
                    row[name] = None if row[name] is None else msgspec.Raw(row[name].encode())
            self._stream.write(b"".join(self._encode(row) + b"\n" for row in rows))

    def close(self) -> None:
        """See `Writer`."""
        self._stream.close()


Form: TypeAlias = Callable[[Path, pa.Schema], Writer]
FORMS: Mapping[str, Form] = {
    ".parquet": ParquetForm, ".arrow": ArrowForm, ".csv": CsvForm, ".jsonl": JsonForm,
}  # fmt: skip


def write_parquet(path: Path, table: pa.Table) -> None:
    """One Parquet file, whole."""
    dictionaries = _repeating(table.schema)
    pq.write_table(table, path, compression="snappy", use_dictionary=dictionaries, row_group_size=2 * _GROUP_ROWS)


def write_arrow(path: Path, table: pa.Table) -> None:
    """One Arrow file, whole."""
    writer = ArrowForm(path, table.schema)
    try:
        writer.write(table)
    finally:
        writer.close()


def _repeating(schema: pa.Schema) -> list[str] | bool:
    """The columns whose values repeat: a dictionary of scores takes most of the time of writing, and more space."""
    found = [path for field in schema for path in _texts(field.name, field.type)]
    return found or False


def _texts(path: str, type_: pa.DataType) -> Iterator[str]:
    if pa.types.is_struct(type_):
        for field in type_:
            yield from _texts(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(type_):
        yield from _texts(f"{path}.list.element", type_.value_type)
    elif pa.types.is_string(type_) or pa.types.is_boolean(type_):
        yield path


def _flat(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_nested(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return pa.string()
    return type_


def _as_text(value: Any) -> str | None:
    if value is None:
        return None
    return base64.b64encode(value).decode() if isinstance(value, bytes) else as_json_text(value)


def _plain(value: Any) -> Any:
    return str(value)
