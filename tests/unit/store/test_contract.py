"""What every store keeps to, whatever it is made of. The stores it runs on are listed in `conftest.py`."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from onward.store.chain import first_break
from onward.store.records import (
    Action,
    ActionDraft,
    ActionState,
    Approval,
    ApprovalState,
    AuditDraft,
    Conversation,
    EntityKey,
    ProfileEvent,
    Recording,
    Turn,
)
from onward.store.store import Conflict, Store


def audit(name: str, *, subject: str = "decision-1", key_id: str = "") -> AuditDraft:
    return AuditDraft(
        entry_id=name, at_s=1.5, tenant="t", kind="decision", subject=subject, body=b"{}", key_id=key_id, sealed=b"?"
    )


def draft(name: str, *, available_s: float = 0.0, needs_approval: bool = False) -> ActionDraft:
    return ActionDraft(
        action_id=name,
        tenant="t",
        idempotency_key=f"key-{name}",
        decision_id="decision-1",
        name="notify",
        payload=b"{}",
        payload_digest="d1",
        created_s=0.0,
        available_s=available_s,
        needs_approval=needs_approval,
    )


def reserved(store: Store, *drafts: ActionDraft) -> None:
    with store.transaction() as transaction:
        for each in drafts:
            transaction.reserve(each)


def leased(
    store: Store, *, now_s: float = 10.0, lease_s: float = 5.0, limit: int = 1, owner: str = "relay"
) -> list[Action]:
    with store.transaction() as transaction:
        return transaction.lease_actions(owner, now_s=now_s, lease_s=lease_s, limit=limit)


def moved(store: Store, action: Action, *states: ActionState) -> Action:
    with store.transaction() as transaction:
        for state in states:
            action = transaction.move_action(action.draft.action_id, state, attempt=action.attempt, now_s=11.0)
    return action


def state_of(store: Store, action_id: str) -> ActionState:
    with store.snapshot() as reader:
        action = reader.action(action_id)
    assert action is not None
    return action.state


def event(
    name: str, at_s: float, *, entity: str = "e", tenant: str = "t", kind: str = "buy", late_s: float = 0.0
) -> ProfileEvent:
    return ProfileEvent(
        event_id=name, tenant=tenant, entity=entity, kind=kind, at_s=at_s, recorded_s=at_s + late_s, data=b"1"
    )


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


def test_transactions_of_several_threads_take_turns(store: Store) -> None:
    def write(thread: int) -> None:
        for index in range(20):
            with store.transaction() as transaction:
                transaction.append_audit(audit(f"{thread}-{index}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as reader:
        entries = reader.audit_entries()
    assert [entry.sequence for entry in entries] == list(range(1, 81))
    assert first_break(entries) is None


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


def approval(name: str = "p", **changes: str) -> Approval:
    record = Approval(approval_id=name, tenant="t", action_id="x", payload_digest="d1", requested_s=1.0, expires_s=50.0)
    return replace(record, **changes)  # type: ignore[arg-type]


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


def test_events_are_read_as_of_a_time_newest_first_and_counted(store: Store) -> None:
    with store.transaction() as transaction:
        for index in range(5):
            assert transaction.append_event(event(f"e{index}", float(index), kind="buy" if index % 2 else "view"))
        assert not transaction.append_event(event("e0", 77.0))
    with store.snapshot() as reader:
        assert [each.event_id for each in reader.events("t", "e", as_of_s=3.0)] == ["e2", "e1", "e0"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=9.0, limit=2)] == ["e4", "e3"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=9.0, kinds=("buy",))] == ["e3", "e1"]
        assert reader.count_events("t", "e", "view", since_s=2.0, as_of_s=4.0) == 1


def test_a_read_of_the_past_does_not_see_what_came_late(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_event(event("early", 1.0))
        transaction.append_event(event("late", 2.0, late_s=100.0))
    with store.snapshot() as reader:
        assert [each.event_id for each in reader.events("t", "e", as_of_s=5.0, known_s=5.0)] == ["early"]
        assert [each.event_id for each in reader.events("t", "e", as_of_s=5.0)] == ["late", "early"]


def test_tenants_do_not_see_each_other(store: Store) -> None:
    with store.transaction() as transaction:
        transaction.append_event(event("e0", 1.0))
        assert transaction.append_event(event("e0", 1.0, tenant="u"))
        transaction.open_conversation(
            Conversation(conversation_id="c", tenant="t", entity="e", model="m", created_s=1.0)
        )
        assert len(transaction.events("t", "e", as_of_s=9.0)) == 1
        assert transaction.conversation("u", "c") is None
        assert transaction.turns("u", "c") == []
        assert not transaction.delete_conversation("u", "c")
        with pytest.raises(Conflict):
            transaction.append_turn("u", Turn(conversation_id="c", index=0, role="user", content=b"", at_s=1.0))


def test_turns_are_added_in_order_without_gaps(store: Store) -> None:
    turns = [Turn(conversation_id="c", index=index, role="user", content=b"hi", at_s=1.0) for index in range(3)]
    with store.transaction() as transaction:
        transaction.open_conversation(
            Conversation(conversation_id="c", tenant="t", entity="", model="m", created_s=1.0)
        )
        for turn in turns:
            transaction.append_turn("t", turn)
        for wrong in (turns[2], replace(turns[2], index=4)):
            with pytest.raises(Conflict):
                transaction.append_turn("t", wrong)
        assert transaction.turns("t", "c") == turns
        assert transaction.turns("t", "c", limit=2) == turns[1:]
        assert transaction.delete_conversation("t", "c")
        assert transaction.turns("t", "c") == []


def recording(name: str, at_s: float, *, entity: str = "e") -> Recording:
    return Recording(
        recording_id=name,
        tenant="t",
        entity=entity,
        model="m",
        version="1",
        package_digest="d",
        at_s=at_s,
        duration_s=0.1,
        input=b"{}",
        answer=b"{}",
    )


def test_recordings_are_read_from_a_time_on_and_deleted_before_one(store: Store) -> None:
    with store.transaction() as transaction:
        for index in (3, 1, 2):
            transaction.add_recording(recording(f"r{index}", float(index)))
        with pytest.raises(Conflict):
            transaction.add_recording(recording("r1", 9.0))
        assert [row.recording_id for row in transaction.recordings("m", since_s=2.0)] == ["r2", "r3"]
        assert transaction.recordings("other") == []
        assert transaction.delete_recordings(before_s=3.0) == 2
        assert [row.recording_id for row in transaction.recordings("m")] == ["r3"]


def test_erasing_an_entity_destroys_its_key_and_data_leaves_others_and_keeps_the_chain_whole(store: Store) -> None:
    key = EntityKey(key_id="k1", tenant="t", entity="e", wrapped=b"secret", created_s=1.0)
    with store.transaction() as transaction:
        transaction.add_key(key)
        with pytest.raises(Conflict):
            transaction.add_key(replace(key, key_id="k2"))
        transaction.append_audit(audit("a", key_id="k1"))
        for entity in ("e", "f"):
            transaction.append_event(event(f"event-{entity}", 1.0, entity=entity))
            transaction.add_recording(recording(f"recording-{entity}", 1.0, entity=entity))
            transaction.open_conversation(
                Conversation(conversation_id=f"c-{entity}", tenant="t", entity=entity, model="m", created_s=1.0)
            )
    with store.transaction() as transaction:
        erasure = transaction.erase_entity("t", "e", 5.0)
        assert (erasure.keys, erasure.events, erasure.conversations, erasure.recordings) == (1, 1, 1, 1)
        again = transaction.erase_entity("t", "e", 6.0)
        assert (again.keys, again.events, again.conversations, again.recordings) == (0, 0, 0, 0)
    with store.snapshot() as reader:
        assert reader.key_of("t", "e") is None
        destroyed = reader.key("k1")
        assert destroyed is not None
        assert (destroyed.entity, destroyed.wrapped, destroyed.destroyed_s) == ("", b"", 5.0)
        assert reader.events("t", "e", as_of_s=9.0) == []
        assert len(reader.events("t", "f", as_of_s=9.0)) == 1
        assert reader.conversation("t", "c-e") is None
        assert reader.conversation("t", "c-f") is not None
        assert [row.entity for row in reader.recordings("m")] == ["f"]
        assert first_break(reader.audit_entries()) is None
    with store.transaction() as transaction:  # whoever comes back is a stranger with a new key
        transaction.add_key(replace(key, key_id="k2"))
        found = transaction.key_of("t", "e")
        assert found is not None
        assert found.key_id == "k2"
