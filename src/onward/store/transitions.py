"""What a change of an action's or approval's state makes of the record: pure, and the same in every store."""

from __future__ import annotations

from dataclasses import replace

from onward.store.records import ACTION_TRANSITIONS, Action, ActionDraft, ActionState, Approval, ApprovalState
from onward.store.store import Conflict
from onward.store.validity import legible, valid_text, valid_time

AFTER_LEASE = {ActionState.LEASED: ActionState.PENDING, ActionState.EXECUTING: ActionState.UNKNOWN}
"""What becomes of an action whose lease ran out."""
LEASE_RAN_OUT = "the lease ran out"


def reserved(draft: ActionDraft) -> Action:
    """The draft as it enters the outbox."""
    state = ActionState.WAITING if draft.needs_approval else ActionState.PENDING
    return Action(draft=draft, state=state, attempt=0, available_s=draft.available_s, updated_s=draft.created_s)


def same_request(taken: Action, draft: ActionDraft) -> Action:
    """The action that has the draft's idempotency key, if the draft asks for the same; else a `Conflict`."""
    if (taken.draft.name, taken.draft.payload_digest) != (draft.name, draft.payload_digest):
        raise Conflict("the idempotency key belongs to another action", found=draft.idempotency_key)
    return taken


def leased(action: Action, owner: str, *, now_s: float, lease_s: float) -> Action:
    """The action in the hands of a relay, one attempt more."""
    return replace(
        action,
        state=ActionState.LEASED,
        attempt=action.attempt + 1,
        owner=owner,
        lease_until_s=now_s + lease_s,
        updated_s=now_s,
    )


def moved(
    action: Action | None,
    action_id: str,
    to: ActionState,
    *,
    attempt: int,
    now_s: float,
    available_s: float | None = None,
    error: str = "",
    receipt: bytes = b"",
) -> Action:
    """The action in its next state; `Conflict` where the step is not allowed."""
    if action is None:
        raise Conflict("there is no such action", found=action_id)
    if action.attempt != attempt:
        raise Conflict("another attempt has begun", expected=f"attempt {action.attempt}", found=f"{attempt}")
    if to not in ACTION_TRANSITIONS[action.state] or to is ActionState.LEASED:
        raise Conflict(f"an action that is {action.state.value} does not become {to.value}", where=action_id)
    holds_lease = to is ActionState.EXECUTING
    due_s = action.available_s
    if to is ActionState.PENDING:
        due_s = valid_time("available_s", now_s if available_s is None else available_s)
    return replace(
        action,
        state=to,
        available_s=due_s,
        updated_s=valid_time("now_s", now_s),
        owner=action.owner if holds_lease else "",
        lease_until_s=action.lease_until_s if holds_lease else 0.0,
        error=legible(error),
        receipt=receipt,
    )


def check_request(approval: Approval, action: Action | None, asked: list[Approval]) -> None:
    """A `Conflict` unless this approval may be asked for: of what waits, with that payload, once at a time."""
    if action is None or action.state is not ActionState.WAITING or action.draft.tenant != approval.tenant:
        raise Conflict("the action does not wait for an approval", found=approval.action_id)
    if action.draft.payload_digest != approval.payload_digest:
        raise Conflict("the action has another payload", found=approval.payload_digest)
    if any(other.state is ApprovalState.OPEN for other in asked):
        raise Conflict("the action has an open request for approval", found=approval.action_id)


def decided(
    approval: Approval | None,
    tenant: str,
    approval_id: str,
    *,
    payload_digest: str,
    granted: bool,
    by: str,
    now_s: float,
    note: str = "",
) -> Approval:
    """The approval with a person's decision; `Conflict` where there is nothing of that kind to decide."""
    if approval is None or approval.tenant != tenant:
        raise Conflict("there is no such approval", found=approval_id)
    if approval.payload_digest != payload_digest:
        raise Conflict("the approval is for another payload", found=payload_digest)
    if approval.state is not ApprovalState.OPEN or approval.expires_s <= now_s:
        raise Conflict("the approval is not open any more", found=approval_id)
    state = ApprovalState.GRANTED if granted else ApprovalState.REFUSED
    return replace(
        approval, state=state, decided_by=valid_text("by", by), decided_s=valid_time("now_s", now_s), note=legible(note)
    )


def expired(approval: Approval, now_s: float) -> Approval:
    """The approval that nobody gave in time."""
    return replace(approval, state=ApprovalState.EXPIRED, decided_s=now_s)


def after_approval(approval: Approval, action: Action, now_s: float) -> Action:
    """The action after its approval has ended; it must be WAITING."""
    to = ActionState.PENDING if approval.state is ApprovalState.GRANTED else ActionState.REFUSED
    # What was granted is due when it was meant to be, not before.
    available_s = max(now_s, action.draft.available_s)
    return moved(action, approval.action_id, to, attempt=action.attempt, now_s=now_s, available_s=available_s)
