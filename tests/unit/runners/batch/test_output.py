"""Outputs: whole or not there; what a full disk or a forbidden folder says."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from onward.runners.batch.errors import OutputBusy, OutputFailed
from onward.runners.batch.output import Output
from onward.runners.batch.records import Reject
from tests.unit.runners.batch.jobs import read, rejects, score, some_rows, write

SCHEMA = pa.schema([("_row", pa.int64()), ("y", pa.float32())])


def part(first: int, count: int = 4) -> pa.Table:
    return pa.table([np.arange(first, first + count), np.zeros(count, np.float32)], schema=SCHEMA)


def begun(name: Path) -> Output:
    output = Output(str(name))
    output.work.mkdir(parents=True)
    return output


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "folder"])
def test_an_output_has_its_shards_in_order_and_its_name_at_the_end(tmp_path: Path, name: str) -> None:
    output = begun(tmp_path / name)
    digests = {index: output.write_shard(index, part(4 * index), []) for index in (2, 0, 1)}
    assembly = output.assemble(SCHEMA, "run")
    for index in range(3):
        assembly.add(digests[index])
        assert not output.exists
    assembly.finish()
    assert output.exists and [row["_row"] for row in read(output.path)] == list(range(12))


@pytest.mark.parametrize("name", ["a.parquet", "folder"])
def test_finishing_goes_on_where_a_crash_stopped_it(tmp_path: Path, name: str) -> None:
    output = begun(tmp_path / name)
    digests = [output.write_shard(index, part(4 * index), []) for index in range(2)]
    found = []
    for _ in range(2):
        if output.is_folder or not found:  # a file's shards are still there, those of a folder have moved
            assembly = output.assemble(SCHEMA, "run")
            for digest in digests:
                assembly.add(digest)
            found.append(assembly.finish())
    assert len(set(found)) == 1 and [row["_row"] for row in read(output.path)] == list(range(8))


def test_an_abandoned_output_leaves_its_shards_and_nothing_else(tmp_path: Path) -> None:
    output = begun(tmp_path / "a.parquet")
    output.write_shard(0, part(0), [])
    output.assemble(SCHEMA, "run").abandon()
    assert not output.exists and sorted(path.name for path in output.work.iterdir()) == ["part-000000.arrow"]


def test_rejects_are_collected_in_order_and_gone_where_a_shard_has_none_any_more(tmp_path: Path) -> None:
    output = begun(tmp_path / "a.jsonl")
    for index in (1, 0):
        output.write_shard(index, part(4 * index), [Reject(row=index, column="x", reason="r", code="C")])
    assert output.collect_rejects(2) == 2
    assert [row["row"] for row in rejects(output.path)] == [0, 1]
    output.write_shard(0, part(0), [])
    output.write_shard(1, part(0), [])
    assert output.collect_rejects(2) == 0 and not output.rejects.exists()


def test_clearing_removes_what_a_job_made_and_only_that(tmp_path: Path) -> None:
    for name in ("folder", "b.csv"):
        output = begun(tmp_path / name)
        output.write_shard(0, part(0), [])
        for file in (output.run, output.rejects):
            file.write_text("x")
        (output.folder / "notes.txt").write_text("mine")
        if output.is_folder:
            (output.path / "part-000000.parquet").write_text("x")
        else:
            output.path.write_text("x")
        output.clear()
        assert not output.exists and not output.work.exists() and not output.run.exists()
        assert (output.folder / "notes.txt").exists()


def test_two_outputs_in_one_folder_do_not_exclude_each_other(tmp_path: Path) -> None:
    with (
        Output(str(tmp_path / "a.csv")).locked("a"),
        Output(str(tmp_path / "b.csv")).locked("b"),
        pytest.raises(OutputBusy),
        Output(str(tmp_path / "a.csv")).locked("a"),
    ):
        pass


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process can have more bytes: as on a full disk, writes fail."""
    limit = 20_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.jsonl", "folder"])
def test_a_file_that_cannot_grow_ends_the_job_and_leaves_no_output(
    package: Path, tmp_path: Path, name: str, small_files: int
) -> None:
    source = tmp_path / "in.jsonl"
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    write(source, some_rows(4000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (small_files, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    with pytest.raises(OutputFailed, match="File too large"):
        score(package, source, tmp_path / name)
    output = Output(str(tmp_path / name))
    assert not output.exists and not output.run.exists()
    resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
    assert score(package, source, tmp_path / name)["answers"] == 4000  # once there is room, it goes on
    assert [row["id"] for row in read(tmp_path / name)] == list(range(4000)) if name != "a.csv" else True


def test_a_full_disk_is_said_where_syncing_finds_it(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = write(tmp_path / "in.jsonl", some_rows(100))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFailed, match="No space left on device"):
        score(package, source, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["file/out.csv", "file/deeper/out", "/proc/out.csv"])
def test_a_place_that_cannot_be_written_to_is_said(package: Path, tmp_path: Path, name: str) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(10))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed, match=r"out"):
        score(package, source, tmp_path / name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_without_permission_the_command_says_so(package: Path) -> None:
    """As nobody, since root may write everywhere; the folder for temporary files is closed to nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(package, folder / "tiny")
        source = write(folder / "in.jsonl", some_rows(10))
        closed = folder / "closed.jsonl"
        closed.write_text("")
        closed.chmod(0o600)
        made = [
            as_nobody(folder / "tiny", source, folder / "out.csv"),
            as_nobody(folder / "tiny", closed, "/dev/shm/o.csv"),
        ]
    assert made[0].startswith("OUTPUT_FAILED") and "Permission denied" in made[0]
    assert made[1].startswith("SOURCE_UNREADABLE") and "Permission denied" in made[1]


def as_nobody(package: Path, source: Path, output: Path) -> str:
    program = """
import os, sys
from tests.unit.runners.batch.jobs import score
from onward.errors import OnwardError
package, source, output = sys.argv[1:]
os.seteuid(65534)
try:
    score(package, source, output)
except OnwardError as error:
    print(error.code, error)
"""
    command = [sys.executable, "-c", program, str(package), str(source), str(output)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return made.stdout
