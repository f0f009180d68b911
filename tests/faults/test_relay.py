"""Relays that are killed with SIGKILL at every point of their work, on SQLite and PostgreSQL: one effect each.

The relays are real processes, forked from one that has the libraries loaded already, and the target a real HTTP server
that outlives them. Time is given to them, so that leases run out without waiting.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.act.crash import POINTS
from onward.store.chain import first_break
from onward.store.records import ActionDraft, ActionState
from onward.store.sql import open_store
from onward.store.store import Store
from tests.postgres import server
from tests.unit.act.outboxes import draft, reserve, state
from tests.unit.act.receiver import Receiver

RELAY_POINTS = [name for name in POINTS if name.startswith("relay.")]
KILLED = -9
NAMES = ("plain", "later", "cut", "bad")
ACTIONS = "\n".join(
    ["format = 1"]
    + [
        f"""
[[target]]
action = "{name}"
packages = ["fraud"]
kind = "webhook"
url = "URL"
status_url = "STATUS"
allow_private = true
timeout_s = 5
reconcile_after_s = 1
concurrency = 4
breaker_failures = 1000
"""
        for name in NAMES
    ]
)
LEDGER = """
[connection.ledger]
url_file = "ledger.url"

[[target]]
action = "ledger"
packages = ["fraud"]
kind = "sql"
connection = "ledger"
statement = "UPDATE ledger SET booked = booked + 1 WHERE id = :card"
rows = 1
reconcile_after_s = 1
breaker_failures = 1000
"""
# One line of JSON is one relay: forked, run, waited for; its wait status is the answer.
NURSERY = """
import json, os, sys, time, traceback
import httpcore, msgspec, sqlalchemy, psycopg
import onward.store.sql.database, onward.decide.audit, onward.package.sections

def work(job):
    from pathlib import Path
    from onward.act.relay import Relay, RelayOptions
    from onward.act.targets import load_targets
    from onward.store.sql import open_store
    from onward.store.records import ActionState
    from onward.store.writer import Writer
    store = open_store(job["store"])
    options = RelayOptions(seed=job["seed"], poll_s=0.02, housekeeping_s=0.1, lease_margin_s=job["margin_s"])
    writer = Writer(store) if job["threads"] else None
    relay = Relay(store, load_targets(Path(job["actions"])), owner=str(os.getpid()), writer=writer, options=options)
    ends = {ActionState.DEAD}
    def waiting():
        with store.snapshot() as reader:
            return set(reader.backlog()) - ends
    if job["threads"]:
        relay.start()
        until_s = time.time() + job["for_s"]
        while time.time() < until_s:
            time.sleep(0.05)
            try:
                if not waiting():
                    break
            except Exception:
                pass
        relay.stop(10.0)
        writer.close()
    else:
        for number in range(60):
            if not waiting():
                break
            relay.run_once(job["now_s"] + 100.0 * number)
    store.close()

for line in sys.stdin:
    job = json.loads(line)
    children = []
    for _ in range(job["count"]):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.environ.update(job["env"])
                work(job)
                status = 0
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(statuses), flush=True)
"""


class Nursery:
    """Starts relays."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, **job: Any) -> list[int]:
        """Relays with these settings, side by side; their exit codes."""
        usual: dict[str, Any] = {"env": {}, "seed": 1, "now_s": 0.0, "threads": False, "for_s": 60.0}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(usual | {"count": 1, "margin_s": 30.0} | job) + "\n")
        self._process.stdin.flush()
        statuses: list[int] = json.loads(self._process.stdout.readline())
        return statuses

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver(by_key=behave)
    yield receiver
    receiver.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'onward.db'}"
    else:
        address = server().new_database()
        yield address
        server().drop_database(address)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def actions(tmp_path: Path, receiver: Receiver) -> str:
    (tmp_path / "ledger.url").write_text(f"sqlite:///{tmp_path / 'ledger.db'}")
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        ledger.execute("CREATE TABLE ledger (id TEXT PRIMARY KEY, booked INTEGER)")
        ledger.executemany("INSERT INTO ledger VALUES (?, 0)", [(f"c{number}",) for number in range(200)])
    ledger.close()
    file = tmp_path / "actions.toml"
    file.write_text(ACTIONS.replace("URL", receiver.url).replace("STATUS", receiver.status_url) + LEDGER)
    return str(file)


def booked(tmp_path: Path) -> dict[str, int]:
    """What SQL actions did, on a statement that would do it twice if it ran twice."""
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        found = dict(ledger.execute("SELECT id, booked FROM ledger WHERE booked > 0").fetchall())
    ledger.close()
    return found


