"""CSV, JSON lines and lines of text: a line that is no row is told of, and the others are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from onward.runners.batch import csv_blocks, texts
from onward.runners.batch.csv_files import CsvFiles
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.records import Chunk
from onward.runners.batch.texts import TextFiles, kept_text
from tests.unit.runners.batch.jobs import field


def source(file: Path, content: str | bytes, **fields: str) -> TextFiles | CsvFiles:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    kind = CsvFiles if file.suffix in (".csv", ".tsv") else TextFiles
    return kind([file], file.parent, {name: field(name, kind) for name, kind in fields.items()})


def whole(rows: TextFiles | CsvFiles, *columns: str, start: int = 0) -> Chunk:
    (chunk,) = rows.chunks(columns or rows.schema.names, 100, start=start)
    return chunk


def test_columns_of_a_csv_have_the_narrowest_type_of_their_values_or_that_of_the_input(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "i,f,b,t,x\n1,1.5,true,a,3\n,2,False,,4\n", x="FP32")
    assert rows.schema.types == [pa.int64(), pa.float64(), pa.bool_(), pa.string(), pa.float64()]
    assert whole(rows).table.to_pylist() == [
        {"i": 1, "f": 1.5, "b": True, "t": "a", "x": 3.0}, {"i": None, "f": 2.0, "b": False, "t": "", "x": 4.0},
    ]  # fmt: skip


def test_quotes_line_breaks_in_cells_tabs_and_byte_order_marks_are_read(tmp_path: Path) -> None:
    csv = source(tmp_path / "a.csv", b'\xef\xbb\xbfa,b\n"x, ""y""\nz",1\n')
    assert whole(csv).table.to_pylist() == [{"a": 'x, "y"\nz', "b": 1}]
    tsv = source(tmp_path / "a.tsv", "a\tb\nx,y\t1\n")
    assert whole(tsv).table.to_pylist() == [{"a": "x,y", "b": 1}]


def test_a_csv_row_with_other_columns_is_broken_and_keeps_its_number(tmp_path: Path) -> None:
    chunk = whole(source(tmp_path / "a.csv", "a,b\n1,2\n3\n4,5,6\n\n7,8\n"))
    assert list(chunk.rows) == [0, 3]
    assert [(one.row, one.code) for one in chunk.broken] == [(1, "MALFORMED_BODY"), (2, "MALFORMED_BODY")]
    assert "1 columns instead of 2" in chunk.broken[0].reason and "a.csv:3" in chunk.broken[0].reason


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="twice"):
        source(tmp_path / "a.csv", "a,a\n1,2\n")


def test_a_csv_of_a_header_alone_has_columns_and_no_rows(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "a,b\n", a="FP32")
    assert rows.schema.names == ["a", "b"] and list(rows.chunks(["a"], 10)) == []
    assert list(source(tmp_path / "b.csv", "").schema) == []


def test_a_json_line_that_is_no_object_is_broken(tmp_path: Path) -> None:
    chunk = whole(source(tmp_path / "a.jsonl", '{"a": 1}\n[1]\n{"a": 2\n\n{"a": 3}\n"x"\n{"a": NaN}\n'))
    assert list(chunk.rows) == [0, 3] and [one.row for one in chunk.broken] == [1, 2, 4, 5]
    assert all(one.code == "MALFORMED_BODY" and "a.jsonl:" in one.reason for one in chunk.broken)


def test_json_deeper_than_any_stack_is_a_broken_line(tmp_path: Path) -> None:
    chunk = whole(source(tmp_path / "a.jsonl", '{"a": 1}\n' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "\n"))
    assert list(chunk.rows) == [0] and [one.row for one in chunk.broken] == [1]


def test_values_that_do_not_fit_are_null_and_kept_beside(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.jsonl", '{"x": 1}\n{"x": "one"}\n{"x": true}\n{"x": null}\n{}\n', x="FP32")
    chunk = whole(rows)
    assert chunk.table.column("x").to_pylist() == [1.0, None, None, None, None]
    assert chunk.raw == {1: {"x": "one"}, 2: {"x": True}}
    chunk = whole(source(tmp_path / "a.csv", "x\n1\none\n1e400\n", x="FP32"))
    assert chunk.raw == {1: {"x": "one"}, 2: {"x": "1e400"}}


def test_bytes_that_are_no_text_are_kept_as_bytes(tmp_path: Path) -> None:
    chunk = whole(source(tmp_path / "a.csv", b"t,n\nfine,1\n\xff,2\n", t="BYTES"))
    assert chunk.table.column("t").to_pylist() == ["fine", None] and chunk.raw == {1: {"t": b"\xff"}}


def test_lines_of_text_are_rows_of_one_column(tmp_path: Path) -> None:
    chunk = whole(source(tmp_path / "a.txt", "one\n\nthree"))
    assert chunk.table.to_pylist() == [{"text": "one"}, {"text": ""}, {"text": "three"}]


@pytest.mark.parametrize("start", [0, 3, 8, 9, 20])
def test_reading_goes_on_at_any_row(tmp_path: Path, start: int) -> None:
    rows = source(tmp_path / "a.jsonl", "".join(f'{{"a": {at}}}\n' if at != 5 else "broken\n" for at in range(9)))
    chunks = list(rows.chunks(["a"], 2, start=start))
    numbers = [*(row for chunk in chunks for row in chunk.rows), *(one.row for chunk in chunks for one in chunk.broken)]
    assert sorted(numbers) == list(range(start, 9))


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"v\n{name}\n")
    rows = CsvFiles([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path, {})
    assert whole(rows).table.to_pylist() == [{"v": "a"}, {"v": "b"}]


def test_a_line_longer_than_the_limit_ends_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LONGEST_LINE_BYTES", 100)
    with pytest.raises(SourceUnreadable, match="line 2 is longer"):
        source(tmp_path / "a.jsonl", '{"a": 1}\n{"a": "' + "x" * 200 + '"}\n')
    monkeypatch.setattr(csv_blocks, "LONGEST_LINE_BYTES", 100)
    with pytest.raises(SourceUnreadable, match="longer"):
        source(tmp_path / "a.csv", "x" * 200 + "\n1\n")


def test_a_file_that_goes_away_is_an_error(tmp_path: Path) -> None:
    rows = source(tmp_path / "a.csv", "a\n1\n")
    (tmp_path / "a.csv").unlink()
    with pytest.raises(SourceUnreadable, match=r"a\.csv"):
        list(rows.chunks(["a"], 10))


def test_kept_values_that_are_no_text_are_json() -> None:
    assert kept_text("a") == "a" and kept_text([1, None]) == "[1,null]"
