"""A job's answers do not depend on how its work is cut, by whom it is done, or where it was interrupted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.runners.batch import job as jobs
from onward.runners.batch import runner
from onward.runners.batch.errors import SourceUnreadable, TooManyRejects
from onward.runners.batch.output import Output
from onward.runners.batch.records import Plan
from tests.unit.runners.batch.jobs import answers, plan, read, rejects, score, some_rows, write

ROWS = 400
BROKEN = (3, 50, 51, 399)
PLANS = st.builds(
    Plan, shard_rows=st.integers(1, 500), batch_rows=st.integers(1, 40), workers=st.integers(1, 4), threads=st.just(1)
)
SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def threads() -> set[threading.Thread]:
    """Those that run already: libraries keep some for the whole process."""
    return set(threading.enumerate())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, Any]] = some_rows(ROWS)
    for at in BROKEN:
        rows[at] = {"id": at, "x": "words"}
    return write(tmp_path_factory.mktemp("source") / "in.jsonl", rows)


@pytest.fixture(params=["jsonl", "parquet", "csv", "folder"])
def name(request: pytest.FixtureRequest) -> str:
    return "out" if request.param == "folder" else f"out.{request.param}"


def as_planned(monkeypatch: pytest.MonkeyPatch, wanted: Plan) -> None:
    monkeypatch.setattr(runner, "tune", lambda *_: wanted)


@SETTINGS
@given(wanted=PLANS)
def test_a_file_is_the_same_to_the_byte_however_the_work_is_cut(package: Path, source: Path, wanted: Plan) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        as_planned(monkeypatch, plan())
        usual = score(package, source, f"{folder}/usual.jsonl")
        as_planned(monkeypatch, wanted)
        report = score(package, source, f"{folder}/out.jsonl")
        assert report["output"]["sha256"] == usual["output"]["sha256"]
        assert (report["rows"], report["answers"], report["rejects"]) == (ROWS, ROWS - 4, 4)
        assert rejects(Path(folder, "out.jsonl")) == rejects(Path(folder, "usual.jsonl"))
        assert [row["row"] for row in rejects(Path(folder, "out.jsonl"))] == list(BROKEN)


@SETTINGS
@given(wanted=PLANS, part=st.integers(0, 450), where=st.booleans())
def test_any_part_of_the_rows_is_that_part_of_the_answers(
    package: Path, source: Path, wanted: Plan, part: int, where: bool
) -> None:
    chosen = {"where": f"id >= {part}"} if where else {"limit": part}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        as_planned(monkeypatch, wanted)
        score(package, source, f"{folder}/out.jsonl", **chosen)
        good = [at for at in range(ROWS) if at not in BROKEN and (at >= part if where else at < part)]
        found = read(Path(folder, "out.jsonl"))
        assert [row["_row"] for row in found] == [row["id"] for row in found] == good
        if found:
            wanted_answers = answers([some_rows(ROWS)[at] for at in good])
            assert np.allclose([row["y"] for row in found], wanted_answers, rtol=1e-6)


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_interrupted_after_any_shard_it_goes_on_to_the_same_output(
    package: Path,
    source: Path,
    threads: set[threading.Thread],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stop: int,
) -> None:
    as_planned(monkeypatch, plan())
    whole = score(package, source, tmp_path / f"whole-{name}")
    written = []
    real = Output.write_shard

    def write_shard(self: Output, index: int, *rest: Any) -> str:
        if len(written) >= stop:
            raise KeyboardInterrupt
        written.append(index)
        return real(self, index, *rest)

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(Output, "write_shard", write_shard)
        score(package, source, tmp_path / name)
    assert not Output(str(tmp_path / name)).exists
    report = score(package, source, tmp_path / name)
    assert report["output"]["sha256"] == whole["output"]["sha256"]
    assert not list(tmp_path.glob("**/*work")) and not list(tmp_path.glob("**/*.making"))
    assert set(threading.enumerate()) <= threads


def test_too_many_rejects_end_the_job_with_the_rejects_told_and_it_can_be_continued(
    package: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_planned(monkeypatch, plan(workers=1))
    with pytest.raises(TooManyRejects, match="at most 1"):
        score(package, source, tmp_path / "out.jsonl", max_rejects=1)
    assert not (tmp_path / "out.jsonl").exists() and len(rejects(tmp_path / "out.jsonl")) >= 2
    assert score(package, source, tmp_path / "out.jsonl", max_rejects=4)["rejects"] == 4


def test_a_source_that_breaks_in_the_middle_ends_the_job_without_an_output(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_planned(monkeypatch, plan())
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(4):
        write(folder / f"{part}.parquet", some_rows(100, seed=part))
    whole = (folder / "2.parquet").read_bytes()
    middle = bytearray(whole)
    middle[50:1500] = bytes(1450)
    (folder / "2.parquet").write_bytes(middle)
    with pytest.raises(SourceUnreadable, match=r"2\.parquet"):
        score(package, folder, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    (folder / "2.parquet").write_bytes(whole)
    score(package, folder, tmp_path / "out.jsonl", restart=True)
    assert len(read(tmp_path / "out.jsonl")) == 400


def test_only_a_few_shards_are_in_memory_at_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_planned(monkeypatch, plan(shard_rows=10))
    source = write(tmp_path / "in.jsonl", some_rows(1000))
    alive = most = 0
    counting = threading.Lock()
    chunks, shard = jobs.Run._chunks, jobs.Run._shard

    def counted(self: jobs.Run, first: int) -> Iterator[Any]:
        nonlocal alive, most
        for chunk in chunks(self, first):
            with counting:
                alive += 1
                most = max(most, alive)
            yield chunk

    def done(self: jobs.Run, index: int, chunk: Any) -> Any:
        nonlocal alive
        try:
            return shard(self, index, chunk)
        finally:
            with counting:
                alive -= 1

    monkeypatch.setattr(jobs.Run, "_chunks", counted)
    monkeypatch.setattr(jobs.Run, "_shard", done)
    score(package, source, tmp_path / "out.jsonl")
    assert most <= 2 * plan().workers + 1


def test_an_empty_input_gives_an_empty_output(package: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "in.parquet"
    write(source, some_rows(1))
    report = score(package, source, tmp_path / name, limit=0)
    assert ((report["rows"], report["answers"]) == (0, 0) and Output(str(tmp_path / name)).exists) or name == "out"


def test_a_failing_thread_ends_the_others(
    package: Path, source: Path, threads: set[threading.Thread], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError("the last straw")

    monkeypatch.setattr(jobs.Run, "_shard", fail)
    with pytest.raises(MemoryError):
        score(package, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    assert set(threading.enumerate()) <= threads
