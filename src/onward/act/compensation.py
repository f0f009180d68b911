"""Undoing an action: another action with the same arguments, reserved like any other.

It happens in two cases only. A person asks for it, for an action that is DONE. Or the operator's file says
`undone_by = ["OTHER"]` and OTHER, of the same decision, has gone DEAD. It never happens by itself just because some
action failed: a notification that could not be sent does not release a hold.
"""

from __future__ import annotations

from typing import Any

import msgspec

from onward.act.ledger import Ledger
from onward.act.outbox import Keys, PayloadGone, action_id_of, canonical, digest_of, open_payload, seal_payload
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


def undo_spoiled(
    tx: Transaction, dead: Action, *, targets: Targets, keys: Keys | None, now_s: float, ledger: Ledger
) -> list[Action]:
    """Compensate the finished actions of the same decision that must not stand now that this one is dead.

    Where one cannot be undone it stays as it is, and the log says why.
    """
    undone = []
    for sibling in tx.actions_of(dead.draft.decision_id):
        if sibling.state is not ActionState.DONE or not _names(targets, sibling, dead):
            continue
        try:
            package = package_of(msgspec.json.decode(open_payload(tx, sibling.draft, keys)))
            target = targets.find(sibling.draft.name, package)
            if target is not None and dead.draft.name in target.undone_by:
                undone.append(compensate(tx, sibling, targets=targets, keys=keys, now_s=now_s, ledger=ledger))
        except (NotCompensable, PayloadGone) as error:
            ledger.note_action(tx, sibling, at_s=now_s, note=f"cannot be undone: {error.code}")
    return undone


def _names(targets: Targets, sibling: Action, dead: Action) -> bool:
    """Whether some target of the sibling names the dead one: most decisions need no payload opened."""
    return any(
        target.action == sibling.draft.name and dead.draft.name in target.undone_by for target in targets.targets
    )
