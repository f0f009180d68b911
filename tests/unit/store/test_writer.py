"""One writer for many callers: they share commits, fail alone, and are told only of what is durable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from onward.errors import Overloaded
from onward.store.chain import first_break
from onward.store.memory import MemoryStore
from onward.store.records import ActionState, AuditDraft, Switch
from onward.store.sql import open_store
from onward.store.store import Conflict, Store, StoreUnavailable, Transaction
from onward.store.writer import Writer
from tests.postgres import Postgres
from tests.unit.store.samples import approval, audit, draft, event


@pytest.fixture
def writer(store: Store) -> Iterator[Writer]:
    writer = Writer(store)
    yield writer
    writer.close()


class Gate:
    """A change that keeps the writer busy until it is opened, so that what comes meanwhile shares one commit."""

    def __init__(self, writer: Writer) -> None:
        self._open, self._begun = threading.Event(), threading.Event()
        self.future = writer.submit(self)
        assert self._begun.wait(10)

    def __call__(self, _: Transaction) -> None:
        self._begun.set()
        assert self._open.wait(10)

    def open(self) -> None:
        self._open.set()


def appending(name: str) -> Callable[[Transaction], int]:
    return lambda transaction: transaction.append_audit(audit(name)).sequence


def test_a_change_gives_its_result_and_is_there_for_every_reader_when_it_does(store: Store, writer: Writer) -> None:
    for number in range(20):
        assert writer.submit(appending(f"a{number}")).result(10) == number + 1
        with store.snapshot() as reader:
            last = reader.last_audit()
        assert last is not None
        assert last.sequence == number + 1


def test_what_comes_while_a_commit_goes_on_shares_the_next_one(store: Store, writer: Writer) -> None:
    gate = Gate(writer)
    futures = [writer.submit(appending(f"a{number}")) for number in range(50)]
    before = writer.commits
    gate.open()
    assert [future.result(10) for future in futures] == list(range(1, 51))
    assert writer.commits == before + 2
    assert writer.changes == 51
    with store.snapshot() as reader:
        assert first_break(reader.audit_entries()) is None


def failing_after(*steps: Callable[[Transaction], object]) -> Callable[[Transaction], None]:
    def change(transaction: Transaction) -> None:
        for step in steps:
            step(transaction)
        raise ZeroDivisionError

    return change


@pytest.mark.parametrize(
    "undone",
    [
        [lambda tx: tx.append_audit(audit("lost"))],
        [lambda tx: tx.reserve(draft("lost"))],
        [lambda tx: tx.note_outcome("t", "p", "lost", 1.0)],
        [lambda tx: tx.append_event(event("lost", 1.0))],
        [lambda tx: tx.set_switch("all", True, "ann", 1.0)],
        [lambda tx: tx.append_audit(audit("lost")), lambda tx: tx.append_event(event("lost", 1.0))],
        [lambda tx: tx.append_event(event("lost", 1.0)), lambda tx: tx.append_audit(audit("lost"))],
        [lambda tx: tx.append_audit(audit("lost")), lambda tx: tx.audit_entries()],
        [
            lambda tx: tx.reserve(draft("lost", needs_approval=True)),
            lambda tx: tx.request_approval(approval("lost", action_id="lost")),
            lambda tx: tx.append_audit(audit("lost")),
        ],
        [lambda tx: tx.lease_actions("relay", now_s=1.0, lease_s=1.0), lambda tx: tx.append_audit(audit("lost"))],
    ],
)  # fmt: skip
def test_one_that_raises_loses_its_own_changes_and_nobody_elses(
    store: Store, writer: Writer, undone: list[Callable[[Transaction], object]]
) -> None:
    gate = Gate(writer)
    first = writer.submit(lambda tx: (tx.append_audit(audit("a")), tx.reserve(draft("a")), tx.note_outcome("t", "p", "o", 1.0)))  # fmt: skip # noqa: E501
    fails = writer.submit(failing_after(*undone))
    second = writer.submit(lambda tx: (tx.append_audit(audit("b")), tx.reserve(draft("lost"))))
    gate.open()
    first.result(10)
    second.result(10)
    with pytest.raises(ZeroDivisionError):
        fails.result(10)
    with store.snapshot() as reader:
        entries = reader.audit_entries()
        assert [entry.draft.entry_id for entry in entries] == ["a", "b"]
        assert first_break(entries) is None
        assert [action.draft.action_id for action in reader.actions(ActionState.PENDING)] == ["a", "lost"]
        assert reader.count_outcomes("t", "p", 0.0) == {"o": 1}
        assert reader.events("t", "e", as_of_s=9.0) == []
        assert reader.switches() == {}
        assert reader.approval("lost") is None


def test_a_conflict_is_the_callers_own_and_within_one_commit_too(writer: Writer) -> None:
    gate = Gate(writer)
    futures = [writer.submit(appending("same")) for _ in range(3)]
    gate.open()
    assert futures[0].result(10) == 1
    for future in futures[1:]:
        with pytest.raises(Conflict):
            future.result(10)


def test_a_change_that_catches_what_it_raised_keeps_what_it_did_before(store: Store, writer: Writer) -> None:
    def change(transaction: Transaction) -> None:
        transaction.append_audit(audit("a"))
        with pytest.raises(Conflict):
            transaction.append_audit(audit("a"))
        transaction.append_audit(audit("b"))

    writer.submit(change).result(10)
    with store.snapshot() as reader:
        assert [entry.draft.entry_id for entry in reader.audit_entries()] == ["a", "b"]


def test_when_too_much_waits_more_is_refused_with_a_time_to_come_back() -> None:
    writer = Writer(MemoryStore(), max_queue=2)
    gate = Gate(writer)
    futures = [writer.submit(appending(name)) for name in "ab"]
    with pytest.raises(Overloaded) as refused:
        writer.submit(appending("c"))
    assert refused.value.retry_after_s > 0
    assert writer.depth == 2
    gate.open()
    writer.close()
    assert [future.result(0) for future in futures] == [1, 2]


def test_closing_writes_what_waits_and_takes_nothing_more() -> None:
    store = MemoryStore()
    writer = Writer(store, max_group=3)
    gate = Gate(writer)
    futures = [writer.submit(appending(f"a{number}")) for number in range(10)]
    gate.open()
    writer.close()
    writer.close()
    assert [future.result(0) for future in futures] == list(range(1, 11))
    with pytest.raises(StoreUnavailable):
        writer.submit(appending("late"))


def test_a_change_that_was_cancelled_while_it_waited_is_not_made(store: Store, writer: Writer) -> None:
    gate = Gate(writer)
    cancelled, kept = writer.submit(appending("no")), writer.submit(appending("yes"))
    assert cancelled.cancel()
    gate.open()
    assert kept.result(10) == 1


def test_many_threads_get_each_their_own_result_and_one_whole_chain(store: Store, writer: Writer) -> None:
    sequences: list[int] = []

    def work(thread: int) -> None:
        futures = [writer.submit(appending(f"{thread}-{number}")) for number in range(100)]
        sequences.extend(future.result(30) for future in futures)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sequences) == list(range(1, 401))
    with store.snapshot() as reader:
        assert first_break(reader.audit_entries(limit=1000)) is None


def outcome(future: Future[Any]) -> str:
    error = future.exception(30)
    return type(error).__name__ if error else "done"


def test_while_postgresql_is_gone_every_change_fails_and_once_it_is_back_they_are_made(
    postgres: Postgres, postgres_url: str
) -> None:
    store = open_store(postgres_url)
    writer = Writer(store)
    try:
        writer.submit(appending("before")).result(10)
        gate = Gate(writer)
        caught = [writer.submit(appending(f"caught{number}")) for number in range(5)]
        postgres.stop()
        gate.open()
        assert {outcome(future) for future in (gate.future, *caught)} == {"StoreUnavailable"}
        gone = [writer.submit(appending(f"gone{number}")) for number in range(5)]
        errors = [future.exception(30) for future in gone]
        assert all(isinstance(error, StoreUnavailable) for error in errors)
        assert len(set(map(id, errors))) == 5
        postgres.start()
        assert writer.submit(appending("after")).result(30) == 2
        with store.snapshot() as reader:
            assert [entry.draft.entry_id for entry in reader.audit_entries()] == ["before", "after"]
    finally:
        writer.close()
        store.close()


def test_a_commit_that_the_server_ends_fails_its_group_and_the_next_is_made(postgres_url: str) -> None:
    import psycopg

    store = open_store(postgres_url)
    writer = Writer(store)

    def cut(transaction: Transaction) -> None:
        transaction.append_audit(audit("cut"))
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        time.sleep(0.1)

    assert outcome(writer.submit(cut)) == "StoreUnavailable"
    assert writer.submit(appending("next")).result(10) == 1
    writer.close()
    store.close()


def test_a_fault_of_the_store_fails_the_group_and_not_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    writer = Writer(store)
    gate = Gate(writer)
    caught = writer.submit(appending("caught"))
    with monkeypatch.context() as patched:
        patched.setattr("onward.store.memory.MemoryTransaction.end", lambda _: 1 / 0)
        gate.open()
        assert outcome(gate.future) == outcome(caught) == "StoreUnavailable"
    assert writer.submit(lambda tx: tx.set_switch("a", True, "b", 1.0)).result(10) == Switch(
        name="a", on=True, by="b", at_s=1.0
    )
    writer.close()


def test_an_invalid_record_fails_alone(writer: Writer) -> None:
    gate = Gate(writer)
    bad = AuditDraft(entry_id="a\0b", at_s=1.0, tenant="t", kind="k", subject="s", body=b"")
    futures = [writer.submit(lambda tx: tx.append_audit(bad)), writer.submit(appending("good"))]
    gate.open()
    assert [outcome(future) for future in futures] == ["InvalidRecord", "done"]
