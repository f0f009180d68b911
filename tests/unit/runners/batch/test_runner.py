"""A scoring job: the answers are the package's, row by row, in every form of file; what is wrong is told and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")

import pyarrow as pa
import pyarrow.parquet as pq

from onward.errors import OnwardError
from onward.pipeline import Pipeline
from onward.runners.batch.errors import JobChanged, TooManyRejects
from onward.runners.batch.records import Job
from onward.runners.batch.runner import run
from onward.testing import tiny_package

ROWS = 700


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("packages") / "tiny" / "1.0.0")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [{"id": at, "x": [round(float(value), 4) for value in rng.normal(0, 5, 3)]} for at in range(ROWS)]


def job(package: Path, source: Path, output: Path, **options: Any) -> Mapping[str, Any]:
    usual: dict[str, Any] = {
        "columns": {}, "keep": ("id",), "outputs": (), "where": "", "limit": None, "max_rejects": None,
        "memory_bytes": 1 << 28, "restart": False, "decide": True, "store": "", "actions": None, "key_file": None,
        "tenant": "default",
    }  # fmt: skip
    return run(Job(package=str(package), source=str(source), output=str(output), **(usual | options)))


def write_jsonl(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def read(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize("of", ["parquet", "jsonl"])
def test_every_row_is_answered_as_the_package_answers_it(
    package: Path, rows: list[dict[str, Any]], tmp_path: Path, of: str, form: str
) -> None:
    source = tmp_path / f"in.{of}"
    if of == "jsonl":
        write_jsonl(source, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    report = job(package, source, tmp_path / f"out.{form}")
    assert (report["rows"], report["answers"], report["rejects"]) == (ROWS, ROWS, 0)
    found = read(tmp_path / f"out.{form}")
    assert [one["id"] for one in found] == list(range(ROWS))
    with Pipeline.open(package) as pipeline:
        wanted = [result.answer["y"] for result in pipeline.batch([{"x": row["x"]} for row in rows])]
    assert np.allclose([one["y"] for one in found], wanted, rtol=1e-6)


def test_the_same_job_again_is_done_already_and_gives_the_same_digest_elsewhere(
    package: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    first = job(package, source, tmp_path / "a.jsonl")
    again = job(package, source, tmp_path / "a.jsonl")
    other = job(package, source, tmp_path / "b.jsonl")
    assert again["repeated"] and again["output"]["sha256"] == first["output"]["sha256"] == other["output"]["sha256"]


def test_another_input_or_options_are_refused_unless_the_job_starts_over(
    package: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.jsonl"
    job(package, source, out)
    with pytest.raises(JobChanged):
        job(package, source, out, limit=10)
    write_jsonl(source, rows[:-1])
    with pytest.raises(JobChanged):
        job(package, source, out)
    assert job(package, source, out, restart=True)["rows"] == ROWS - 1


def test_a_row_that_does_not_fit_is_a_reject_with_its_number_and_reason(
    package: Path, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    broken = [dict(row) for row in rows]
    broken[5]["x"] = [1.0]
    broken[17]["x"] = "words"
    source = write_jsonl(tmp_path / "in.jsonl", broken)
    report = job(package, source, tmp_path / "out.jsonl")
    assert (report["answers"], report["rejects"]) == (ROWS - 2, 2)
    rejects = [json.loads(line) for line in (tmp_path / "out.jsonl_rejects.jsonl").read_text().splitlines()]
    assert [one["row"] for one in rejects] == [5, 17]
    assert all(one["column"] == "x" and one["code"] and one["reason"] for one in rejects)
    with pytest.raises(TooManyRejects):
        job(package, source, tmp_path / "few.jsonl", max_rejects=1)
    assert not (tmp_path / "few.jsonl").exists()


def test_only_rows_that_are_wanted_are_answered(package: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    assert job(package, source, tmp_path / "few.jsonl", limit=33)["rows"] == 33
    job(package, source, tmp_path / "some.jsonl", where="id >= 100 and id < 120")
    assert [one["id"] for one in read(tmp_path / "some.jsonl")] == list(range(100, 120))


def test_what_cannot_be_read_or_is_not_there_is_said(package: Path, tmp_path: Path) -> None:
    for name, text in (("none.parquet", None), ("text.parquet", "words"), ("picture.bmpp", "x")):
        file = tmp_path / name
        if text is not None:
            file.write_text(text)
        with pytest.raises(OnwardError):
            job(package, file, tmp_path / "out.jsonl", keep=())
        assert not (tmp_path / "out.jsonl").exists()
