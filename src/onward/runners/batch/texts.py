"""JSON lines and plain lines: rows of text. A line that is no row is told of and passed over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from onward.errors import MalformedBody
from onward.runners.batch.cells import (
    SAMPLE_ROWS,
    as_json_text,
    of_texts,
    of_values,
    type_of_field,
    type_of_texts,
    type_of_values,
)
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.ordinary import ordinary
from onward.runners.batch.records import Chunk, Reject
from onward.runners.batch.source import Files, TypedFiles, chunk_of_columns
from onward.types import Field

LONGEST_LINE_BYTES = 64 << 20


class TextFiles(TypedFiles):
    """Files of one form, `.jsonl` or `.txt`. `fields` says of what type a column has to be."""

    def __init__(self, paths: Sequence[Path], root: Path, fields: Mapping[str, Field]) -> None:
        self._files = Files(paths, root)
        self._fields = fields
        self._suffix = paths[0].suffix.lower()
        sample: list[Any] = []
        try:
            sample = [row for _, row in islice(self._read(), SAMPLE_ROWS)]
        except OSError as error:
            raise SourceUnreadable(error.strerror or str(error), where=str(error.filename or paths[0])) from error
        rows = [row for row in sample if isinstance(row, dict)]
        self._names = list(dict.fromkeys(name for row in rows for name in row))
        self._types = {name: self._type(name, [row.get(name) for row in rows]) for name in self._names}

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """See `Source`."""
        rows = islice(self._read(), start, None)
        first = start
        while True:
            try:
                found = list(islice(rows, size))
            except OSError as error:
                raise SourceUnreadable(error.strerror or str(error), where=str(error.filename or "")) from error
            if not found:
                return
            yield self._chunk(found, columns, first)
            first += len(found)

    def _chunk(self, found: Sequence[tuple[str, Any]], columns: Sequence[str], first: int) -> Chunk:
        good = [(first + place, row) for place, (_, row) in enumerate(found) if isinstance(row, dict)]
        broken = [
            Reject(row=first + place, column="", reason=f"{where}: {row}", code=MalformedBody.code)
            for place, (where, row) in enumerate(found)
            if not isinstance(row, dict)
        ]
        typed = {name: self._column([row.get(name) for _, row in good], self._types.get(name)) for name in columns}
        rows = np.fromiter((number for number, _ in good), np.int64, len(good))
        return chunk_of_columns(typed, rows, broken)

    def _column(self, values: list[Any], type_: pa.DataType | None) -> tuple[pa.Array, dict[int, Any]]:
        if self._suffix == ".jsonl":
            column = ordinary(values, type_)
            return (column, {}) if column is not None else of_values(values, type_)
        if type_ is None:
            return of_values(values, None)
        texts = [value.encode("utf-8", "surrogateescape") if value is not None else None for value in values]
        return of_texts(pa.array(texts, pa.binary()), type_)

    def _type(self, name: str, values: list[Any]) -> pa.DataType | None:
        if name in self._fields:
            return type_of_field(self._fields[name])
        if self._suffix == ".jsonl":
            return type_of_values(values)
        return type_of_texts([value for value in values if value is not None])

    def _read(self) -> Iterator[tuple[str, Any]]:
        """Each row with its place: a dict, or in words what is wrong with it."""
        for path in self._files.paths:
            if self._suffix == ".jsonl":
                yield from _json_lines(path)
            else:
                yield from _lines(path)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    decode = msgspec.json.Decoder().decode
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE_BYTES + 1):
            number += 1
            where = f"{path.name}:{number}"
            if len(line) > LONGEST_LINE_BYTES:
                raise SourceUnreadable(f"line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB", where=str(path))
            if not line.strip():
                continue
            try:
                row = decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                yield where, f"not JSON: {error}"
            else:
                yield where, row if isinstance(row, dict) else "not a JSON object"


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(encoding="utf-8", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            yield f"{path.name}:{number}", {"text": line.rstrip("\n")}


def kept_text(value: Any) -> str:
    """What a kept column of text shows of a value that is not text."""
    return value if isinstance(value, str) else as_json_text(value)
