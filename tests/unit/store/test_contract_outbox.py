"""What every store keeps to: actions and their way through the outbox, approvals, counts, kill switches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onward.store.records import ActionState, ApprovalState
from onward.store.store import Conflict, Store
from tests.unit.store.samples import approval, draft, leased, moved, reserved, state_of


def test_reserving_twice_with_one_idempotency_key_gives_the_first_action(store: Store) -> None:
    again = replace(draft("x"), action_id="y")
    with store.transaction() as transaction:
        first = transaction.reserve(draft("x"))
        assert transaction.reserve(again) == first
        assert transaction.action("y") is None
        with pytest.raises(Conflict):
            transaction.reserve(replace(again, payload_digest="other"))
        assert transaction.reserve(replace(again, tenant="other")).draft.action_id == "y"


def test_only_due_actions_are_leased_longest_due_first_and_to_one_owner(store: Store) -> None:
    reserved(store, draft("late", available_s=99.0), draft("b", available_s=5.0), draft("a", available_s=4.0))
    first = leased(store)
    second = leased(store, limit=9, owner="other")
    assert [action.draft.action_id for action in first + second] == ["a", "b"]
    assert (first[0].state, first[0].attempt, first[0].lease_until_s) == (ActionState.LEASED, 1, 15.0)
    assert leased(store, limit=9) == []


def test_an_action_goes_from_lease_to_execution_to_its_end_with_a_receipt(store: Store) -> None:
    reserved(store, draft("x"))
    (action,) = leased(store)
    action = moved(store, action, ActionState.EXECUTING)
    with store.transaction() as transaction:
        done = transaction.move_action("x", ActionState.DONE, attempt=action.attempt, now_s=12.0, receipt=b"200")
    assert (done.state, done.receipt, done.owner) == (ActionState.DONE, b"200", "")
    with store.snapshot() as reader:
        assert reader.actions(ActionState.DONE) == [done]


@pytest.mark.parametrize(
    "states",
    [
        (ActionState.DONE,),
        (ActionState.UNKNOWN,),
        (ActionState.EXECUTING, ActionState.DONE, ActionState.PENDING),
        (ActionState.EXECUTING, ActionState.UNKNOWN, ActionState.EXECUTING),
        (ActionState.PENDING, ActionState.LEASED),
    ],
)
def test_an_action_takes_no_forbidden_step(store: Store, states: tuple[ActionState, ...]) -> None:
    reserved(store, draft("x"))
    (action,) = leased(store)
    with pytest.raises(Conflict):
        moved(store, action, *states)


def test_a_lease_that_ran_out_before_the_relay_began_is_pending_again_and_the_old_relay_finds_out(store: Store) -> None:
    reserved(store, draft("x"))
    (old,) = leased(store, now_s=10.0, lease_s=5.0)
    with store.transaction() as transaction:
        assert transaction.settle_leases(14.9) == []
        assert [action.state for action in transaction.settle_leases(15.0)] == [ActionState.PENDING]
    (new,) = leased(store, now_s=15.0)
    assert new.attempt == 2
    with pytest.raises(Conflict):
        moved(store, old, ActionState.EXECUTING)
    moved(store, new, ActionState.EXECUTING)


def test_an_execution_whose_lease_ran_out_is_unknown_and_is_not_leased_again(store: Store) -> None:
    reserved(store, draft("x"))
    (action,) = leased(store)
    moved(store, action, ActionState.EXECUTING)
    with store.transaction() as transaction:
        assert [each.state for each in transaction.settle_leases(99.0)] == [ActionState.UNKNOWN]
    assert leased(store, now_s=1e9) == []


def test_a_retry_waits_until_its_time(store: Store) -> None:
    reserved(store, draft("x"))
    (action,) = leased(store)
    moved(store, action, ActionState.EXECUTING)
    with store.transaction() as transaction:
        transaction.move_action("x", ActionState.PENDING, attempt=1, now_s=12.0, available_s=20.0, error="503")
    assert leased(store, now_s=19.0) == []
    assert leased(store, now_s=20.0)[0].attempt == 2


@pytest.mark.parametrize(("granted", "state"), [(True, ActionState.PENDING), (False, ActionState.REFUSED)])
def test_an_approval_moves_its_action_on_once(store: Store, granted: bool, state: ActionState) -> None:
    reserved(store, draft("x", needs_approval=True))
    assert leased(store) == []
    with store.transaction() as transaction:
        transaction.request_approval(approval())
        assert transaction.open_approvals("t", 10.0) == [approval()]
        ended = transaction.decide_approval("t", "p", payload_digest="d1", granted=granted, by="ann", now_s=10.0)
        assert (ended.decided_by, ended.decided_s) == ("ann", 10.0)
        assert transaction.approval("p") == ended
        assert transaction.open_approvals("t", 10.0) == []
        with pytest.raises(Conflict):
            transaction.decide_approval("t", "p", payload_digest="d1", granted=True, by="bob", now_s=11.0)
    assert state_of(store, "x") is state


@pytest.mark.parametrize(
    ("tenant", "payload_digest", "now_s"), [("t", "d2", 10.0), ("t", "d1", 50.0), ("other", "d1", 10.0)]
)
def test_an_approval_of_another_payload_too_late_or_by_another_tenant_has_no_effect(
    store: Store, tenant: str, payload_digest: str, now_s: float
) -> None:
    reserved(store, draft("x", needs_approval=True))
    with store.transaction() as transaction:
        transaction.request_approval(approval())
        with pytest.raises(Conflict):
            transaction.decide_approval(
                "" + tenant, "p", payload_digest=payload_digest, granted=True, by="a", now_s=now_s
            )
    assert state_of(store, "x") is ActionState.WAITING


def test_an_approval_is_asked_only_for_what_waits_with_that_payload(store: Store) -> None:
    reserved(store, draft("x", needs_approval=True), draft("free"))
    with store.transaction() as transaction:
        for wrong in (approval(payload_digest="d2"), approval(action_id="free"), approval(tenant="other")):
            with pytest.raises(Conflict):
                transaction.request_approval(wrong)


def test_an_approval_that_nobody_gave_in_time_refuses_the_action(store: Store) -> None:
    reserved(store, draft("x", needs_approval=True))
    with store.transaction() as transaction:
        transaction.request_approval(approval())
        assert transaction.expire_approvals(49.0) == []
        assert transaction.open_approvals("t", 50.0) == []
        assert [each.state for each in transaction.expire_approvals(50.0)] == [ApprovalState.EXPIRED]
    assert state_of(store, "x") is ActionState.REFUSED


def test_the_actions_of_a_decision_are_found_also_before_they_are_committed(store: Store) -> None:
    other = replace(draft("z"), decision_id="decision-2")
    with store.transaction() as transaction:
        first = [transaction.reserve(draft(name)) for name in ("b", "a")]
        transaction.reserve(other)
        assert transaction.actions_of("decision-1") == first
    with store.snapshot() as reader:
        assert reader.actions_of("decision-1") == first
        assert [action.draft for action in reader.actions_of("decision-2")] == [other]
        assert reader.actions_of("decision-3") == []


def test_actions_are_listed_by_state_and_tenant_in_the_order_they_were_reserved(store: Store) -> None:
    reserved(store, draft("b"), draft("a"), replace(draft("c"), tenant="u"), draft("w", needs_approval=True))
    with store.snapshot() as reader:
        assert [each.draft.action_id for each in reader.actions(ActionState.PENDING)] == ["b", "a", "c"]
        assert [each.draft.action_id for each in reader.actions(ActionState.PENDING, tenant="t", limit=1)] == ["b"]
        assert [each.draft.action_id for each in reader.actions(ActionState.PENDING, tenant="u")] == ["c"]
        assert reader.backlog() == {ActionState.PENDING: 3, ActionState.WAITING: 1}
    for action in leased(store, limit=9):
        moved(store, action, ActionState.EXECUTING, ActionState.DONE)
    with store.snapshot() as reader:
        assert reader.backlog() == {ActionState.WAITING: 1}


def test_only_actions_of_the_given_names_are_leased(store: Store) -> None:
    reserved(store, draft("a"), replace(draft("b"), name="hold"), replace(draft("c"), name="mail"))
    with store.transaction() as transaction:
        assert transaction.lease_actions("relay", now_s=1.0, lease_s=1.0, limit=9, names=()) == []
        taken = transaction.lease_actions("relay", now_s=1.0, lease_s=1.0, limit=9, names={"hold", "mail"})
        assert [action.draft.action_id for action in taken] == ["b", "c"]


def test_an_action_id_that_is_taken_is_a_conflict_whosever_it_is(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.reserve(draft("x"))
        with pytest.raises(Conflict):
            transaction.reserve(replace(draft("x"), idempotency_key="other"))
    with store.transaction() as transaction:
        for other in (replace(draft("x"), idempotency_key="other"), replace(draft("x"), tenant="u")):
            with pytest.raises(Conflict):
                transaction.reserve(other)


def test_an_action_has_one_open_request_for_approval_at_a_time(store: Store) -> None:
    reserved(store, draft("x", needs_approval=True))
    with store.transaction() as transaction:
        transaction.request_approval(approval())
        for again in (approval(), approval("q")):
            with pytest.raises(Conflict):
                transaction.request_approval(again)
        assert transaction.approvals_of("x") == [approval()]
        assert transaction.open_approvals(None, 10.0) == [approval()]
        assert transaction.open_approvals("other", 10.0) == []


def test_an_approval_expires_once_and_leaves_alone_what_was_discarded_meanwhile(store: Store) -> None:
    reserved(store, draft("x", needs_approval=True))
    with store.transaction() as transaction:
        transaction.request_approval(approval())
        transaction.move_action("x", ActionState.REFUSED, attempt=0, now_s=5.0, error="discarded")
        with pytest.raises(Conflict):
            transaction.decide_approval("t", "p", payload_digest="d1", granted=True, by="a", now_s=6.0)
        assert [each.state for each in transaction.expire_approvals(50.0)] == [ApprovalState.EXPIRED]
        assert transaction.expire_approvals(50.0) == []
    with store.snapshot() as reader:
        action = reader.action("x")
    assert action is not None
    assert (action.state, action.updated_s, action.error) == (ActionState.REFUSED, 5.0, "discarded")


def test_outcomes_are_counted_by_tenant_and_policy_from_a_time_on(store: Store) -> None:
    noted = [
        ("t", "p", "refund", 1.0),
        ("t", "p", "refund", 2.0),
        ("t", "p", "refund", 2.0),
        ("t", "p", "review", 2.0),
        ("t", "q", "refund", 2.0),
        ("u", "p", "refund", 2.0),
    ]
    with store.transaction() as transaction:
        for each in noted[:3]:
            transaction.note_outcome(*each)
    with store.transaction() as transaction:
        for each in noted[2:]:
            transaction.note_outcome(*each)
        assert transaction.count_outcomes("t", "p", 2.0) == {"refund": 3, "review": 1}
    with store.snapshot() as reader:
        assert reader.count_outcomes("t", "p", 0.0) == {"refund": 4, "review": 1}
        assert reader.count_outcomes("t", "p", 2.0, outcomes=("refund",)) == {"refund": 3}
        assert reader.count_outcomes("t", "p", 2.1) == {}
    with store.transaction() as transaction:
        assert transaction.delete_outcomes(before_s=2.0) == 1
        assert transaction.count_outcomes("t", "p", 0.0) == {"refund": 3, "review": 1}


def test_errors_and_notes_are_kept_legible_whatever_is_in_them(store: Store) -> None:
    reserved(store, draft("x"))
    (action,) = leased(store)
    with store.transaction() as transaction:
        transaction.move_action("x", ActionState.EXECUTING, attempt=action.attempt, now_s=1.0)
        dead = transaction.move_action("x", ActionState.DEAD, attempt=1, now_s=1.0, error="a\0b\ud800" + "x" * 9000)
    with store.snapshot() as reader:
        assert reader.action("x") == dead
    assert dead.error.startswith("a\ufffdb\ufffd")
