"""Undoing an action: another action with the same arguments, reserved like any other.

It happens in two cases only. A person asks for it, for an action that is DONE. Or the operator's file says
`undone_by = ["OTHER"]` and OTHER, of the same decision, has gone DEAD. It never happens by itself just because some
action failed: a notification that could not be sent does not release a hold.
"""

from __future__ import annotations

from typing import Any

import msgspec

from onward.act.ledger import Ledger
from onward.act.outbox import Keys, action_id_of, canonical, digest_of, open_payload, seal_payload
from onward.act.targets import Target, Targets
from onward.errors import OnwardError
from onward.store.records import Action, ActionDraft, ActionState
from onward.store.store import Transaction


class NotCompensable(OnwardError):
    """There is no action that undoes this one."""

    code = "NOT_COMPENSABLE"
    status = 409
    exit_code = 65


def compensate(
    tx: Transaction,
    action: Action,
    *,
    targets: Targets,
    keys: Keys | None,
    now_s: float,
    ledger: Ledger,
    by: str = "",
    note: str = "",
) -> Action:
    """Reserve what undoes an action that is DONE; asking again gives the same action.

    Raises `NotCompensable`, or `onward.act.outbox.PayloadGone` where its arguments cannot be read any more.
    """
    draft = action.draft
    if action.state is not ActionState.DONE:
        raise NotCompensable("only an action that is done can be undone", found=action.state.value)
    payload: dict[str, Any] = msgspec.json.decode(open_payload(tx, draft, keys))
    name = payload.pop("compensation", "")
    if not name:
        raise NotCompensable("the policy names no action that undoes it", found=draft.name)
    if targets.find(name, package_of(payload)) is None:
        raise NotCompensable("the action that undoes it is not allowed", found=name)
    key = f"{draft.idempotency_key}:undo"
    written = canonical(payload | {"name": name, "compensates": draft.action_id})
    undo = ActionDraft(
        action_id=action_id_of(draft.tenant, key),
        tenant=draft.tenant,
        idempotency_key=key,
        decision_id=draft.decision_id,
        name=name,
        payload=written,
        payload_digest=digest_of(written),
        created_s=now_s,
        available_s=now_s,
    )
    if draft.key_id:
        owner = tx.key(draft.key_id)
        undo = seal_payload(tx, undo, keys, owner.entity if owner else "")
    known = tx.action(undo.action_id)
    if known is not None:
        return known
    reserved = tx.reserve(undo)
    ledger.note_action(tx, reserved, at_s=now_s, by=by, note=note or f"undoes {draft.action_id}")
    return reserved


def package_of(payload: dict[str, Any]) -> str:
    """The name of the package that a payload comes from."""
    package = payload.get("package", {})
    return str(package.get("name", "")) if isinstance(package, dict) else str(package)


def spoiled_by(tx: Transaction, action: Action, target: Target) -> Action | None:
    """The dead action of the same decision because of which this one must not stand, if there is one."""
    if not target.undone_by:
        return None
    for sibling in tx.actions_of(action.draft.decision_id):
        if sibling.state is ActionState.DEAD and sibling.draft.name in target.undone_by:
            return sibling
    return None


def done_before(tx: Transaction, dead: Action, targets: Targets, package: str) -> list[Action]:
    """The finished actions of the same decision that must not stand now that this one is dead."""
    spoiled = []
    for sibling in tx.actions_of(dead.draft.decision_id):
        target = targets.find(sibling.draft.name, package)
        if sibling.state is ActionState.DONE and target is not None and dead.draft.name in target.undone_by:
            spoiled.append(sibling)
    return spoiled
