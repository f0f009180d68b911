"""CSV files in blocks: the same rows as Python's reader gives for the whole file, whichever way a block goes."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onward.runners.batch.csv_blocks import CsvFile
from onward.runners.batch.errors import SourceUnreadable

CELLS = st.sampled_from(
    ["", "1", "-2.5", "1e3", "1e999", "inf", "nan", " 7 ", "007", "+1", "1_0", "0x1", ".5", "5.", "ä", '"q"', '"a,b"',
     '"a\nb"', '"a""b"', '"open', "x\0y", "99999999999999999999", "1,1", "NULL", "NA", "\t", "true", "-0", "1\r"]
)  # fmt: skip
LINES = st.lists(CELLS, min_size=1, max_size=4).map(",".join) | st.just("") | st.just(" ")
CONTENTS = st.builds(
    lambda lines, end, last: end.join(["a,b", *lines]) + (end if last else ""),
    st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n", "\n\n", "\r"]), st.booleans(),
)  # fmt: skip


def by_python(file: Path) -> list[Any]:
    """Each row, or how many columns it has instead of two."""
    found: list[Any] = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.reader(line.replace("\0", "�") for line in stream)
        next(rows)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return found
            except csv.Error:
                found.append("broken")
                continue
            if row:
                found.append(row if len(row) == 2 else "broken")


def in_blocks(file: Path, block_bytes: int, types: dict[str, pa.DataType]) -> list[Any]:
    found: list[Any] = []
    for block in CsvFile(file, ",", block_bytes=block_bytes).blocks(["a", "b"], types):
        whole = iter(zip(*(column.to_pylist() for column in block.table.columns), strict=True))
        assert block.count == block.table.num_rows + len(block.broken)
        found += ["broken" if place in block.broken else list(next(whole)) for place in range(block.count)]
    return found


ANYTHING = st.text(alphabet='",,a1\n\n', max_size=40).map("a,b\n".__add__)


@settings(max_examples=500, deadline=None)
@given(CONTENTS | ANYTHING, st.integers(1, 60))
@example("a,b\n1,2\n\n3\n", 4)
@example('a,b\n1,"x\ny"\n2,3\n', 6)
def test_rows_are_those_of_python_s_reader(content: str, block_bytes: int) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "in.csv")
        file.write_bytes(content.encode())
        try:
            found = in_blocks(file, block_bytes, {})
        except SourceUnreadable:
            assert "\r" in content.split("\n")[0].rstrip("\r") or '"' in content  # then the first line has no names
            return
        wanted = [
            row if row == "broken" else [cell.encode("utf-8", "surrogateescape") for cell in row]
            for row in by_python(file)
        ]
        assert found == wanted


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(CELLS.filter(lambda cell: '"' not in cell and "," not in cell), st.integers(-9, 9)), max_size=8)
)
def test_numbers_that_are_read_at_once_are_those_that_their_text_says(rows: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder, "in.csv")
        file.write_bytes("".join(["a,b\n", *(f"{a},{b}\n" for a, b in rows)]).encode())
        for type_ in (pa.float64(), pa.int64()):
            for text, number in zip(
                in_blocks(file, 1 << 20, {}), in_blocks(file, 1 << 20, {"a": type_, "b": pa.int64()}), strict=True
            ):
                if text == "broken" or isinstance(number[0], bytes):
                    assert text == number or number[0] == text[0]
                elif number[0] is None:
                    assert text[0] == b""
                else:
                    assert str(number[0]) == str(float(text[0]) if type_ == pa.float64() else int(text[0]))


def test_most_blocks_are_read_at_once(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("a,b,c\n" + "1,2.5,x\n" * 1000)
    types = {"a": pa.int64(), "b": pa.float64(), "c": pa.string()}
    (block,) = CsvFile(file, ",").blocks(types=types)
    assert block.table.schema.types == [pa.int64(), pa.float64(), pa.binary()]
    file.write_text("a,b,c\n" + "1,2.5,x\n" * 1000 + "1,words,x\n")
    (block,) = CsvFile(file, ",").blocks(types=types)
    assert block.table.schema.types == [pa.binary()] * 3


def test_a_broken_row_is_told_with_its_line_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text('a,b\n1,2\n"x\ny",2\n\n1\n' + "1,2\n" * 50 + "1,2,3\n")
    for block_bytes in (1, 10, 1000):
        told = [one for block in CsvFile(file, ",", block_bytes=block_bytes).blocks() for one in block.broken.values()]
        assert told == ["in.csv:6: 1 columns instead of 2", "in.csv:57: 3 columns instead of 2"]


@pytest.mark.parametrize("content", [b"", b"\n", b"a,a\n1,2\n", b"\xff,b\n", b"a\0,b\n", b'"open'])
def test_a_first_line_without_names_is_no_rows_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(content)
    if content.strip() == b"" or content == b'"open' or b"\0" in content:
        assert list(CsvFile(file, ",").blocks()) == []
    else:
        with pytest.raises(SourceUnreadable):
            list(CsvFile(file, ",").blocks())
