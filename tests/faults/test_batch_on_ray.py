"""A scoring job on a Ray cluster of two nodes, one of which dies: the output is that of a job without Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")
pytest.importorskip("ray", reason="Ray is the extra `ray`")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.packages import mlp_package

ROWS = 6_000
WAIT_S = 120
SIZES = (30, 3072, 3072, 1)  # a row takes most of a millisecond: there is a moment at which to kill


def job(folder: Path, out: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "onward", "batch", str(folder / "mlp"), "in.parquet", out, "--json", *options]


def finished(folder: Path, out: str, *options: str) -> dict[str, Any]:
    made = subprocess.run(job(folder, out, *options), cwd=folder, capture_output=True, text=True, timeout=WAIT_S)
    assert made.returncode == 0, made.stderr
    report: dict[str, Any] = json.loads(made.stdout)
    return report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-ray")
    mlp_package(folder / "mlp", sizes=SIZES)
    values = np.random.default_rng(4).normal(size=(ROWS, SIZES[0])).tolist()
    table = pa.table({"id": range(ROWS), "features": pa.array(values, pa.list_(pa.float64()))})
    pq.write_table(table, folder / "in.parquet", row_group_size=500)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    return str(finished(folder, "whole.parquet", "--keep", "id")["output"]["sha256"])


def test_ray_gives_the_same_bytes_and_goes_on_with_what_a_killed_job_began(folder: Path, whole: str) -> None:
    killed = subprocess.run(
        job(folder, "began.parquet", "--keep", "id"), cwd=folder, capture_output=True, timeout=WAIT_S, check=False,
        env=os.environ | {"ONWARD_CRASH_AT": "batch.shard_committed"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    report = finished(folder, "began.parquet", "--keep", "id", "--engine", "ray")
    assert report["output"]["sha256"] == whole
    assert (report["rows"], report["answers"], report["rejects"]) == (ROWS, ROWS, 0)


def test_a_node_that_dies_with_a_running_task_after_a_finished_one_changes_nothing(folder: Path, whole: str) -> None:
    with two_nodes() as (cluster, address):
        argv = job(folder, "survived.parquet", "--keep", "id", "--engine", "ray", "--ray-address", address)
        running = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with running:
            wait_for(folder / "survived.parquet_work" / "journal.jsonl", shards=3)
            assert running.poll() is None
            print("kill", file=cluster.stdin, flush=True)
            said, complaints = running.communicate(timeout=WAIT_S)
        assert running.returncode == 0, complaints
        assert json.loads(said.splitlines()[-1])["output"]["sha256"] == whole  # Ray tells of the node before


@contextmanager
def two_nodes() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process that has the cluster, and the cluster's address."""
    argv = [sys.executable, str(Path(__file__).with_name("two_nodes.py"))]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as cluster:
        assert cluster.stdout is not None and cluster.stdin is not None
        said = next(line for line in cluster.stdout if line.startswith("cluster at "))
        try:
            yield cluster, said.split()[-1]
        finally:
            cluster.stdin.close()
            cluster.wait(WAIT_S)


def wait_for(journal: Path, *, shards: int) -> None:
    """Until so many shards are durable: both nodes have answered one then, and hold the next."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        if journal.is_file() and journal.read_bytes().count(b'"kind":"shard"') >= shards:
            return
        time.sleep(0.02)
    raise TimeoutError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--store", "sqlite:///decisions.db"], "--store"),
        (["--ray-address", "127.0.0.1:1"], "--ray-address"),
    ],
)
def test_what_ray_cannot_do_is_told(folder: Path, options: list[str], said: str) -> None:
    made = subprocess.run(
        job(folder, "refused.parquet", "--engine", "ray", *options), cwd=folder, capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert made.returncode == 64
    assert said in made.stderr
    assert not (folder / "refused.parquet").exists()


def test_rows_that_can_only_be_read_from_the_start_are_refused(folder: Path) -> None:
    (folder / "in.csv").write_text("features\n1\n", "utf-8")
    argv = job(folder, "refused.parquet", "--engine", "ray")
    argv[argv.index("in.parquet")] = "in.csv"
    made = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert made.returncode == 64
    assert "Parquet or Arrow" in made.stderr
