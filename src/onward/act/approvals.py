"""A person's yes or no to an action that waits: bound to the payload they saw, once, in time, and with their name.

Whoever decides sends the payload's digest back; where the action has another by then, nothing happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from onward.act.ledger import Ledger, audit_ledger
from onward.act.outbox import Keys, PayloadGone, open_payload
from onward.store.records import Action, Approval
from onward.store.store import Conflict, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a person is asked: the action's payload as it would be sent, None (`hidden` says why) if unreadable."""

    approval: Approval
    action: Action
    payload: dict[str, Any] | None
    hidden: str = ""


def waiting(
    tx: Transaction, tenant: str | None, now_s: float, *, keys: Keys | None = None, limit: int = 100
) -> list[Request]:
    """What can be decided now, oldest first; None: of all tenants."""
    requests = []
    for approval in tx.open_approvals(tenant, now_s, limit=limit):
        action = tx.action(approval.action_id)
        if action is not None:
            payload, hidden = readable(tx, action, keys)
            requests.append(Request(approval=approval, action=action, payload=payload, hidden=hidden))
    return requests


def readable(tx: Transaction, action: Action, keys: Keys | None) -> tuple[dict[str, Any] | None, str]:
    """An action's payload, or None and the reason why it cannot be shown."""
    try:
        payload: dict[str, Any] = msgspec.json.decode(open_payload(tx, action.draft, keys))
    except PayloadGone as gone:
        return None, gone.code
    return payload, ""


def decide(
    tx: Transaction,
    tenant: str,
    approval_id: str,
    *,
    payload_digest: str,
    granted: bool,
    by: str,
    now_s: float,
    note: str = "",
    ledger: Ledger | None = None,
) -> Approval:
    """Record a decision: the action becomes PENDING, or REFUSED for good; audited.

    Raises `Conflict` where the digest is another, the request has been decided or has expired, or nobody is named.
    """
    if not by.strip():
        raise Conflict("an approval needs the name of who decides", where="by")
    ledger = ledger or audit_ledger()
    approval = tx.decide_approval(
        tenant, approval_id, payload_digest=payload_digest, granted=granted, by=by, now_s=now_s, note=note
    )
    ledger.note_approval(tx, approval, at_s=now_s)
    action = tx.action(approval.action_id)
    if action is not None:
        ledger.note_action(tx, action, at_s=now_s, by=by)
    return approval
