"""A scoring job that is killed, at every named point: the same command then gives what an uninterrupted one gives."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")

from onward.act.crash import POINTS
from onward.testing import tiny_package
from tests.postgres import server

ROWS = 3000
KILLED_JOBS = Path(__file__).with_name("killed_jobs.py")
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


OUTPUTS = ["{}.jsonl", "{}_parts", "sqlite:///answers.db?table={}"]
OF_TABLES = ("shard_written", "shard_published", "assembled", "output_published")
KILLS = 18
MANY_KILLS = 170


@pytest.mark.parametrize("output", OUTPUTS)
def test_jobs_killed_at_random_moments_go_on_to_the_same_output(folder: Path, output: str) -> None:
    killed_at_random(folder, output, KILLS, seed=2)


@pytest.mark.long
@pytest.mark.parametrize("output", OUTPUTS)
def test_jobs_killed_at_hundreds_of_moments_go_on_to_the_same_output(folder: Path, output: str) -> None:
    killed_at_random(folder, output, MANY_KILLS, seed=3)


@pytest.mark.long
def test_jobs_into_postgresql_killed_at_random_moments_go_on_to_the_same_table(folder: Path) -> None:
    url = server().new_database()
    try:
        killed_at_random(folder, url + "&table={}", 60, seed=4)
    finally:
        server().drop_database(url)


def killed_at_random(folder: Path, output: str, kills: int, *, seed: int) -> None:
    alone = folder / f"random-{len(list(folder.glob('random-*')))}"
    alone.mkdir()
    (alone / "packages").symlink_to(folder / "packages")
    command = [sys.executable, str(KILLED_JOBS), str(folder / "in.jsonl"), output, str(kills), str(seed)]
    made = subprocess.run(command, cwd=alone, capture_output=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr.decode()
    found = json.loads(made.stdout)
    assert found["killed"] >= kills and found["finished"] >= 2 and found["different"] == []


@pytest.fixture(scope="module")
def table(folder: Path) -> list[tuple[object, ...]]:
    assert done(folder, "sqlite:///whole.db?table=t") == 0
    return rows_of(folder / "whole.db")


def rows_of(file: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(file) as connection:
        rows = connection.execute("select * from t order by _row").fetchall()
        tables = {row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")}
    connection.close()
    assert tables == {"t", "_onward_shards"}
    return rows


@pytest.mark.parametrize("point", [
    pytest.param(name, marks=() if name.removeprefix("batch.") in OF_TABLES else pytest.mark.long)
    for name in POINTS if name.startswith("batch.")
])  # fmt: skip
def test_a_job_into_a_table_killed_at_any_point_goes_on_to_the_same_table(
    folder: Path, table: list[tuple[object, ...]], point: str
) -> None:
    name = f"{point}.db"
    assert len(table) == ROWS
    assert done(folder, f"sqlite:///{name}?table=t", ONWARD_CRASH_AT=point) == -signal.SIGKILL
    assert done(folder, f"sqlite:///{name}?table=t") == 0
    assert rows_of(folder / name) == table


def test_two_jobs_on_one_output_exclude_each_other(folder: Path, whole: bytes) -> None:
    both = [subprocess.Popen([*COMMAND, "both.jsonl"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(2)]  # fmt: skip
    codes = sorted(one.wait(60) for one in both)
    assert codes[0] == 0 and codes[1] in (0, 75)
    assert (folder / "both.jsonl").read_bytes() == whole
