"""CSV and TSV files, one or many: rows of text, typed a column at a time. A line that is no row is told of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onward.errors import MalformedBody
from onward.runners.batch.cells import SAMPLE_ROWS, of_texts, of_values, type_of_field, type_of_texts
from onward.runners.batch.csv_blocks import Block, CsvFile
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.records import Chunk, Reject
from onward.runners.batch.source import Files, TypedFiles, chunk_of_columns
from onward.types import Field


class CsvFiles(TypedFiles):
    """Files with a line of names each. `fields` says of what type a column has to be. See `Source`."""

    def __init__(self, paths: Sequence[Path], root: Path, fields: Mapping[str, Field]) -> None:
        self._files = Files(paths, root)
        self._fields = fields
        self._delimiter = "\t" if paths[0].suffix.lower() == ".tsv" else ","
        samples: dict[str, list[str]] = {}
        count = 0
        with _reading(paths[0]):
            for path in paths:
                file = CsvFile(path, self._delimiter)
                for block in file.blocks():
                    for name, column in zip(block.table.schema.names, block.table.columns, strict=True):
                        sample = column.slice(0, SAMPLE_ROWS - count).to_pylist()
                        samples.setdefault(name, []).extend(cell.decode("utf-8", "replace") for cell in sample)
                    count += block.table.num_rows
                    if count >= SAMPLE_ROWS:
                        break
                for name in file.header:
                    samples.setdefault(name, [])
                if count:
                    break
        self._types = {name: self._type(name, values) for name, values in samples.items()}

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """See `Source`."""
        waiting: list[Block] = []
        count, row, first = 0, 0, start
        for block in self._blocks(columns):
            passed = min(max(start - row, 0), block.count)
            row += block.count
            _, block = _split(block, passed)
            while block.count:
                part, block = _split(block, size - count)
                waiting.append(part)
                count += part.count
                if count == size:
                    yield self._chunk(waiting, columns, first)
                    waiting, count, first = [], 0, first + size
        if waiting:
            yield self._chunk(waiting, columns, first)

    def _blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        for path in self._files.paths:
            with _reading(path):
                yield from CsvFile(path, self._delimiter).blocks(columns, self._types)

    def _chunk(self, blocks: Sequence[Block], columns: Sequence[str], first: int) -> Chunk:
        broken: list[Reject] = []
        numbers = []
        row = first
        for block in blocks:
            whole = np.ones(block.count, bool)
            for place, problem in block.broken.items():
                broken.append(Reject(row=row + place, column="", reason=problem, code=MalformedBody.code))
                whole[place] = False
            numbers.append(row + np.flatnonzero(whole))
            row += block.count
        typed = {name: self._column([block.table.column(name) for block in blocks], name) for name in columns}
        return chunk_of_columns(typed, np.concatenate(numbers), broken)

    def _column(self, parts: Sequence[pa.Array], name: str) -> tuple[pa.Array, dict[int, Any]]:
        type_ = self._types[name]
        columns = []
        misfits: dict[int, Any] = {}
        before = 0
        for cells in parts:
            if type_ is None:
                column, found = of_values([_text(cell) for cell in cells.to_pylist()], None)
            elif cells.type == type_:  # numbers already
                column, found = cells, {}
            else:
                column, found = of_texts(cells, type_)
            columns.append(column)
            misfits |= {before + place: value for place, value in found.items()}
            before += len(cells)
        return pa.concat_arrays(columns), misfits

    def _type(self, name: str, values: Sequence[str]) -> pa.DataType | None:
        return type_of_field(self._fields[name]) if name in self._fields else type_of_texts(values)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceUnreadable(error.strerror or str(error), where=str(error.filename or path)) from error


def _split(block: Block, count: int) -> tuple[Block, Block]:
    """A block's first rows, and the others."""
    if count <= 0:
        return Block(count=0, table=block.table.slice(0, 0)), block
    if count >= block.count:
        return block, Block(count=0, table=block.table.slice(0, 0))
    left = {place: problem for place, problem in block.broken.items() if place < count}
    right = {place - count: problem for place, problem in block.broken.items() if place >= count}
    whole = count - len(left)
    return (
        Block(count=count, table=block.table.slice(0, whole), broken=left),
        Block(count=block.count - count, table=block.table.slice(whole), broken=right),
    )


def _text(cell: bytes | None) -> str | bytes | None:
    try:
        return cell.decode() if cell is not None else None
    except UnicodeDecodeError:
        return cell
