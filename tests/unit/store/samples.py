"""Records and steps that the tests of the stores share."""

from __future__ import annotations

from dataclasses import replace

from onward.store.records import Action, ActionDraft, ActionState, Approval, AuditDraft, ProfileEvent, Recording
from onward.store.store import Store


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


def event(
    name: str, at_s: float, *, entity: str = "e", tenant: str = "t", kind: str = "buy", late_s: float = 0.0
) -> ProfileEvent:
    return ProfileEvent(
        event_id=name, tenant=tenant, entity=entity, kind=kind, at_s=at_s, recorded_s=at_s + late_s, data=b"1"
    )


def approval(name: str = "p", **changes: str) -> Approval:
    record = Approval(approval_id=name, tenant="t", action_id="x", payload_digest="d1", requested_s=1.0, expires_s=50.0)
    return replace(record, **changes)  # type: ignore[arg-type]


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
