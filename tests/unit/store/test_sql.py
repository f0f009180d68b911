"""What is special to the store in a database: durability, versions, two processes, and what is left of an erasure."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from onward.errors import UsageError
from onward.store import tables
from onward.store.chain import first_break
from onward.store.memory import MemoryStore
from onward.store.records import EntityKey
from onward.store.sql import open_store
from onward.store.sql.database import SqlStore
from onward.store.store import InvalidRecord, Store, StoreUnavailable
from onward.store.tables import Migration
from onward.store.writer import Writer
from tests.unit.store.samples import audit, draft, event

DATABASES = ("sqlite", "postgresql")
databases = pytest.mark.parametrize("url", DATABASES, indirect=True)


def test_memory_is_opened_by_its_name() -> None:
    store: Store = open_store("memory:")
    assert isinstance(store, MemoryStore)


@pytest.mark.parametrize("url", ["", "memory", "mysql://x", "sqlite:x", "sqlite://", "sqlite:///:memory:", "/a/path"])
def test_what_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


@pytest.mark.parametrize("url", ["sqlite:////proc/no/store.db", "postgresql://127.0.0.1:1/x"])
def test_a_store_that_cannot_be_reached_is_unavailable(url: str) -> None:
    with pytest.raises(StoreUnavailable):
        open_store(url)


def test_importing_the_interface_and_the_writer_needs_no_database_library() -> None:
    code = "import sys, onward.store.sql, onward.store.writer, onward.store.memory\n"
    code += "print(sorted({'sqlalchemy', 'psycopg', 'cryptography', 'sqlite3'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert run.stdout.strip() == "[]", run.stderr


@databases
def test_commits_are_on_the_disk_when_they_return(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SqlStore)
    found = store.durability()
    store.close()
    if url.startswith("sqlite"):
        assert found == {"journal_mode": "wal", "synchronous": "FULL", "foreign_keys": "1"}
    else:
        assert found == {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@databases
def test_what_is_stored_is_there_for_the_next_process(url: str) -> None:
    store = open_store(url)
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        transaction.reserve(draft("x"))
    store.close()
    again = open_store(url)
    with again.snapshot() as reader:
        assert first_break(reader.audit_entries()) is None
        assert reader.action("x") is not None
    again.close()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    store = open_store(f"sqlite:///{path}")
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
    assert {each.stat().st_mode & 0o077 for each in path.parent.iterdir()} == {0}
    store.close()


@databases
def test_reading_does_not_wait_for_a_transaction_and_does_not_see_it(url: str) -> None:
    store = open_store(url)
    took_s: list[float] = []

    def read() -> None:
        begun_s = time.monotonic()
        with store.snapshot() as reader:
            assert reader.last_audit() is None
        took_s.append(time.monotonic() - begun_s)

    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        transaction.audit_entries()  # it is in the database, and not committed
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(10)
    assert took_s
    assert took_s[0] < 2
    store.close()


@databases
def test_the_audit_log_lets_nobody_change_or_delete_an_entry(url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SqlStore)
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
    for statement in ("UPDATE audit SET tenant = 'x'", "DELETE FROM audit"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store._backend.engine.connect() as connection:
            connection.exec_driver_sql(statement)
    store.close()


@databases
def test_an_older_store_is_brought_forward_once_and_a_newer_one_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(url)
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
    store.close()

    def widen(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE recordings ADD COLUMN note TEXT")

    with monkeypatch.context() as later:
        later.setattr(tables, "MIGRATIONS", (Migration(version=2, apply=widen),))
        for _ in range(2):
            newer = open_store(url)
            assert isinstance(newer, SqlStore)
            with newer._backend.engine.connect() as connection:
                assert connection.execute(sa.select(tables.versions.c.version)).scalars().all() == [1, 2]
                assert "note" in {column["name"] for column in sa.inspect(connection).get_columns("recordings")}
            with newer.snapshot() as reader:
                assert reader.last_audit() is not None
            newer.close()
    with pytest.raises(StoreUnavailable, match="newer release"):
        open_store(url)


@databases
def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(url).close()

    def half(connection: sa.Connection) -> None:
        connection.exec_driver_sql("ALTER TABLE recordings ADD COLUMN note TEXT")
        raise ZeroDivisionError

    with monkeypatch.context() as later, pytest.raises(ZeroDivisionError):
        later.setattr(tables, "MIGRATIONS", (Migration(version=2, apply=half),))
        open_store(url)
    store = open_store(url)
    assert isinstance(store, SqlStore)
    with store._backend.engine.connect() as connection:
        assert "note" not in {column["name"] for column in sa.inspect(connection).get_columns("recordings")}
    store.close()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


RELAY = """
import sys
from onward.store.chain import link
from onward.store.records import AuditDraft
from onward.store.sql import open_store
url, name = sys.argv[1:]
store = open_store(url)
print("ready", flush=True)
sys.stdin.readline()
while True:
    with store.transaction() as tx:
        taken = [action.draft.action_id for action in tx.lease_actions(name, now_s=10.0, lease_s=99.0, limit=3)]
        for each in taken:
            tx.append_audit(AuditDraft(entry_id=name + each, at_s=1.0, tenant="t", kind="k", subject=each, body=b""))
    if not taken:
        break
    print(*taken, flush=True)
"""


def together(code: str, *arguments: list[str]) -> list[str]:
    """What processes write that begin at the same time, once each has opened the store."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *each],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for each in arguments
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    written = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return written


