"""A scoring job with a policy, killed: each row is decided once, and its action is in the outbox once."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="scoring jobs need the extra `batch`")
pytest.importorskip("sqlalchemy", reason="stores need the extra `decide`")

from tests.unit.runners.office import POLICY, onward, write_package

ROWS = 2000
TARGETS = """format = 1
[[target]]
action = "hold"
packages = ["fraud"]
kind = "queue"
"""
EVERY_TIME = POLICY.replace(" && now < timestamp('2001-01-01T00:00:00Z')", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deciding")
    write_package(folder / "fraud" / "1.0.0", policy=EVERY_TIME)
    (folder / "actions.toml").write_text(TARGETS, "utf-8")
    chance = random.Random(4)
    rows = [{"Amount": round(chance.uniform(1, 900), 2), "card": f"card-{at}"} for at in range(ROWS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def run(folder: Path, name: str, **environment: str) -> int:
    return onward(
        "batch", "fraud/1.0.0", "in.jsonl", f"{name}.jsonl", "--store", f"sqlite:///{name}.db", "--actions",
        "actions.toml", "--memory", "256K", cwd=folder, environment=environment,
    ).returncode  # fmt: skip


@pytest.mark.parametrize(
    ("point", "hit"),
    [("desk.writing", 1), ("desk.committed", 2), ("batch.shard_scored", 2), ("batch.shard_committed", 3)],
)
def test_each_row_is_decided_once_and_acts_once_through_a_kill(folder: Path, point: str, hit: int) -> None:
    name = f"{point}-{hit}"
    assert run(folder, name, ONWARD_CRASH_AT=point, ONWARD_CRASH_HIT=str(hit)) == -signal.SIGKILL
    assert run(folder, name) == 0
    answers = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert [answer["_row"] for answer in answers] == list(range(ROWS))
    declined = [answer for answer in answers if answer["decision"] == "decline"]
    assert 50 < len(declined) < ROWS
    decisions = [answer["decision_id"] for answer in answers]
    actions = [one["id"] for answer in answers for one in json.loads(_text(answer["decision_actions"]))]
    with sqlite3.connect(folder / f"{name}.db") as store:
        recorded = [row[0] for row in store.execute("select subject from audit where kind = 'decision'")]
        waiting = [row[0] for row in store.execute("select action_id from actions")]
    store.close()
    assert len(recorded) == ROWS and set(recorded) == set(decisions)
    assert len(waiting) == len(declined) and set(waiting) == set(actions)
    assert onward("audit", "verify", "--store", f"sqlite:///{name}.db", cwd=folder).returncode == 0


def _text(value: object) -> str:
    """JSON columns may be told as JSON, or as its text."""
    return value if isinstance(value, str) else json.dumps(value)
