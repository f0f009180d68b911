"""An entry holds all of a decision, shows nothing private, and is read back as it was."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.decide.audit import (
    EVERYTHING,
    HiddenDecision,
    NotRecordable,
    RecordedDecision,
    UnreadableEntry,
    note_action,
    note_approval,
    note_denied,
    note_erasure,
    note_kill_switch,
    plain_facts,
    read_body,
    read_decision,
    record_decision,
)
from onward.decide.policy import Facts
from onward.store.chain import link
from onward.store.memory import MemoryStore
from onward.store.records import Action, ActionDraft, ActionState, Approval, ApprovalState, AuditDraft, AuditEntry
from tests.unit.decide.decisions import PACKAGE, Hashing, PlainKeys, facts

PRIVATE = ["amount", "card", "country", "note", EVERYTHING]


def record(
    store: MemoryStore, seen: Facts, *, private: frozenset[str] = frozenset(), entity: str = "c1", keys: Any = None,
    rules: Hashing | None = None,
) -> AuditEntry:  # fmt: skip
    rules = rules or Hashing()
    with store.transaction() as tx:
        return record_decision(
            tx, keys or PlainKeys(), decision_id="d1", tenant="t", entity=entity, package=PACKAGE, rules=rules,
            facts=seen, decision=rules.decide(seen), private_fields=private, at_s=9.5,
        )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(facts(), st.frozensets(st.sampled_from(PRIVATE)))
def test_what_is_recorded_is_read_back_whole_whatever_is_private_of_it(seen: Facts, private: frozenset[str]) -> None:
    store = MemoryStore()
    entry = record(store, seen, private=private)
    with store.snapshot() as reader:
        back = read_decision(entry, PlainKeys(), reader)
    assert isinstance(back, RecordedDecision)
    assert back.facts == seen
    assert back.decision == Hashing().decide(seen)
    assert (back.decision_id, back.tenant, back.package) == ("d1", "t", PACKAGE)
    assert (back.policy, back.policy_version, back.policy_digest) == ("hashing", "1", Hashing().digest)


SECRET = "4929-secret-card"


def case(**more: Any) -> Facts:
    given: dict[str, Any] = {"answer": {"probability": 0.9, "label": "fraud"},
                             "input": {"card": "x", "amount": 900.0}, "now_s": 1.0}  # fmt: skip
    return Facts(**given | more)


@pytest.mark.parametrize(
    ("seen", "private"),
    [
        (case(input={"card": SECRET, "amount": 1.0}), frozenset({"card"})),
        (case(answer={"text": SECRET}), frozenset({"text"})),
        (case(profile={"last": [SECRET]}), frozenset()),
        (case(input={"slots": {"order": SECRET}}), frozenset({EVERYTHING})),
        (case(input={"card": "x", "amount": SECRET}, profile={"n": 1}), frozenset({"amount"})),
    ],
)
def test_nothing_private_stands_in_the_clear_nor_does_the_entity(seen: Facts, private: frozenset[str]) -> None:
    entry = record(MemoryStore(), seen, private=private, entity="the-entity")
    assert entry.draft.key_id
    text = msgspec.json.encode(entry)
    for hidden in (SECRET.encode(), b"the-entity"):
        assert hidden not in text + entry.draft.sealed


def test_arguments_made_of_private_values_are_sealed_with_them() -> None:
    seen = next(each for n in range(50) if Hashing().decide(each := case(now_s=float(n), profile={"n": n})).actions)
    body = read_body(record(MemoryStore(), seen))
    assert body["decision"]["actions"] == [{"name": "hold", "arguments": {}}]
    assert "arguments" not in body["decision"]
    assert body["sealed"] == ["actions", "arguments", "profile"]


def test_without_private_values_only_the_private_arguments_are_sealed() -> None:
    seen = next(each for n in range(50) if Hashing().decide(each := case(now_s=float(n))).actions)
    body = read_body(record(MemoryStore(), seen))
    assert body["decision"]["actions"] == [{"name": "hold", "arguments": {"amount": 1.5}}]
    assert body["facts"]["input"] == {"card": "x", "amount": 900.0}
    assert body["sealed"] == ["actions"]


def test_an_argument_that_the_policy_does_not_declare_is_private() -> None:
    seen = next(each for n in range(50) if Hashing().decide(each := case(now_s=float(n))).actions)
    body = read_body(record(MemoryStore(), seen, rules=Hashing(actions={})))
    assert body["decision"]["actions"] == [{"name": "hold", "arguments": {}}]


def test_an_erased_entity_leaves_the_outcome_and_nothing_else() -> None:
    store = MemoryStore()
    seen = case(profile={"n": 1})
    entry = record(store, seen)
    with store.transaction() as tx:
        tx.erase_entity("t", "c1", 10.0)
        hidden = read_decision(entry, PlainKeys(), tx)
    assert hidden == HiddenDecision(
        decision_id="d1", policy="hashing", outcome=Hashing().decide(seen).outcome, erased=True
    )


def test_without_the_keys_a_decision_is_hidden_but_not_erased() -> None:
    store = MemoryStore()
    entry = record(store, case(profile={"n": 1}))
    assert isinstance(hidden := read_decision(entry), HiddenDecision)
    assert not hidden.erased
    with store.snapshot() as reader:
        assert isinstance(hidden := read_decision(entry, None, reader), HiddenDecision)
    assert not hidden.erased


def test_private_values_without_keys_are_refused() -> None:
    with MemoryStore().transaction() as tx, pytest.raises(NotRecordable, match="no key to seal"):
        record_decision(
            tx, None, decision_id="d1", tenant="t", entity="", package=PACKAGE, rules=Hashing(),
            facts=case(profile={"n": 1}), decision=Hashing().decide(case()), private_fields=(), at_s=0.0,
        )  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), [1.0, [math.nan]], object(), {1}])
def test_a_value_that_json_does_not_carry_exactly_is_refused_before_anything_is_written(value: Any) -> None:
    store = MemoryStore()
    with pytest.raises(NotRecordable, match=r"input\.amount"):
        record(store, case(input={"amount": value}))
    with store.snapshot() as reader:
        assert reader.last_audit() is None


def test_half_a_character_is_refused() -> None:
    with pytest.raises(NotRecordable):
        record(MemoryStore(), case(input={"note": "\ud800"}))


def test_plain_facts_turn_numpy_into_python_and_files_into_their_digest() -> None:
    found = plain_facts(case(input={"x": np.array([[1, 2]], np.int64), "y": np.float32(0.1), "photo": b"abc"}))
    assert found.input == {
        "x": [[1, 2]],
        "y": float(np.float32(0.1)),
        "photo": {"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "size": 3},
    }
    assert plain_facts(found) == found


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"format":2}', b"{}", b'{"format":1}', b'{"format":1,"facts":{"answer":3}}', b"\xff"]
)
def test_a_body_of_another_kind_or_a_newer_format_is_an_error_that_names_the_entry(body: bytes) -> None:
    draft = AuditDraft(entry_id="e", at_s=0.0, tenant="t", kind="decision", subject="d", body=body)
    with pytest.raises(UnreadableEntry, match="entry 1"):
        read_decision(link(draft, None))


def action(*, key_id: str = "", error: str = "", receipt: bytes = b"r") -> Action:
    draft = ActionDraft(
        action_id="a1", tenant="t", idempotency_key="k", decision_id="d1", name="hold", payload=b'{"card":"c9"}',
        payload_digest="ff", created_s=0.0, available_s=0.0, key_id=key_id,
    )  # fmt: skip
    return Action(draft=draft, state=ActionState.DONE, attempt=2, available_s=0.0, updated_s=0.0, error=error,
                  receipt=receipt)  # fmt: skip


def test_notes_say_what_happened_to_whom_and_by_whom() -> None:
    approval = Approval(approval_id="p1", tenant="t", action_id="a1", payload_digest="ff", requested_s=0, expires_s=5)
    with MemoryStore().transaction() as tx:
        note_action(tx, action(error="HTTP 503"), at_s=1.0, by="ann", note="again")
        note_denied(tx, action_id="a2", decision_id="d1", tenant="t", name="wipe", package="fraud", why="no", at_s=2.0)
        note_approval(tx, approval, at_s=3.0)
        for state in (ApprovalState.GRANTED, ApprovalState.REFUSED, ApprovalState.EXPIRED):
            note_approval(tx, replace(approval, state=state, decided_by="ann", decided_s=4.0), at_s=4.0)
        note_kill_switch(tx, on=True, tenant="", by="bob", at_s=5.0)
        note_kill_switch(tx, on=False, tenant="t", by="bob", at_s=6.0)
        note_erasure(tx, tx.erase_entity("t", "c1", 7.0), tenant="t", key_id="k1", by="eve", at_s=7.0)
        entries = tx.audit_entries()
    assert [(entry.draft.kind, entry.draft.subject) for entry in entries] == [
        ("action.done", "a1"), ("action.denied", "a2"), ("approval.requested", "p1"), ("approval.granted", "p1"),
        ("approval.refused", "p1"), ("approval.expired", "p1"), ("kill_switch.on", ""), ("kill_switch.off", "t"),
        ("profile.erased", "k1"),
    ]  # fmt: skip
    body = read_body(entries[0])
    assert (body["by"], body["note"], body["error"], body["attempt"]) == ("ann", "again", "HTTP 503", 2)
    assert (read_body(entries[3])["by"], read_body(entries[1])["why"]) == ("ann", "no")


def test_neither_an_actions_payload_nor_its_receipt_enters_the_log() -> None:
    with MemoryStore().transaction() as tx:
        entry = note_action(tx, action(receipt=b"receipt-of-c9"), at_s=0.0)
        private = note_action(tx, action(key_id="k1"), at_s=0.0)
    assert b"c9" not in entry.draft.body
    assert "receipt_digest" in read_body(entry)
    assert "receipt_digest" not in read_body(private)


def test_what_a_target_says_is_cut_before_it_enters_the_log() -> None:
    with MemoryStore().transaction() as tx:
        entry = note_action(tx, action(error="x" * 100_000), at_s=0.0)
    assert len(entry.draft.body) < 1000
