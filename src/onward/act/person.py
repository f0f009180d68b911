"""What a person may do to an action in the outbox: retry, discard, confirm, compensate. Each is audited with a name.

Every call raises `Conflict` for an action that does not exist, is another tenant's, or is not in a state for it.
"""

from __future__ import annotations

from onward.act.compensation import compensate as undo
from onward.act.compensation import undo_spoiled
from onward.act.ledger import Ledger, audit_ledger
from onward.act.outbox import Keys
from onward.act.targets import Targets
from onward.store.records import Action, ActionState
from onward.store.store import Conflict, Transaction


def retry(
    tx: Transaction,
    tenant: str | None,
    action_id: str,
    *,
    by: str,
    now_s: float,
    note: str = "",
    ledger: Ledger | None = None,
) -> Action:
    """Let a dead action be tried anew, or one of unknown outcome, of which the person knows that it did not happen."""
    allowed = (ActionState.DEAD, ActionState.UNKNOWN)
    return _move(tx, tenant, action_id, ActionState.PENDING, allowed, by=by, now_s=now_s, note=note, ledger=ledger)


def discard(
    tx: Transaction,
    tenant: str | None,
    action_id: str,
    *,
    by: str,
    now_s: float,
    note: str = "",
    targets: Targets | None = None,
    keys: Keys | None = None,
    ledger: Ledger | None = None,
) -> Action:
    """Give an action up that has not begun, or whose outcome is unknown: it becomes DEAD.

    With `targets`, what names it in `undone_by` is compensated, as when it dies by itself.
    """
    allowed = (ActionState.PENDING, ActionState.UNKNOWN)
    dead = _move(
        tx, tenant, action_id, ActionState.DEAD, allowed, by=by, now_s=now_s, note=note, ledger=ledger,
        error="DISCARDED",
    )  # fmt: skip
    if targets is not None:
        undo_spoiled(tx, dead, targets=targets, keys=keys, now_s=now_s, ledger=ledger or audit_ledger())
    return dead


def confirm(
    tx: Transaction,
    tenant: str | None,
    action_id: str,
    *,
    by: str,
    now_s: float,
    note: str = "",
    ledger: Ledger | None = None,
) -> Action:
    """Say of an action of unknown outcome that it did happen."""
    allowed = (ActionState.UNKNOWN,)
    return _move(tx, tenant, action_id, ActionState.DONE, allowed, by=by, now_s=now_s, note=note, ledger=ledger)


def compensate(
    tx: Transaction,
    tenant: str | None,
    action_id: str,
    *,
    targets: Targets,
    keys: Keys | None,
    by: str,
    now_s: float,
    note: str = "",
    ledger: Ledger | None = None,
) -> Action:
    """Undo an action that is DONE, by the action that the policy names for it; returns that one.

    Raises `onward.act.compensation.NotCompensable` where there is none.
    """
    action = _owned(tx, tenant, action_id, by)
    ledger = ledger or audit_ledger()
    return undo(tx, action, targets=targets, keys=keys, now_s=now_s, ledger=ledger, by=by, note=note)


def _move(
    tx: Transaction,
    tenant: str | None,
    action_id: str,
    to: ActionState,
    allowed: tuple[ActionState, ...],
    *,
    by: str,
    now_s: float,
    note: str,
    ledger: Ledger | None,
    error: str = "",
) -> Action:
    action = _owned(tx, tenant, action_id, by)
    if action.state not in allowed:
        expected = " or ".join(state.value for state in allowed)
        raise Conflict("the action is in another state", where=action_id, expected=expected, found=action.state.value)
    moved = tx.move_action(action_id, to, attempt=action.attempt, now_s=now_s, error=error)
    (ledger or audit_ledger()).note_action(tx, moved, at_s=now_s, by=by, note=note)
    return moved


def _owned(tx: Transaction, tenant: str | None, action_id: str, by: str) -> Action:
    """The action; `tenant` None is the operator, who may see all."""
    if not by.strip():
        raise Conflict("this needs the name of who does it", where="by")
    action = tx.action(action_id)
    if action is None or (tenant is not None and action.draft.tenant != tenant):
        raise Conflict("there is no such action", found=action_id)
    return action
