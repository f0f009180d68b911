"""Parquet and Arrow files: typed rows, from any row on, also of many files in folders that name columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onward.package.package import open_package
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.opening import open_source
from onward.runners.batch.tables import TableFiles
from tests.unit.runners.batch.jobs import some_rows, write


def rows(source: Any, *columns: str, size: int = 50, start: int = 0) -> list[dict[str, Any]]:
    return [row for chunk in source.chunks(columns, size, start=start) for row in chunk.table.to_pylist()]


@pytest.mark.parametrize("suffix", ["parquet", "pq", "arrow", "feather"])
@pytest.mark.parametrize("start", [0, 50, 100, 102, 250, 299, 300, 400])
def test_rows_are_read_from_any_row_on(tmp_path: Path, suffix: str, start: int) -> None:
    file = write(tmp_path / f"a.{suffix}".replace("feather", "arrow"), some_rows(300))
    source = TableFiles([file.rename(tmp_path / f"a.{suffix}")], tmp_path)
    assert source.rows == 300
    assert [row["id"] for row in rows(source, "id", start=start)] == list(range(start, 300))
    chunks = list(source.chunks(["id"], 64, start=start))
    assert all(chunk.table.num_rows == 64 for chunk in chunks[:-1])
    assert [number for chunk in chunks for number in chunk.rows] == list(range(start, 300))


def test_folders_name_columns_and_their_values(tmp_path: Path, package: Path) -> None:
    for day, region in ((1, "north"), (2, "a%2Fb")):
        folder = tmp_path / f"day={day}" / f"region={region}"
        folder.mkdir(parents=True)
        write(folder / "part.parquet", some_rows(3, seed=day))
    (tmp_path / "_metadata").write_text("not a row")
    (tmp_path / ".hidden.parquet").write_text("not a row")
    source = open_source(str(tmp_path), open_package(package).manifest, {})
    assert source.schema.field("day").type == pa.int64() and source.schema.field("region").type == pa.string()
    assert [(row["day"], row["region"]) for row in rows(source, "region", "day")] == [(1, "north")] * 3 + [
        (2, "a/b")
    ] * 3
    by_pattern = open_source(str(tmp_path / "*" / "*" / "*.parquet"), open_package(package).manifest, {})
    assert rows(by_pattern, "day", "id") == rows(source, "day", "id")


def test_files_of_other_integer_widths_are_one_input_and_others_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1, 2], pa.int64())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": pa.array([3], pa.int16()), "b": [1]}), tmp_path / "2.parquet")
    files = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    assert rows(TableFiles(files, tmp_path), "a") == [{"a": 1}, {"a": 2}, {"a": 3}]
    for other in ({"a": ["words"]}, {"b": [1]}):
        pq.write_table(pa.table(other), tmp_path / "2.parquet")
        with pytest.raises(SourceUnreadable, match=r"2\.parquet"):
            rows(TableFiles(files, tmp_path), "a")


def test_dictionaries_are_read_as_their_values(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array(["x", "y", "x", None]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    for file in ("a.parquet", "a.arrow"):
        source = TableFiles([tmp_path / file], tmp_path)
        assert source.schema.field("a").type == pa.string()
        assert [row["a"] for row in rows(source, "a")] == ["x", "y", "x", None]


def test_an_empty_table_has_columns_and_no_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    source = TableFiles([tmp_path / "a.parquet"], tmp_path)
    assert source.rows == 0 and list(source.chunks(["a"], 10)) == []


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_truncated_or_foreign_file_is_an_error_with_its_name(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a.{suffix}", some_rows(300))
    whole = file.read_bytes()
    for content in (b"", b"words", whole[:-7], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(SourceUnreadable, match=rf"a\.{suffix}"):
            rows(TableFiles([file], tmp_path), "id")


def test_damage_in_the_middle_of_a_file_is_an_error_with_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", some_rows(3000))
    data = bytearray(file.read_bytes())
    data[200:800] = bytes(600)
    file.write_bytes(data)
    with pytest.raises(SourceUnreadable, match=r"a\.parquet"):
        rows(TableFiles([file], tmp_path), "id", "x")
