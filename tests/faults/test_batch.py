"""A scoring job that is killed, at every named point: the same command then gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")

from onward.act.crash import POINTS
from onward.testing import tiny_package

ROWS = 3000
MOMENTS = 20
COMMAND = [sys.executable, "-m", "onward", "batch", "packages/tiny/1.0.0", "in.jsonl"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch")
    tiny_package(folder / "packages" / "tiny" / "1.0.0")
    chance = random.Random(1)
    lines = [json.dumps({"x": [round(chance.uniform(-9, 9), 3) for _ in range(3)]}) + "\n" for _ in range(ROWS)]
    (folder / "in.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    assert done(folder, "whole.jsonl") == 0
    return (folder / "whole.jsonl").read_bytes()


def done(folder: Path, out: str, **environment: str) -> int:
    made = subprocess.run(
        [*COMMAND, out], cwd=folder, env=os.environ | environment, capture_output=True, timeout=60, check=False
    )
    return made.returncode


@pytest.mark.parametrize("point", [name for name in POINTS if name.startswith("batch.")])
def test_a_job_killed_at_any_point_goes_on_to_the_same_output(folder: Path, whole: bytes, point: str) -> None:
    out = f"{point}.jsonl"
    assert done(folder, out, ONWARD_CRASH_AT=point) == -signal.SIGKILL
    assert done(folder, out) == 0
    assert (folder / out).read_bytes() == whole


def test_a_job_killed_at_random_moments_goes_on_to_the_same_output(folder: Path, whole: bytes) -> None:
    chance = random.Random(2)
    kills = 0
    for number in range(MOMENTS):
        out = f"random-{number % 4}.jsonl"
        running = subprocess.Popen([*COMMAND, out], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 0.9))
        running.kill()
        kills += running.wait() == -signal.SIGKILL
    for number in range(4):
        assert done(folder, f"random-{number}.jsonl") == 0
        assert (folder / f"random-{number}.jsonl").read_bytes() == whole
    assert kills > 0


def test_two_jobs_on_one_output_exclude_each_other(folder: Path, whole: bytes) -> None:
    both = [subprocess.Popen([*COMMAND, "both.jsonl"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)]  # fmt: skip
    codes = sorted(one.wait(60) for one in both)
    assert codes[0] == 0 and codes[1] in (0, 75)
    assert (folder / "both.jsonl").read_bytes() == whole