@databases
def test_two_processes_never_lease_the_same_action_and_write_one_chain(url: str) -> None:
    store = open_store(url)
    names = [f"x{number}" for number in range(120)]
    with store.transaction() as transaction:
        for name in names:
            transaction.reserve(draft(name))
    first, second = together(RELAY, [url, "first"], [url, "second"])
    assert sorted(first.split() + second.split()) == sorted(names)
    assert first, "the first relay got nothing: the two did not run together"
    assert second, "the second relay got nothing: the two did not run together"
    with store.snapshot() as reader:
        entries = reader.audit_entries()
        assert len(entries) == 120
        assert first_break(entries) is None
    store.close()


def test_a_row_that_somebody_holds_by_hand_does_not_hold_up_the_others(postgres_url: str) -> None:
    import psycopg

    store = open_store(postgres_url)
    with store.transaction() as transaction:
        for name in ("held", "free"):
            transaction.reserve(draft(name))
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT * FROM actions WHERE action_id = 'held' FOR UPDATE")
        with store.transaction() as transaction:
            taken = transaction.lease_actions("relay", now_s=1.0, lease_s=1.0, limit=9)
    assert [action.draft.action_id for action in taken] == ["free"]
    store.close()


FILL = """
import resource, signal, sys
from onward.store.records import AuditDraft
from onward.store.sql import open_store
from onward.store.store import StoreUnavailable
from onward.store.writer import Writer
store = open_store(sys.argv[1])
writer = Writer(store)
def append(name, size):
    draft = AuditDraft(entry_id=name, at_s=1.0, tenant="t", kind="k", subject="s", body=b"x" * size)
    return writer.submit(lambda tx: tx.append_audit(draft).sequence)
append("first", 10).result(30)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
failed = [type(append(f"big{n}", 3_000_000).exception(30)).__name__ for n in range(3)]
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print(*failed, append("last", 10).result(30))
writer.close()
store.close()
"""


def test_a_full_disk_fails_what_did_not_fit_and_the_writer_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    run = subprocess.run(
        [sys.executable, "-c", FILL, url], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert run.stdout.split() == ["StoreUnavailable"] * 3 + ["2"], run.stderr
    store = open_store(url)
    with store.snapshot() as reader:
        entries = reader.audit_entries()
    assert [entry.draft.entry_id for entry in entries] == ["first", "last"]
    assert first_break(entries) is None
    store.close()


def test_another_process_that_writes_for_too_long_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onward.store.sql.session.BUSY_TIMEOUT_S", 0.05)
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"), store.transaction():
        pass
    other.execute("ROLLBACK")
    other.close()
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
    store.close()


def test_while_somebody_reads_an_erasure_is_done_and_its_traces_go_once_they_have_left(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with store.transaction() as transaction:
        transaction.add_key(EntityKey(key_id="k", tenant="t", entity="e", wrapped=b"a-wrapped-key", created_s=1.0))
    with store.snapshot() as reader:
        with store.transaction() as transaction:
            transaction.erase_entity("t", "e", 9.0)
        assert reader.key_of("t", "e") is not None
    with store.transaction() as transaction:
        transaction.append_audit(audit("next"))
    assert b"a-wrapped-key" not in b"".join(each.read_bytes() for each in tmp_path.iterdir())
    store.close()


def test_after_an_erasure_no_byte_of_the_entity_is_left_in_the_files(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    secret, wrapped = b"a-secret-that-nobody-else-has", b"the-wrapped-key-of-the-entity"
    with store.transaction() as transaction:
        transaction.add_key(EntityKey(key_id="k", tenant="t", entity="mrs-unique", wrapped=wrapped, created_s=1.0))
        for number in range(50):
            each = event(f"e{number}", float(number), entity="mrs-unique")
            transaction.append_events([type(each)(**{**fields_of(each), "data": secret})])
            transaction.append_event(event(f"o{number}", float(number), entity="other"))

    def files() -> bytes:
        return b"".join(each.read_bytes() for each in tmp_path.iterdir())

    assert secret in files()
    with store.transaction() as transaction:
        transaction.erase_entity("t", "mrs-unique", 9.0)
    for trace in (secret, wrapped, b"mrs-unique"):
        assert trace not in files()
    with store.snapshot() as reader:
        assert len(reader.events("t", "other", as_of_s=99.0)) == 50
    store.close()


def fields_of(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


@databases
def test_a_look_for_what_no_record_can_be_called_finds_nothing(url: str) -> None:
    store = open_store(url)
    with store.snapshot() as reader:
        for name in ("a\0b", "\ud800"):
            assert reader.action(name) is None
            assert reader.audit_of(name) == []
            assert reader.events(name, "e", as_of_s=1.0) == []
            assert reader.key_of("t", name) is None
        assert reader.audit_entries(limit=10**30) == []
    with store.transaction() as transaction:
        assert not transaction.delete_conversation("t", "a\0b")
        with pytest.raises(InvalidRecord):
            transaction.append_event(event("a\0b", 1.0))
        transaction.append_event(event("after", 1.0))
    store.close()


def test_a_group_of_many_sizes_goes_through_the_writer_whole(url: str) -> None:
    store = open_store(url)
    writer = Writer(store, max_group=100)
    futures = [
        writer.submit(
            lambda tx, name=f"n{number}": (tx.append_audit(audit(name)), tx.reserve(draft(name)))  # type: ignore[misc]
        )
        for number in range(357)
    ]
    for future in futures:
        future.result(30)
    writer.close()
    with store.snapshot() as reader:
        entries = reader.audit_entries()
        assert len(entries) == len(reader.actions(futures[0].result()[1].state, limit=999)) == 357
        assert first_break(entries) is None
    store.close()
