"""The desk: a decision, its audit entry and its actions are one; limits hold; a key is decided once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from onward.act.desk import Case, Desk, IdempotencyKeyReused, Recorded, Ruling, decision_ids
from onward.act.targets import Target, Targets
from onward.act.webhook import Webhook
from onward.decide.audit import RecordedDecision, plain_decision, read_decision
from onward.decide.plain import NotRecordable
from onward.decide.policy import Facts
from onward.decide.rules import parse_policy
from onward.package.manifest import parse_manifest
from onward.store.memory import MemoryStore
from onward.store.records import ActionState
from onward.store.store import Transaction
from onward.types import PackageId

T = TypeVar("T")
PACKAGE = PackageId(name="loan", version="1.0.0", digest="d" * 64)
MANIFEST = """format = 1
[package]
name = "loan"
version = "1.0.0"
task = "tabular"
licence = "Apache-2.0"
[[input]]
name = "amount"
datatype = "FP32"
[[input]]
name = "card"
datatype = "BYTES"
[profile]
entity = "card"
[[output]]
name = "risk"
datatype = "FP32"
[[prepare]]
step = "table"
columns = ["amount"]
output = "features"
[execute]
backend = "onnx"
file = "model.onnx"
"""
POLICY = """format = 1
[policy]
name = "loan"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[[rule]]
name = "risky"
when = "result.risk > 0.5"
outcome = "decline"
reasons = ["RISK"]
[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.amount" }
[[rule.action]]
name = "call"
arguments = {}
[[cap]]
outcome = "decline"
at_most = 20
per_s = 60
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
approval = "arguments.amount > 500.0"
[action.arguments]
card = { type = "string", max_length = 40 }
amount = { type = "number", minimum = 0, maximum = 10000 }
[[action]]
name = "call"
"""
RULES = parse_policy(POLICY, parse_manifest(MANIFEST))
RULING = Ruling(package=PACKAGE, rules=RULES, fields=frozenset({"amount", "card"}))
TARGETS = Targets(
    targets=(Target(action="hold", packages=("loan",), kind="webhook", how=Webhook(url="https://example.org/holds")),)
)


class Inline:
    """Runs each function in a transaction of its own, here and now."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def submit(self, fn: Callable[[Transaction], T], /) -> Future[T]:
        future: Future[T] = Future()
        try:
            with self.store.transaction() as tx:
                result = fn(tx)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(store: MemoryStore, clock: Clock) -> Desk:
    return Desk(Inline(store), None, TARGETS, clock=clock)


def case(risk: float | None = 0.9, amount: float = 90.0, card: str = "c1", **more: Any) -> Case:
    answer = None if risk is None else {"risk": risk}
    return Case(facts=Facts(answer=answer, input={"amount": amount, "card": card}, now_s=1000.0, **more))


def record(desk: Desk, *cases: Case, tenant: str = "default", key: str = "") -> list[Recorded]:
    return desk.record(RULING, cases or [case()], tenant=tenant, idempotency_key=key).result()


def kinds(store: MemoryStore) -> list[str]:
    with store.snapshot() as reader:
        return [entry.draft.kind for entry in reader.audit_entries()]


def test_a_decision_its_entry_and_its_actions_are_written_together(desk: Desk, store: MemoryStore) -> None:
    (recorded,) = record(desk)
    assert (recorded.decision.outcome, recorded.decision.rule, recorded.repeated) == ("decline", "risky", False)
    assert [(one.name, one.state) for one in recorded.actions] == [("hold", "pending"), ("call", "denied")]
    assert kinds(store) == ["decision", "action.pending", "action.denied"]
    with store.snapshot() as reader:
        (action,) = reader.actions_of(recorded.decision_id)
        (entry,) = reader.audit_of(recorded.decision_id)
    assert action.draft.action_id == recorded.actions[0].action_id
    assert json.loads(action.draft.payload)["arguments"] == {"card": "c1", "amount": 90.0}
    assert entry.sequence == recorded.sequence


def test_what_is_recorded_decides_the_same_again(desk: Desk, store: MemoryStore) -> None:
    (recorded,) = record(desk)
    with store.snapshot() as reader:
        (entry,) = reader.audit_of(recorded.decision_id)
        read = read_decision(entry, None, reader)
    assert isinstance(read, RecordedDecision) and read.facts == recorded.facts
    assert plain_decision(RULES.decide(read.facts)) == plain_decision(recorded.decision)


def test_what_fails_half_way_leaves_nothing(desk: Desk, store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **named: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("onward.act.desk.reserve", broken)
    with pytest.raises(OSError, match="no room"):
        record(desk)
    assert kinds(store) == []
    with store.snapshot() as reader:
        assert not reader.count_outcomes("default", "loan", 0.0)


def test_a_list_is_decided_in_order_and_as_one(desk: Desk, store: MemoryStore) -> None:
    recorded = record(desk, case(0.9), case(0.1), case(None, failure="EXECUTION_FAILED"))
    assert [one.decision.outcome for one in recorded] == ["decline", "approve", "review"]
    assert recorded[2].decision.reasons == ("MODEL_UNAVAILABLE",) and recorded[2].facts.failure == "EXECUTION_FAILED"
    assert [one.sequence for one in recorded] == sorted(one.sequence for one in recorded)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_what_json_does_not_hold_is_refused_before_anything_is_written(
    desk: Desk, store: MemoryStore, odd: float
) -> None:
    for wrong, where in ((case(odd), "result.risk"), (case(amount=odd), "input.amount")):
        with pytest.raises(NotRecordable) as caught:
            record(desk, wrong)
        assert caught.value.where == where
    assert kinds(store) == []


def test_a_large_amount_waits_for_a_person(desk: Desk, store: MemoryStore) -> None:
    (recorded,) = record(desk, case(amount=900.0))
    assert recorded.actions[0].state == "waiting"
    with store.snapshot() as reader:
        (asked,) = reader.open_approvals("default", 1000.0)
    assert asked.action_id == recorded.actions[0].action_id
    assert asked.expires_s == 1000.0 + 86400.0


def test_a_cap_holds_within_a_request_and_over_its_window_for_each_tenant(desk: Desk, clock: Clock) -> None:
    first = record(desk, *[case() for _ in range(25)])
    assert [one.decision.outcome for one in first].count("decline") == 20
    assert first[20].decision.reasons == ("RATE_CAP",) and not first[20].actions
    assert first[20].facts.recent == {"decline": 20}
    assert record(desk)[0].decision.outcome == "review"
    assert record(desk, tenant="other")[0].decision.outcome == "decline"
    clock.now_s += 61
    assert record(desk)[0].decision.outcome == "decline"


def test_a_cap_holds_however_many_ask_at_once(desk: Desk) -> None:
    with ThreadPoolExecutor(max_workers=16) as pool:
        outcomes = list(pool.map(lambda n: record(desk, case(card=f"c{n}"))[0].decision.outcome, range(100)))
    assert outcomes.count("decline") == 20 and outcomes.count("review") == 80


def test_a_repeated_request_gets_what_was_recorded_and_nothing_happens_again(
    desk: Desk, store: MemoryStore, clock: Clock
) -> None:
    (first,) = record(desk, key="k1")
    before = kinds(store)
    with store.transaction() as tx:
        (leased,) = tx.lease_actions("relay", now_s=1000.0, lease_s=10.0)
        for state in (ActionState.EXECUTING, ActionState.DONE):
            tx.move_action(leased.draft.action_id, state, attempt=1, now_s=1001.0)
    clock.now_s += 500
    # The model would say something else now: what was decided stands.
    (again,) = record(desk, case(0.1), key="k1")
    assert kinds(store) == before
    assert again.repeated and again.decision_id == first.decision_id and again.decision == first.decision
    assert again.facts == first.facts
    assert [one.state for one in again.actions] == ["done", "denied"]


def test_a_key_is_of_one_tenant_one_input_and_one_package(desk: Desk, store: MemoryStore) -> None:
    (first,) = record(desk, key="k1")
    assert record(desk, tenant="other", key="k1")[0].decision_id != first.decision_id
    before = kinds(store)
    with pytest.raises(IdempotencyKeyReused):
        record(desk, case(amount=91.0), key="k1")
    with pytest.raises(IdempotencyKeyReused):
        record(desk, case(), case(), key="k1")
    other = dataclasses.replace(RULING, package=dataclasses.replace(PACKAGE, name="other"))
    with pytest.raises(IdempotencyKeyReused):
        desk.record(other, [case()], tenant="default", idempotency_key="k1").result()
    newer = dataclasses.replace(RULING, package=dataclasses.replace(PACKAGE, version="2.0.0"))
    assert desk.record(newer, [case()], tenant="default", idempotency_key="k1").result()[0].repeated
    assert kinds(store) == before


def test_a_repeated_list_may_neither_grow_nor_shrink(desk: Desk) -> None:
    first = record(desk, case(), case(0.1), key="k")
    again = record(desk, case(), case(0.1), key="k")
    assert [one.decision_id for one in again] == [one.decision_id for one in first]
    for other in ([case()], [case(), case(0.1), case(0.2)], [case(0.1), case(amount=1.0)]):
        with pytest.raises(IdempotencyKeyReused):
            record(desk, *other, key="k")


def test_a_repeat_of_what_was_decided_without_an_answer_stays_decided(desk: Desk) -> None:
    (first,) = record(desk, case(None, failure="DEADLINE_EXCEEDED"), key="k")
    (again,) = record(desk, case(0.9), key="k")
    assert again.repeated and again.decision == first.decision and again.facts.answer is None


def test_ids_without_a_key_are_new_and_those_with_one_are_made_of_it() -> None:
    assert len(set(decision_ids(100, "t", ""))) == 100
    assert decision_ids(3, "t", "k")[:2] == decision_ids(2, "t", "k")
    assert not set(decision_ids(2, "t", "k")) & set(decision_ids(2, "t", "k2")) | set(decision_ids(2, "u", "k")) & set(
        decision_ids(2, "t", "k")
    )
    # Neither tenants nor keys can be chosen so that their ends are mistaken for each other.
    assert decision_ids(1, "a", "b\0c") != decision_ids(1, "a\0b", "c")
