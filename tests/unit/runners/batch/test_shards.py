"""One shard: which rows are wanted, what is kept of them, and what becomes of a kept value that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from onward.errors import UsageError
from tests.unit.runners.batch.jobs import answers, read, rejects, score, write


def test_kept_columns_stand_before_the_answers_in_the_order_asked_for(package: Path, tmp_path: Path) -> None:
    rows = [{"id": at, "note": "n", "x": [1, 2, 3], "more": at / 2} for at in range(5)]
    source = write(tmp_path / "in.parquet", rows)
    score(package, source, tmp_path / "some.parquet", keep=("more", "id"))
    assert list(read(tmp_path / "some.parquet")[0]) == ["_row", "more", "id", "y"]
    score(package, source, tmp_path / "all.parquet", keep=("*",))
    assert list(read(tmp_path / "all.parquet")[0]) == ["_row", "id", "note", "x", "more", "y"]
    score(package, source, tmp_path / "none.parquet", keep=())
    assert list(read(tmp_path / "none.parquet")[0]) == ["_row", "y"]
    assert read(tmp_path / "some.parquet")[4]["more"] == 2.0


def test_a_kept_column_that_is_not_there_or_has_the_name_of_an_answer_is_refused(package: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"y": 1, "x": [1, 2, 3]}])
    for keep in (("y",), ("none",), ("_row",)):
        with pytest.raises(UsageError, match="--keep"):
            score(package, source, tmp_path / "out.jsonl", keep=keep)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_kept_number_that_is_none_is_a_reject_and_a_kept_text_shows_anything(package: Path, tmp_path: Path) -> None:
    lines = [{"id": 1, "t": "a", "x": [1, 2, 3]}] * 1000  # what a column holds is told by the first thousand rows
    odd = [{"id": "one", "t": "b", "x": [1, 2, 3]}, {"id": 2, "t": {"deep": [1]}, "x": [1, 2, 3]}]
    source = write(tmp_path / "in.jsonl", [*lines, *odd])
    report = score(package, source, tmp_path / "out.jsonl", keep=("id", "t"))
    assert (report["answers"], report["rejects"]) == (1001, 1)
    (reject,) = rejects(tmp_path / "out.jsonl")
    assert (reject["row"], reject["column"], reject["code"]) == (1000, "id", "WRONG_DATATYPE")
    assert json.loads(read(tmp_path / "out.jsonl")[-1]["t"]) == {"deep": [1]}


def test_rows_that_a_condition_leaves_out_are_neither_answers_nor_rejects(package: Path, tmp_path: Path) -> None:
    rows = [{"id": at, "x": [at, 0, 0] if at % 2 else "words"} for at in range(20)]
    source = write(tmp_path / "in.jsonl", rows)
    report = score(package, source, tmp_path / "out.jsonl", where="id >= 5 and id <= 9")
    assert (report["rows"], report["answers"], report["rejects"]) == (20, 3, 2)
    found = read(tmp_path / "out.jsonl")
    assert [row["_row"] for row in found] == [5, 7, 9]
    assert [row["y"] for row in found] == answers([rows[at] for at in (5, 7, 9)]).tolist()


def test_types_of_kept_columns_stay(package: Path, tmp_path: Path) -> None:
    import datetime
    import decimal

    import pyarrow.parquet as pq

    table = pa.table({
        "x": [[1.0, 2, 3]], "day": [datetime.date(2026, 1, 2)], "price": [decimal.Decimal("1.50")], "raw": [b"\0"],
        "small": pa.array([7], pa.int8()), "at": pa.array([1], pa.timestamp("ms", "UTC")),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "in.parquet")
    score(package, tmp_path / "in.parquet", tmp_path / "out.parquet", keep=("*",))
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.drop_columns(["_row", "y"]).equals(pq.read_table(tmp_path / "in.parquet"))
    score(package, tmp_path / "in.parquet", tmp_path / "out.jsonl", keep=("*",))
    assert read(tmp_path / "out.jsonl")[0]["day"] == "2026-01-02"
