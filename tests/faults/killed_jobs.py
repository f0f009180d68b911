"""Kill scoring jobs at random moments: `python killed_jobs.py SOURCE OUTPUT KILLS SEED`, in their folder.

Each job is a process of its own, forked from this one, which has imported all that a job needs and nothing more. One is
killed, the next goes on with what it left; after a few, one may end, and is held against an uninterrupted job. Writes a
JSON line: how many were killed, how many outputs were finished and compared, and those that differ.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

import onward.runners.batch.database_rows
import onward.runners.batch.database_table  # noqa: F401 - what a job imports late
from onward.runners.batch import plan
from onward.runners.batch.records import Job
from onward.runners.batch.runner import run

_ROUNDS = 6


def content(output: str) -> object:
    """What a finished job has written, to compare."""
    if output.startswith("sqlite:///"):
        file, _, table = output.removeprefix("sqlite:///").partition("?table=")
        with sqlite3.connect(file) as connection:
            rows = connection.execute(f"select * from {table} order by rowid").fetchall()
        connection.close()
        return rows
    if output.startswith("postgresql"):
        import psycopg

        url, _, table = output.rpartition("&table=")
        with psycopg.connect(url) as server:
            return server.execute(f"select * from {table} order by _row").fetchall()
    path = Path(output)
    if path.is_dir():
        return [(part.name, part.read_bytes()) for part in sorted(path.glob("part-*"))]
    return path.read_bytes()


def begin(source: str, output: str) -> int:
    """A job in a process of its own; returns its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        run(Job(package="packages/tiny/1.0.0", source=source, output=output))
        code = 0
    finally:
        os._exit(code)


def end(child: int) -> int:
    """How a job ended: 0, an exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(source: str, output: str, kills: int, seed: int) -> None:
    """See above."""
    chance = random.Random(seed)
    plan._TRIAL_S = 0.001  # how fast batches are is not what is tested
    started_s = time.monotonic()
    assert end(begin(source, output.format("whole"))) == 0
    usual_s = time.monotonic() - started_s
    whole = content(output.format("whole"))
    killed = finished = number = 0
    different: list[str] = []
    while killed < kills:
        name = output.format(f"random_{number}")
        for _ in range(_ROUNDS):
            child = begin(source, name)
            time.sleep(chance.uniform(0, usual_s * 1.05))
            os.kill(child, signal.SIGKILL)
            code = end(child)
            killed += code == -signal.SIGKILL
            if code == 0:
                break
        if (code := end(begin(source, name))) != 0:
            different.append(f"{name} ended with {code}")
        elif content(name) != whole:
            different.append(name)
        finished += 1
        number += 1
    print(json.dumps({"killed": killed, "finished": finished, "different": different, "usual_s": usual_s}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
