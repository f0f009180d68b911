"""Which column of the source each of the package's inputs is read from, and what is kept beside the answers."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa

from onward.errors import MissingInput, UnknownInput, UsageError
from onward.prepare.fields import describe
from onward.runners.batch.media import CONTENT
from onward.runners.batch.records import Chunk, Job
from onward.types import Field


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """`columns` is {input: column of the source} for the inputs that the source has."""

    columns: Mapping[str, str]
    fields: Mapping[str, Field]

    def items(self, chunk: Chunk, places: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows of the chunk as the pipeline takes them; all, or those at `places`."""
        table = chunk.table if places is None else chunk.table.take(pa.array(places, pa.int64()))
        columns = [(name, table.column(column).to_pylist()) for name, column in self.columns.items()]
        wanted = range(chunk.table.num_rows) if places is None else places
        made = []
        for index, place in enumerate(wanted):
            raw = chunk.raw.get(place)
            item = {}
            for name, values in columns:
                value = values[index]
                if raw is not None and value is None:
                    value = raw.get(self.columns[name])
                if value is not None:
                    item[name] = _given(self.fields[name], value)
            made.append(item)
        return made


def map_columns(job: Job, inputs: Sequence[Field], schema: pa.Schema) -> Columns:
    """The mapping of a job. Raises `UnknownInput`, `MissingInput`, `UsageError`."""
    fields = {field.name: field for field in inputs}
    has = ", ".join(schema.names[:20])
    for name, column in job.columns.items():
        if name not in fields:
            raise UnknownInput(where=f"--columns {name}", expected=f"one of {', '.join(fields)}", found=repr(name))
        if column not in schema.names:
            raise UsageError(
                "the input has no such column", where=f"--columns {name}={column}", expected=f"one of {has}"
            )
    columns = {}
    for field in inputs:
        column = job.columns.get(field.name, field.name)
        if column in schema.names:
            columns[field.name] = column
    if CONTENT in schema.names and CONTENT not in columns.values():
        _take_content(inputs, columns)
    if "text" in schema.names and "text" not in columns.values() and len(schema.names) == 1:
        columns |= {field.name: "text" for field in inputs[:1] if field.datatype == "BYTES" or field.content == "chat"}
    for field in inputs:
        if field.required and field.default is None and field.name not in columns:
            raise MissingInput(
                "the input has no column for this", where=field.name,
                expected=f"{describe(field)}: --columns {field.name}=COLUMN", found=has,
            )  # fmt: skip
    return Columns(columns=columns, fields=fields)


def _take_content(inputs: Sequence[Field], columns: dict[str, str]) -> None:
    for field in inputs:
        if field.content in ("image", "audio", "text", "chat") and field.name not in columns:
            columns[field.name] = CONTENT
            return


def _given(field: Field, value: Any) -> Any:
    """A cell as the pipeline takes it: files in a struct, as data sets have them, or base64; lists as JSON."""
    if field.content in ("image", "audio"):
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if isinstance(value, str):
            try:
                return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
            except ValueError:
                return value
    if field.shape and field.datatype != "BYTES" and isinstance(value, str):  # as CSV files and databases have lists
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            return msgspec.json.decode(value)
    if field.content == "chat" and isinstance(value, str):
        return [{"role": "user", "content": value}]
    return value
