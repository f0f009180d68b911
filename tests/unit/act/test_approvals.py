"""Approvals and what else a person may do: bound to the payload, once, in time, with a name, audited."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from onward.act import approvals, person
from onward.act.compensation import NotCompensable
from onward.act.outbox import plan, reserve
from onward.act.relay import Relay, RelayOptions
from onward.act.targets import Queue
from onward.store.memory import MemoryStore
from onward.store.records import Action, ActionState, ApprovalState
from onward.store.store import Conflict
from tests.unit.act.outboxes import draft, kinds, target, targets
from tests.unit.act.outboxes import reserve as put
from tests.unit.act.policies import PACKAGE, facts, keys_of_test, rules
from tests.unit.act.test_outbox import Ear

RULES = rules()
ALLOWED = targets(*(target(Queue(), name) for name in ("hold", "tell", "release")))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def hold(store: MemoryStore) -> Action:
    """An action that waits for an approval until 605 s."""
    some = facts(51.0)
    made = plan(RULES, ALLOWED, RULES.decide(some), some, decision_id="d1", tenant="t", package=PACKAGE, at_s=5.0)
    with store.transaction() as tx:
        return reserve(tx, made, at_s=5.0, keys=keys_of_test(), entity="c1")[0]


def decide(store: MemoryStore, hold: Action, *, granted: bool = True, **more: Any) -> None:
    usual: dict[str, Any] = {"tenant": "t", "payload_digest": hold.draft.payload_digest, "by": "ada", "now_s": 10.0}
    with store.transaction() as tx:
        [request] = approvals.waiting(tx, None, 5.0)
        arguments = usual | more
        approvals.decide(tx, arguments.pop("tenant"), request.approval.approval_id, granted=granted, **arguments)


def worked(store: MemoryStore, now_s: float = 20.0) -> list[str]:
    """The names of what a relay sends."""
    ear = Ear()
    relay = Relay(
        store, ALLOWED, keys=keys_of_test(), executors=dict.fromkeys(ALLOWED.names, ear), options=RelayOptions(seed=1)
    )
    relay.run_once(now_s)
    return [order.name for order in ear.orders]


def test_nothing_is_sent_before_the_yes_and_it_is_after(store: MemoryStore, hold: Action) -> None:
    assert worked(store) == ["tell"]
    decide(store, hold)
    assert worked(store) == ["hold"]
    approval_id = f"p_{hold.draft.action_id.removeprefix('a_')}"
    assert kinds(store, approval_id) == ["approval.requested", "approval.granted"]
    assert kinds(store, hold.draft.action_id)[:2] == ["action.waiting", "action.pending"]


def test_a_no_is_for_good(store: MemoryStore, hold: Action) -> None:
    decide(store, hold, granted=False, note="known customer")
    assert worked(store) == ["tell"]
    with store.snapshot() as reader:
        found = reader.action(hold.draft.action_id)
        entry = reader.audit_of(f"p_{hold.draft.action_id.removeprefix('a_')}")[-1]
    assert found is not None and found.state is ActionState.REFUSED
    body = json.loads(entry.draft.body)
    assert (body["by"], body["note"]) == ("ada", "known customer")


@pytest.mark.parametrize(
    "wrong", [{"payload_digest": "0" * 64}, {"tenant": "u"}, {"by": " "}, {"now_s": 605.0}, {"now_s": 1e6}]
)
def test_another_payload_tenant_or_time_or_no_name_decides_nothing(
    store: MemoryStore, hold: Action, wrong: dict[str, Any]
) -> None:
    with pytest.raises(Conflict):
        decide(store, hold, **wrong)
    assert worked(store) == ["tell"]


def test_only_the_first_decision_counts(store: MemoryStore, hold: Action) -> None:
    with store.transaction() as tx:
        [request] = approvals.waiting(tx, "t", 6.0)
    decide(store, hold)
    for granted in (True, False):
        with pytest.raises(Conflict), store.transaction() as tx:
            approvals.decide(
                tx, "t", request.approval.approval_id, payload_digest=hold.draft.payload_digest, granted=granted,
                by="eve", now_s=11.0,
            )  # fmt: skip
    assert worked(store) == ["tell", "hold"] or worked(store) == []


def test_an_approval_that_nobody_gives_expires_and_the_log_says_so(store: MemoryStore, hold: Action) -> None:
    worked(store, 700.0)
    approval_id = f"p_{hold.draft.action_id.removeprefix('a_')}"
    with store.snapshot() as reader:
        approval, found = reader.approval(approval_id), reader.action(hold.draft.action_id)
    assert approval is not None and approval.state is ApprovalState.EXPIRED
    assert found is not None and found.state is ActionState.REFUSED
    assert kinds(store, approval_id)[-1] == "approval.expired"
    assert kinds(store, hold.draft.action_id)[-1] == "action.refused"


def test_a_sealed_payload_is_shown_only_with_the_keys(store: MemoryStore) -> None:
    some, keys = facts(51.0), keys_of_test()
    made = plan(
        RULES, ALLOWED, RULES.decide(some), some, decision_id="d1", tenant="t", package=PACKAGE, at_s=5.0, private=True
    )
    with store.transaction() as tx:
        reserve(tx, made, at_s=5.0, keys=keys, entity="c1")
        [with_keys], [without] = approvals.waiting(tx, "t", 6.0, keys=keys), approvals.waiting(tx, "t", 6.0)
        tx.erase_entity("t", "c1", 7.0)
        [erased] = approvals.waiting(tx, "t", 8.0, keys=keys)
    assert with_keys.payload is not None and with_keys.payload["arguments"]["card"] == "c1"
    assert (without.payload, without.hidden, erased.payload, erased.hidden) == (None, "NO_KEYS", None, "ERASED")


def in_state(store: MemoryStore, state: ActionState) -> Action:
    """An action in a state that its target brought it to."""
    one = draft(card="c1", amount=3.0, compensation="release")
    put(store, one)
    with store.transaction() as tx:
        if state is ActionState.PENDING:
            found = tx.action(one.action_id)
            assert found is not None
            return found
        [action] = tx.lease_actions("r", now_s=1.0, lease_s=60.0)
        if state is ActionState.LEASED:
            return action
        action = tx.move_action(one.action_id, ActionState.EXECUTING, attempt=action.attempt, now_s=1.0)
        return tx.move_action(one.action_id, state, attempt=action.attempt, now_s=2.0)


ALLOWED_STATES = {
    person.retry: {ActionState.DEAD: ActionState.PENDING, ActionState.UNKNOWN: ActionState.PENDING},
    person.discard: {ActionState.PENDING: ActionState.DEAD, ActionState.UNKNOWN: ActionState.DEAD},
    person.confirm: {ActionState.UNKNOWN: ActionState.DONE},
}


@pytest.mark.parametrize("state", [ActionState.PENDING, ActionState.LEASED, *(ActionState.DONE, ActionState.DEAD,
                                   ActionState.UNKNOWN)])  # fmt: skip
@pytest.mark.parametrize("command", list(ALLOWED_STATES))
def test_a_person_moves_an_action_only_from_where_that_makes_sense_and_with_a_name(
    store: MemoryStore, command: Callable[..., Action], state: ActionState
) -> None:
    action = in_state(store, state)
    expected = ALLOWED_STATES[command].get(state)
    with store.transaction() as tx:
        with pytest.raises(Conflict):
            command(tx, "u", action.draft.action_id, by="ada", now_s=3.0)
        with pytest.raises(Conflict):
            command(tx, "t", action.draft.action_id, by="", now_s=3.0)
        if expected is None:
            with pytest.raises(Conflict):
                command(tx, "t", action.draft.action_id, by="ada", now_s=3.0)
        else:
            assert command(tx, "t", action.draft.action_id, by="ada", now_s=3.0).state is expected
            assert json.loads(tx.audit_of(action.draft.action_id)[-1].draft.body)["by"] == "ada"


def undo(store: MemoryStore, action: Action) -> Action:
    with store.transaction() as tx:
        return person.compensate(
            tx, "t", action.draft.action_id, targets=ALLOWED, keys=keys_of_test(), by="ada", now_s=4.0
        )


def test_a_person_undoes_what_is_done_once_with_the_same_arguments(store: MemoryStore) -> None:
    action = in_state(store, ActionState.DONE)
    first, second = undo(store, action), undo(store, action)
    assert first.draft == second.draft
    payload = json.loads(first.draft.payload)
    assert (payload["name"], payload["arguments"]) == ("release", {"card": "c1", "amount": 3.0})
    assert payload["compensates"] == action.draft.action_id
    assert worked(store) == ["release"]


def test_discarding_an_action_undoes_what_depends_on_it(store: MemoryStore) -> None:
    done_one, book = in_state(store, ActionState.DONE), draft("book")
    put(store, book)
    allowed = targets(target(Queue(), undone_by=("book",)), target(Queue(), "book"), target(Queue(), "release"))
    with store.transaction() as tx:
        person.discard(tx, "t", book.action_id, by="ada", now_s=4.0, targets=allowed)
        names = [(action.draft.name, action.state.value) for action in tx.actions_of("d1")]
    assert (done_one.draft.name, names) == ("hold", [("hold", "done"), ("book", "dead"), ("release", "pending")])


@pytest.mark.parametrize("state", [ActionState.PENDING, ActionState.DEAD, ActionState.UNKNOWN])
def test_what_is_not_done_cannot_be_undone(store: MemoryStore, state: ActionState) -> None:
    action = in_state(store, state)
    with pytest.raises(NotCompensable):
        undo(store, action)


def test_the_compensation_of_a_sealed_action_is_sealed_too(store: MemoryStore) -> None:
    some, keys = facts(20.0), keys_of_test()
    made = plan(
        RULES, ALLOWED, RULES.decide(some), some, decision_id="d1", tenant="t", package=PACKAGE, at_s=5.0, private=True
    )
    with store.transaction() as tx:
        hold = reserve(tx, made, at_s=5.0, keys=keys, entity="c1")[0]
    assert sorted(worked(store, 10.0)) == ["hold", "tell"]
    undone = undo(store, hold)
    assert undone.draft.key_id == hold.draft.key_id
    assert b"c1" not in undone.draft.payload
    assert worked(store) == ["release"]


def test_a_compensation_that_is_not_allowed_leaves_a_note_and_the_state_alone(store: MemoryStore) -> None:
    action = in_state(store, ActionState.DONE)
    with pytest.raises(NotCompensable, match="not allowed"), store.transaction() as tx:
        person.compensate(
            tx, "t", action.draft.action_id, targets=targets(target(Queue())), keys=None, by="ada", now_s=4.0
        )