def behave(key: str, earlier: int) -> str:
    """What the target does: each name of an action is one way to go wrong at first."""
    name = key.split(":")[1]
    if name == "bad":
        return "422"
    return {"plain": "ok", "later": "503 soon", "cut": "cut after"}[name] if earlier == 0 else "ok"


def outcome_is_right(store: Store, receiver: Receiver, drafts: list[ActionDraft]) -> None:
    for each in drafts:
        expected = (ActionState.DEAD, 0) if each.name == "bad" else (ActionState.DONE, 1)
        assert (state(store, each), receiver.effects[each.idempotency_key]) == expected, each.idempotency_key
    with store.snapshot() as reader:
        entries = reader.audit_entries(limit=100_000)
        ends = Counter(entry.draft.subject for entry in entries if entry.draft.kind in ("action.done", "action.dead"))
    assert first_break(entries) is None
    assert {each.action_id: ends[each.action_id] for each in drafts} == {each.action_id: 1 for each in drafts}


@pytest.mark.parametrize("times", [2, pytest.param(6, marks=pytest.mark.long)])
def test_killed_at_every_point_and_started_again_each_action_has_exactly_one_effect(
    nursery: Nursery, store: Store, url: str, actions: str, receiver: Receiver, tmp_path: Path, times: int
) -> None:
    log, killed, drafts, now_s = tmp_path / "points", Counter[str](), [], 1000.0
    for round_number, point in enumerate(name for name in RELAY_POINTS for _ in range(times)):
        these = [draft(name, decision=f"d{round_number}") for name in NAMES]
        drafts += these
        reserve(store, *these, draft("ledger", decision=f"d{round_number}", card=f"c{round_number}"))
        # First a relay that dies with a lease, so that there is one to settle; then one that dies at the point; at the
        # second turn of a point, a little later; then one that is left to work.
        for at, hit in (("relay.executing", 1 + round_number % 3), (point, 1 + round_number % 2), ("", 1)):
            env = {"ONWARD_CRASH_AT": at, "ONWARD_CRASH_HIT": str(hit), "ONWARD_CRASH_LOG": str(log)}
            [status] = nursery.run(store=url, actions=actions, env=env, now_s=now_s, seed=round_number)
            # What the first one did already, the second may not come to any more.
            assert status in ({"relay.executing": (KILLED,), "": (0,)}.get(at) or (KILLED, 0))
            killed[at] += status == KILLED
            now_s += 10_000.0
        outcome_is_right(store, receiver, these)
    outcome_is_right(store, receiver, drafts)
    assert booked(tmp_path) == {f"c{number}": 1 for number in range(len(RELAY_POINTS) * times)}
    assert set(log.read_text().split()) == set(RELAY_POINTS)
    assert {name for name in RELAY_POINTS if not killed[name]} == set()
    assert killed.total() >= 25 * times


def test_relays_side_by_side_never_send_the_same_action_twice(
    nursery: Nursery, store: Store, url: str, actions: str, receiver: Receiver
) -> None:
    receiver.by_key = lambda key, earlier: "ok"
    drafts = [draft("plain", decision=f"d{number}") for number in range(120)]
    reserve(store, *drafts)
    assert nursery.run(store=url, actions=actions, threads=True, count=2) == [0, 0]
    assert receiver.posts == {each.idempotency_key: 1 for each in drafts}
    outcome_is_right(store, receiver, drafts)
    with store.snapshot() as reader:
        owners = {entry.draft.kind for entry in reader.audit_entries(limit=10_000)}
    assert owners == {"action.leased", "action.executing", "action.done"}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_postgresql_that_crashes_in_the_middle_costs_no_effect_and_doubles_none(
    nursery: Nursery, store: Store, url: str, actions: str, receiver: Receiver
) -> None:
    drafts = [draft(name, decision=f"d{number}") for number in range(40) for name in NAMES]
    reserve(store, *drafts)
    store.close()
    crashes: list[int] = []

    def crash() -> None:
        for _ in range(2):
            before, until_s = len(receiver.received), time.monotonic() + 20.0
            while len(receiver.received) < before + 10 and time.monotonic() < until_s:
                time.sleep(0.005)
            server().stop("immediate")
            crashes.append(len(receiver.received))
            time.sleep(0.5)
            server().start()

    thread = threading.Thread(target=crash)
    thread.start()
    statuses = nursery.run(store=url, actions=actions, threads=True, count=2, margin_s=1.0, for_s=60.0)
    thread.join()
    assert statuses == [0, 0]
    assert len(crashes) == 2 and crashes[0] < len(drafts)
    again = open_store(url)
    outcome_is_right(again, receiver, drafts)
    again.close()
