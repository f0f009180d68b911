"""What every store keeps to, whatever it is made of: transactions, the audit log, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from onward.store.chain import first_break
from onward.store.store import Conflict, InvalidRecord, Store
from tests.unit.store.samples import audit, draft, event, recording, reserved

LONG, SURROGATE = "x" * 513, "\ud83d"


def test_decision_and_action_are_written_together_or_not_at_all(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        transaction.reserve(draft("x"))
        raise ZeroDivisionError
    with store.snapshot() as reader:
        assert reader.last_audit() is None
        assert reader.action("x") is None
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        transaction.reserve(draft("x"))
    with store.snapshot() as reader:
        assert len(reader.audit_entries()) == 1
        assert reader.action("x") is not None


def test_a_transaction_reads_its_own_writes_and_others_only_what_is_committed(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        assert transaction.last_audit() is not None
        with store.snapshot() as reader:
            assert reader.last_audit() is None


def test_a_snapshot_does_not_change_while_it_is_read(store: Store) -> None:
    with store.snapshot() as reader:
        assert reader.action("x") is None
        reserved(store, draft("x"))
        assert reader.action("x") is None


def test_the_audit_log_is_a_chain_that_can_be_read_in_pages_and_by_subject(store: Store) -> None:
    with store.transaction() as transaction:
        for index in range(5):
            transaction.append_audit(audit(f"a{index}", subject=f"s{index % 2}"))
    with store.snapshot() as reader:
        entries = reader.audit_entries()
        assert reader.audit_entries(after=2, limit=2) == entries[2:4]
        assert reader.audit_of("s1") == [entries[1], entries[3]]
        assert reader.last_audit() == entries[-1]
    assert first_break(entries) is None


def test_an_audit_entry_is_written_once(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        with pytest.raises(Conflict):
            transaction.append_audit(audit("a"))


def test_a_savepoint_undoes_its_block_alone_and_cannot_be_nested(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_audit(audit("a"))
        with pytest.raises(ZeroDivisionError), transaction.savepoint():
            transaction.append_audit(audit("lost"))
            transaction.append_event(event("lost", 1.0))
            raise ZeroDivisionError
        with transaction.savepoint():
            transaction.append_audit(audit("b"))
            transaction.append_event(event("kept", 1.0))
            with pytest.raises(RuntimeError), transaction.savepoint():
                pass
    with store.snapshot() as reader:
        entries = reader.audit_entries()
        assert [entry.draft.entry_id for entry in entries] == ["a", "b"]
        assert first_break(entries) is None
        assert [each.event_id for each in reader.events("t", "e", as_of_s=9.0)] == ["kept"]


def test_a_nested_transaction_is_an_error_and_one_that_has_ended_too(store: Store) -> None:
    with store.transaction() as transaction:
        with pytest.raises(RuntimeError, match="nested"), store.transaction():
            pass
        transaction.append_audit(audit("a"))
    with pytest.raises(RuntimeError, match="ended"):
        transaction.last_audit()
    with store.snapshot() as reader:
        assert reader.last_audit() is not None
    with pytest.raises(RuntimeError, match="ended"):
        reader.last_audit()


@pytest.mark.parametrize("text", ["a\0b", LONG, SURROGATE, "é" * 257])
def test_a_text_that_no_database_takes_is_refused_by_every_store(store: Store, text: str) -> None:
    with store.transaction() as transaction:
        for write in (
            lambda: transaction.append_audit(replace(audit("a"), subject=text)),
            lambda: transaction.reserve(replace(draft("x"), idempotency_key=text)),
            lambda: transaction.append_event(event(text, 1.0)),
            lambda: transaction.note_outcome("t", "p", text, 1.0),
            lambda: transaction.set_switch(text, True, "a", 1.0),
            lambda: transaction.add_recording(recording(text, 1.0)),
        ):
            with pytest.raises(InvalidRecord):
                write()
        assert transaction.last_audit() is None
        assert transaction.append_audit(replace(audit("a"), subject="é" * 256)).sequence == 1


@pytest.mark.parametrize("at_s", [math.nan, math.inf, -math.inf, -0.0])
def test_a_time_that_a_database_would_change_is_refused(store: Store, at_s: float) -> None:
    with store.transaction() as transaction:
        with pytest.raises(InvalidRecord):
            transaction.append_audit(replace(audit("a"), at_s=at_s))
        with pytest.raises(InvalidRecord):
            transaction.append_event(event("a", at_s))
        assert transaction.last_audit() is None
