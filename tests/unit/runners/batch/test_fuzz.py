"""Broken files: whatever is in them, a job ends with an output and rejects, or with an error of ours and no output."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import OnwardError
from onward.runners.batch import runner
from tests.unit.runners.batch.jobs import plan, read, rejects, score, some_rows, write

ROWS = 60
EXAMPLES = 60
FUZZED = settings(max_examples=EXAMPLES, deadline=None)


def survives(package: Path, content: bytes, suffix: str, *, keep: tuple[str, ...] = ("id",)) -> int:
    """The job over a file ends well, or as it should; returns the answers, -1 for none."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(runner, "tune", lambda *_: plan(shard_rows=16))
        folder = Path(name)
        (folder / f"in.{suffix}").write_bytes(content)
        out = folder / "out.jsonl"
        try:
            report = score(package, folder / f"in.{suffix}", out, keep=keep)
        except OnwardError as error:
            assert error.code != "INTERNAL" and str(error)
            assert not out.exists() and not (folder / "out.jsonl_run.json").exists()
            return -1
        found, refused = read(out), rejects(out)
        assert len(found) == report["answers"] and len(refused) == report["rejects"]
        numbers = [row["_row"] for row in found]
        told = [row["row"] for row in refused]
        assert numbers == sorted(set(numbers)) and told == sorted(set(told)) and not set(numbers) & set(told)
        assert len(numbers) + len(told) == report["rows"]
        assert all(row["reason"] and row["code"] for row in refused)
        return len(found)


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    folder = tmp_path_factory.mktemp("contents")
    return lambda suffix: write(folder / f"in.{suffix}", some_rows(ROWS)).read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow"])
def test_whole_files_are_answered(package: Path, contents: Callable[[str], bytes], suffix: str) -> None:
    assert survives(package, contents(suffix), suffix) == ROWS


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_files_cut_off_anywhere_are_survived(package: Path, contents: Callable[[str], bytes], suffix: str) -> None:
    whole = contents(suffix)
    chance = random.Random(5)
    for cut in [0, 1, 4, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(EXAMPLES // 2))]:
        survives(package, whole[:cut], suffix)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow"])
def test_files_with_flipped_bits_are_survived(package: Path, contents: Callable[[str], bytes], suffix: str) -> None:
    chance = random.Random(6)
    for _ in range(EXAMPLES):
        data = bytearray(contents(suffix))
        for _ in range(chance.choice((1, 1, 3, 20))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        survives(package, bytes(data), suffix)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
VALUES: Any = JSON | st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3)


@FUZZED
@given(st.lists(st.fixed_dictionaries({}, optional={"id": JSON, "x": VALUES}), max_size=20))
def test_rows_of_any_json_are_answered_or_rejected(package: Path, rows: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        content = write(Path(folder, "in.jsonl"), [{"id": 0, "x": [1, 2, 3]}, *rows]).read_bytes()
    assert survives(package, content, "jsonl") != -1


@FUZZED
@given(st.lists(st.text(max_size=12) | st.sampled_from(['{"x": [1,2,3]}', '{"x": [1e999,2,3]}', "{}"]), max_size=12))
def test_lines_of_anything_are_answered_or_rejected(package: Path, lines: list[str]) -> None:
    content = '{"id": 0, "x": [1,2,3]}\n' + "".join(line.replace("\r", " ") + "\n" for line in lines)
    survives(package, content.encode("utf-8", "surrogatepass"), "jsonl")


@FUZZED
@given(st.binary(max_size=200))
def test_bytes_of_anything_after_a_header_are_survived(package: Path, content: bytes) -> None:
    survives(package, b'id,x\n1,"[1,2,3]"\n' + content, "csv")
    survives(package, content, "csv")
    survives(package, content, "parquet")


@pytest.mark.parametrize(
    "kind", ["list", "fixed", "large", "ints", "nulls", "struct", "text", "time", "bool", "nested"]
)
def test_tables_of_any_column_type_are_answered_or_rejected(package: Path, tmp_path: Path, kind: str) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    values: dict[str, Any] = {
        "list": pa.array([[1.0, 2, 3], [1], None]), "fixed": pa.array([[1, 2, 3]] * 3, pa.list_(pa.float32(), 3)),
        "large": pa.array([[1, 2, 3]] * 3, pa.large_list(pa.float64())), "ints": pa.array([[1, 2, 3], [None] * 3, []]),
        "nulls": pa.nulls(3), "struct": pa.array([{"a": 1}] * 3), "text": pa.array(["[1,2,3]", "", "x"]),
        "time": pa.array([datetime.datetime.now()] * 3), "bool": pa.array([True, False, None]),
        "nested": pa.array([[[1.0, 2, 3]], [[]], [None]]),
    }  # fmt: skip
    expected = {"list": 1, "fixed": 3, "large": 3, "ints": 1, "text": 1}
    file = tmp_path / "in.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "x": values[kind]}), file)
    assert survives(package, file.read_bytes(), "parquet", keep=("*",)) == expected.get(kind, 0)
