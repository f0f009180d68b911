"""The forms of an output: what was written is read again, by other readers, too."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onward.runners.batch.forms import FORMS, write_arrow, write_parquet

TABLE = pa.table({
    "_row": pa.array([0, 1, 2]), "p": pa.array([0.5, float("nan"), None], pa.float32()),
    "list": pa.array([[1.5], [], None], pa.list_(pa.float32())), "sound": pa.array([b"RIFF\x00\xff", b"", None]),
    "text": ['a "b", c', "line\nbreak", None], "one": pa.array([{"a": 1}, {"a": None}, None]),
})  # fmt: skip


@pytest.fixture(params=[(1,), (3,), (2, 1)])
def parts(request: pytest.FixtureRequest) -> list[pa.Table]:
    sizes = request.param
    return [TABLE] if sizes == (3,) else [TABLE.slice(0, 2), TABLE.slice(2)] if sizes == (2, 1) else [
        TABLE.slice(at, 1) for at in range(3)
    ]  # fmt: skip


def write(file: Path, parts: list[pa.Table]) -> Path:
    writer = FORMS[file.suffix](file, TABLE.schema)
    for part in parts:
        writer.write(part)
    writer.close()
    return file


def test_parquet_and_arrow_keep_every_type_and_bytes_as_bytes(tmp_path: Path, parts: list[pa.Table]) -> None:
    assert str(pq.read_table(write(tmp_path / "a.parquet", parts)).to_pylist()) == str(TABLE.to_pylist())
    arrow = pa.ipc.open_file(write(tmp_path / "a.arrow", parts).read_bytes()).read_all()
    assert arrow.schema == TABLE.schema and str(arrow.to_pylist()) == str(TABLE.to_pylist())


def test_json_lines_have_null_for_what_json_has_no_number_for_and_base64_for_bytes(
    tmp_path: Path, parts: list[pa.Table]
) -> None:
    found = [json.loads(line) for line in write(tmp_path / "a.jsonl", parts).read_text().splitlines()]
    assert [row["p"] for row in found] == [0.5, None, None]
    assert [row["list"] for row in found] == [[1.5], [], None] and found[0]["one"] == {"a": 1}
    assert [row["sound"] and base64.b64decode(row["sound"]) for row in found] == [b"RIFF\x00\xff", "", None]
    assert list(found[0]) == TABLE.column_names


def test_csv_has_json_for_what_is_nested_and_base64_for_bytes(tmp_path: Path, parts: list[pa.Table]) -> None:
    with write(tmp_path / "a.csv", parts).open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [row["text"] for row in found] == ['a "b", c', "line\nbreak", ""]
    assert json.loads(found[0]["list"]) == [1.5] and json.loads(found[0]["one"]) == {"a": 1}
    assert base64.b64decode(found[0]["sound"]) == b"RIFF\x00\xff"


@pytest.mark.parametrize("suffix", FORMS)
def test_an_output_without_rows_is_a_file_of_its_form(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}", [])
    if suffix == ".parquet":
        assert pq.read_table(file).schema.names == TABLE.schema.names
    assert file.exists() and (suffix != ".jsonl" or file.read_bytes() == b"")


@pytest.mark.parametrize("suffix", FORMS)
def test_the_same_rows_make_the_same_bytes(tmp_path: Path, suffix: str, parts: list[pa.Table]) -> None:
    assert write(tmp_path / f"a{suffix}", parts).read_bytes() == write(tmp_path / f"b{suffix}", parts).read_bytes()


def test_many_small_tables_share_row_groups(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [TABLE] * 200)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1


def test_whole_files_are_written_at_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", TABLE)
    write_arrow(tmp_path / "a.arrow", TABLE)
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 3
    assert pa.ipc.open_file((tmp_path / "a.arrow").read_bytes()).read_all().num_rows == 3


def test_only_what_repeats_has_a_dictionary(tmp_path: Path) -> None:
    labels = pa.array([[{"label": "a", "score": 0.5}]] * 50)
    table = pa.table({"_row": range(50), "p": [at / 7 for at in range(50)], "label": ["a"] * 50, "labels": labels})
    write_parquet(tmp_path / "a.parquet", table)
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    columns = {group.column(at).path_in_schema: group.column(at) for at in range(group.num_columns)}
    with_dictionary = {name for name, column in columns.items() if column.has_dictionary_page}
    assert with_dictionary == {"label", "labels.list.element.label"}
    assert pq.read_table(tmp_path / "a.parquet").equals(table)
