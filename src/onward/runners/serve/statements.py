"""What the store tells of decisions, actions, approvals and the audit log, as JSON can hold it. Only reads.

A caller is told of its own decisions and no more than became of them; what was sent and answered, and an action's
payload, only who runs the server may see.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from onward.act.approvals import Request, readable
from onward.act.desk import DENIED, decision_entry, taken
from onward.act.outbox import Keys
from onward.decide.audit import HiddenDecision, read_body, read_decision
from onward.errors import NotFound
from onward.generate.answer import readable_decision
from onward.store.records import Action, ActionState, Approval, AuditEntry, Switch
from onward.store.store import Reader, Transaction
from onward.telemetry import Backlog

_PAGE_BYTES = 16 << 20
UNDER_WAY = frozenset(state.value for state in (ActionState.PENDING, ActionState.LEASED, ActionState.EXECUTING))
"""States that an action leaves by itself, before long. The others are ends, or wait for a person or for a target."""


def decision(reader: Reader, keys: Keys | None, tenant: str, decision_id: str) -> dict[str, Any]:
    """A tenant's decision and where its actions stand. Raises `NotFound`."""
    entry = decision_entry(reader, tenant, decision_id)
    if entry is None:
        raise NotFound("no such decision", where=decision_id[:80])
    body = read_body(entry)
    recorded = read_decision(entry, keys, reader)
    reserved = reader.actions_of(decision_id)
    told: dict[str, Any] = {"decision_id": decision_id}
    if isinstance(recorded, HiddenDecision):
        actions = [_brief(action) for action in reserved]
        told |= {"outcome": recorded.outcome, "erased": recorded.erased, "actions": actions}
    else:
        states = {action.draft.action_id: action for action in reserved}
        told |= readable_decision(recorded.decision)
        told["actions"] = [
            _brief(states[one.action_id]) if one.action_id in states
            else {"action_id": one.action_id, "name": one.name, "state": DENIED}
            for one in taken(recorded.decision, reserved, decision_id, tenant)
        ]  # fmt: skip
    settled = not any(one["state"] in UNDER_WAY for one in told["actions"])
    facts = body["facts"]
    if facts["failure"]:
        told["failure"] = facts["failure"]
    return told | {
        "settled": settled, "at_s": entry.draft.at_s, "sequence": entry.sequence, "package": body["package"]["name"],
        "version": body["package"]["version"], "policy": body["policy"],
    }  # fmt: skip


def _brief(action: Action) -> dict[str, Any]:
    told = {"action_id": action.draft.action_id, "name": action.draft.name, "state": action.state.value}
    return told | ({"error": action.error} if action.error else {})


def action(tx: Transaction, keys: Keys | None, one: Action) -> dict[str, Any]:
    """An action whole, for who runs the server, with its approvals and its way."""
    payload, hidden = readable(tx, one, keys)
    told = action_line(one) | {"payload": payload} | ({"hidden": hidden} if hidden else {})
    return told | {
        "receipt": _receipt(tx, keys, one),
        "approvals": [approval(each) for each in tx.approvals_of(one.draft.action_id)],
        "history": [audit_line(entry) for entry in tx.audit_of(one.draft.action_id)],
    }


def action_line(one: Action) -> dict[str, Any]:
    """An action in a list."""
    draft = one.draft
    return {
        "action_id": draft.action_id, "name": draft.name, "state": one.state.value, "tenant": draft.tenant,
        "decision_id": draft.decision_id, "attempt": one.attempt, "error": one.error, "owner": one.owner,
        "payload_digest": draft.payload_digest, "created_s": draft.created_s, "available_s": one.available_s,
        "updated_s": one.updated_s,
    }  # fmt: skip


def _receipt(tx: Transaction, keys: Keys | None, one: Action) -> Any:
    """What the target answered; None where it said nothing or it cannot be read (any more)."""
    key_id = one.draft.key_id
    if not one.receipt or not key_id:
        return _json(one.receipt) if one.receipt else None
    key = tx.key(key_id)
    if keys is None or key is None or key.destroyed_s is not None:
        return None
    opened = keys.open(tx, key_id, one.receipt)
    return None if opened is None else _json(opened)


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")


def approval(one: Approval) -> dict[str, Any]:
    """A request for approval."""
    told = {
        "approval_id": one.approval_id, "tenant": one.tenant, "action_id": one.action_id, "state": one.state.value,
        "payload_digest": one.payload_digest, "requested_s": one.requested_s, "expires_s": one.expires_s,
    }  # fmt: skip
    decided = {"decided_by": one.decided_by, "decided_s": one.decided_s, "note": one.note}
    return told | (decided if one.decided_s else {})


def request(one: Request) -> dict[str, Any]:
    """A request that a person can decide now, with exactly what would be sent."""
    draft = one.action.draft
    told = approval(one.approval) | {"name": draft.name, "decision_id": draft.decision_id, "payload": one.payload}
    return told | ({"hidden": one.hidden} if one.hidden else {})


def audit_line(entry: AuditEntry) -> dict[str, Any]:
    """An entry of the audit log, without what is sealed."""
    draft = entry.draft
    told = {
        "sequence": entry.sequence, "at_s": draft.at_s, "tenant": draft.tenant, "kind": draft.kind,
        "subject": draft.subject, "body": _json(draft.body), "digest": entry.digest,
    }  # fmt: skip
    return told | ({"key_id": draft.key_id} if draft.key_id else {})


def audit_page(lines: list[dict[str, Any]], *, newest: bool) -> list[dict[str, Any]]:
    """Of an audit log's lines, at least one and at most 16 MiB: the first, or, where the `newest` matter, the last."""
    page: list[dict[str, Any]] = []
    left_bytes = _PAGE_BYTES
    for line in reversed(lines) if newest else lines:
        left_bytes -= len(msgspec.json.encode(line))
        if page and left_bytes < 0:
            break
        page.append(line)
    return page[::-1] if newest else page


def switches(turned: Iterable[Switch]) -> list[dict[str, Any]]:
    """The kill switches that were ever turned."""
    return [{"name": one.name, "on": one.on, "by": one.by, "at_s": one.at_s} for one in turned]


def backlog(reader: Reader) -> Backlog:
    """What waits in the outbox."""
    states = {state.value: count for state, count in reader.backlog().items()}
    oldest = reader.actions(ActionState.PENDING, limit=1)
    return Backlog(states=states, oldest_s=max(time.time() - oldest[0].draft.created_s, 0.0) if oldest else 0.0)
