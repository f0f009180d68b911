"""CSV files as blocks of rows, each cell as its bytes or as the number that all of its column's cells are.

A block whose quotes only stand around whole cells is rows that Arrow's reader cuts and reads at once. Any other one,
and one with a row that has other columns than the first line, goes line by line through Python's reader, which says
where it is and what is wrong. Both give the same rows; a test holds them together.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from onward.runners.batch.errors import SourceUnreadable

LONGEST_LINE_BYTES = 64 << 20
BLOCK_BYTES = 1 << 22
_BOM = b"\xef\xbb\xbf"
csv.field_size_limit(LONGEST_LINE_BYTES)


@dataclass(slots=True, kw_only=True)
class Block:
    """`count` rows: the whole ones in `table`, columns of bytes or numbers, the `broken` by place, in words."""

    count: int
    table: pa.RecordBatch
    broken: dict[int, str] = field(default_factory=dict)


class CsvFile:
    """One file, read once from its beginning."""

    def __init__(self, path: Path, delimiter: str, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._path = path
        self._delimiter = delimiter
        self._block_bytes = block_bytes
        self._lines = 0
        self.header: list[str] = []

    def blocks(
        self, columns: Sequence[str] | None = None, types: Mapping[str, pa.DataType | None] = MappingProxyType({})
    ) -> Iterator[Block]:
        """The rows; all columns, or those asked for: one that the file has not is null.

        `types` says which columns may be numbers. Raises `SourceUnreadable`, `OSError`.
        """
        with self._path.open("rb") as stream:
            if stream.read(len(_BOM)) != _BOM:
                stream.seek(0)
            behind = self._read_header(stream)
            if not self.header:
                return
            columns = self.header if columns is None else columns
            wanted = [name for name in columns if name in self.header]
            while data := behind or self._block(stream):
                behind = b""
                block = self._at_once(data, wanted, types) if _is_plain(data, self._delimiter.encode()) else None
                if block is not None:
                    self._lines += data.count(b"\n")
                else:
                    block = self._line_by_line(data, stream, wanted)
                block.table = _in_order(block.table, columns, block.count - len(block.broken))
                yield block

    def _read_header(self, stream: BinaryIO) -> bytes:
        """Read the names; returns what lies behind them, of which there is some where lines end as on old Macs."""
        lines: list[str] = []
        rows = csv.reader(self._going_on(lines, stream), delimiter=self._delimiter)
        try:
            self.header = next(rows, [])
        except csv.Error as error:
            raise SourceUnreadable(str(error), where=str(self._path)) from None
        self._lines = rows.line_num
        if any(not name.isprintable() for name in self.header):
            raise SourceUnreadable(
                "the first line has no names of columns", where=str(self._path), expected="text in UTF-8"
            )
        if len(set(self.header)) != len(self.header):
            twice = next(name for name in self.header if self.header.count(name) > 1)
            raise SourceUnreadable(f"column {twice!r} is there twice", where=str(self._path))
        return _bytes("".join(lines[rows.line_num :]))

    def _more(self, stream: BinaryIO) -> Iterator[bytes]:
        while line := stream.readline(LONGEST_LINE_BYTES + 1):
            if len(line) > LONGEST_LINE_BYTES:
                raise SourceUnreadable(f"a line is longer than {LONGEST_LINE_BYTES >> 20} MiB", where=str(self._path))
            yield line

    def _block(self, stream: BinaryIO) -> bytes:
        """About a block of whole lines."""
        data = stream.read(self._block_bytes)
        return data + next(self._more(stream), b"") if data and not data.endswith(b"\n") else data

    def _at_once(self, data: bytes, wanted: Sequence[str], types: Mapping[str, pa.DataType | None]) -> Block | None:
        """None where it has to be read line by line: a row has other columns than the first line."""
        numbers = {name: type_ for name in wanted if _is_number(type_ := types.get(name))}
        if b"0x" in data or b"0X" in data:  # Arrow would read those as whole numbers
            numbers = {name: type_ for name, type_ in numbers.items() if not pa.types.is_int64(type_)}
        if numbers:
            with suppress(pa.ArrowException, UnicodeError):  # a cell is no number: as bytes it can be told
                block = self._cut(data, wanted, numbers)
                if not any(_has_infinity(column) for column in block.table.columns):
                    return block
        with suppress(pa.ArrowException, UnicodeError):
            return self._cut(data, wanted, {})
        return None

    def _cut(self, data: bytes, wanted: Sequence[str], numbers: Mapping[str, pa.DataType]) -> Block:
        """Raises `ArrowInvalid` where a row has other columns, or a cell is no number."""
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(column_names=self.header, use_threads=False, block_size=len(data) + 1),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter, quote_char='"' if b'"' in data else False, double_quote=False,
                newlines_in_values=b'"' in data,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: numbers.get(name, pa.binary()) for name in self.header}, null_values=[""],
                strings_can_be_null=False, include_columns=[*wanted] or self.header[:1], check_utf8=False,
            ),
        )  # fmt: skip
        return Block(count=table.num_rows, table=_whole(table))

    def _line_by_line(self, data: bytes, stream: BinaryIO, wanted: Sequence[str]) -> Block:
        lines = _lines(data)
        rows = csv.reader(self._going_on(lines, stream), delimiter=self._delimiter)
        cells: list[list[str]] = []
        broken: dict[int, str] = {}
        while rows.line_num < len(lines):
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                broken[len(cells) + len(broken)] = f"{self._where(rows.line_num)}: {error}"
                continue
            if len(row) == len(self.header):
                cells.append(row)
            elif row:
                problem = f"{len(row)} columns instead of {len(self.header)}"
                broken[len(cells) + len(broken)] = f"{self._where(rows.line_num)}: {problem}"
        self._lines += rows.line_num
        places = [self.header.index(name) for name in wanted or self.header[:1]]
        columns = [pa.array([_bytes(row[place]) for row in cells], pa.binary()) for place in places]
        table = pa.RecordBatch.from_arrays(columns, names=[self.header[place] for place in places])
        return Block(count=len(cells) + len(broken), table=table, broken=broken)

    def _going_on(self, lines: list[str], stream: BinaryIO) -> Iterator[str]:
        """The lines of a block; a quoted cell may go on behind it, and its lines are added from there."""
        yield from list(lines)
        for more in self._more(stream):
            added = _lines(more)
            lines += added
            yield from added

    def _where(self, line: int) -> str:
        return f"{self._path.name}:{self._lines + line}"


def _is_plain(data: bytes, delimiter: bytes) -> bool:
    """Whether both readers read it alike: no NUL, line ends of Unix or Windows, quotes around whole cells."""
    if b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
        return False
    if b'"' not in data:
        return True
    letters = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(letters == ord('"'))
    if len(quotes) % 2:
        return False
    # Every other quote opens a cell and is behind an end, every other closes one and is before an end: so none is
    # within a cell, or stands for a quote.
    ends = np.frombuffer(delimiter + b"\r\n", np.uint8)
    opening, closing = quotes[::2], quotes[1::2]
    opens = np.isin(letters[opening - 1], ends) | (opening == 0)
    closes = np.isin(letters[np.minimum(closing + 1, len(data) - 1)], ends) | (closing == len(data) - 1)
    return bool(opens.all() and closes.all())


def _is_number(type_: pa.DataType | None) -> bool:
    return type_ is not None and (pa.types.is_float64(type_) or pa.types.is_int64(type_))


def _has_infinity(column: pa.Array) -> bool:
    """A number beyond the largest, too, is read as one."""
    return pa.types.is_float64(column.type) and bool(pc.any(pc.is_inf(column)).as_py())


def _in_order(table: pa.RecordBatch, columns: Sequence[str], count: int) -> pa.RecordBatch:
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * count, pa.struct([])))
    has = set(table.schema.names)
    arrays = [table.column(name) if name in has else pa.nulls(count, pa.binary()) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _whole(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _lines(data: bytes) -> list[str]:
    """As Python's reader wants them: with their ends, of which there are three."""
    return list(io.StringIO(data.decode("utf-8", "surrogateescape").replace("\0", "�"), newline=""))


def _bytes(cell: str) -> bytes:
    return cell.encode("utf-8", "surrogateescape")
