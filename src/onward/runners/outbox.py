"""The outbox for a person: what is under way, what waits for a yes, what has to be looked at, and how to stop it all.

Everything done here is done by somebody, whose name goes into the audit log in the same transaction.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from onward.act import approvals, kill, person
from onward.act.outbox import Keys
from onward.act.targets import load_targets
from onward.decide.audit import UnreadableEntry, read_body
from onward.errors import NotFound, UsageError
from onward.runners.audit import summary
from onward.runners.installation import find_keys, open_keys, open_store
from onward.runners.tables import is_for_reading, moment, print_json, print_line, print_table
from onward.store.records import Action, ActionState, Approval
from onward.store.store import Conflict, Reader, Transaction

SHORTEST_DIGEST = 12
"""So many digits of a payload's hash are enough to say which payload somebody saw."""


def list_actions(store_url: str, *, tenant: str | None, states: Sequence[str], limit: int, as_json: bool) -> None:
    """The actions in some states, those first that were reserved first."""
    with open_store(store_url) as store, store.snapshot() as reader:
        found = [
            action for state in states for action in reader.actions(ActionState(state), tenant=tenant, limit=limit)
        ]
    if not is_for_reading(as_json):
        print_json(*map(plain_action, found))
    elif not found:
        print_line("no actions in these states", style="dim")
    else:
        rows = [
            (action.draft.action_id, action.state.value, action.draft.name, action.draft.tenant, action.attempt,
             moment(action.updated_s), action.error)
            for action in found
        ]  # fmt: skip
        print_table("", ("action", "state", "name", "tenant", "attempt", "since", "error"), rows)


def plain_action(action: Action) -> dict[str, Any]:
    """An action without its payload, as JSON."""
    draft = action.draft
    return {
        "action_id": draft.action_id, "state": action.state.value, "name": draft.name, "tenant": draft.tenant,
        "decision_id": draft.decision_id, "attempt": action.attempt, "created_s": draft.created_s,
        "available_s": action.available_s, "updated_s": action.updated_s, "error": action.error,
        "payload_digest": draft.payload_digest, "needs_approval": draft.needs_approval,
        "private": bool(draft.key_id), "idempotency_key": draft.idempotency_key,
    }  # fmt: skip


def show_action(action_id: str, store_url: str, *, key_file: Path | None, as_json: bool) -> None:
    """One action with its payload, its requests for approval, and its entries in the audit log."""
    with open_store(store_url) as store:
        keys = find_keys(store_url, key_file)
        with store.snapshot() as reader:
            action = _action(reader, action_id)
            payload = _payload(reader, action, keys)
            asked = reader.approvals_of(action_id)
            entries = reader.audit_of(action_id)
    history = [
        {"sequence": entry.sequence, "at": moment(entry.draft.at_s), "kind": entry.draft.kind, "what": _what(entry)}
        for entry in entries
    ]
    receipt = action.receipt.decode("utf-8", "replace")
    report = plain_action(action) | payload | {
        "receipt": receipt, "approvals": list(map(_plain_approval, asked)), "history": history
    }  # fmt: skip
    if not is_for_reading(as_json):
        print_json(report)
        return
    shown = {name: value for name, value in report.items() if name not in ("payload", "approvals", "history")}
    print_table("", ("", ""), [(name, moment(value) if name.endswith("_s") else value)
                          for name, value in shown.items() if value not in ("", None)])  # fmt: skip
    _print_payload(payload)
    for part, columns in (("approvals", ("approval_id", "state", "decided_by", "note")),
                          ("history", ("sequence", "at", "kind", "what"))):  # fmt: skip
        if report[part]:
            print_table(part, columns, [[row[column] for column in columns] for row in report[part]])


def _what(entry: Any) -> str:
    try:
        return summary(read_body(entry))
    except UnreadableEntry as error:
        return str(error)


def retry(action_id: str, store_url: str, *, by: str, note: str, as_json: bool) -> None:
    """Put a dead action back into the outbox."""

    def change(tx: Transaction, tenant: str) -> Action:
        _must_be(_action(tx, action_id), ActionState.DEAD)
        return person.retry(tx, tenant, action_id, by=by, now_s=time.time(), note=note)

    _change(action_id, store_url, change, as_json)


def discard(action_id: str, store_url: str, *, by: str, note: str, as_json: bool) -> None:
    """Give an action up that has not begun, or whose outcome is unknown."""

    def change(tx: Transaction, tenant: str) -> Action:
        return person.discard(tx, tenant, action_id, by=by, now_s=time.time(), note=note)

    _change(action_id, store_url, change, as_json)


def reconcile(action_id: str, store_url: str, *, happened: bool, by: str, note: str, as_json: bool) -> None:
    """Settle what may have happened, as a person found out: done, or to be tried again."""
    settle = person.confirm if happened else person.retry

    def change(tx: Transaction, tenant: str) -> Action:
        _must_be(_action(tx, action_id), ActionState.UNKNOWN)
        return settle(tx, tenant, action_id, by=by, now_s=time.time(), note=note)

    _change(action_id, store_url, change, as_json)


def _must_be(action: Action, state: ActionState) -> None:
    if action.state is not state:
        hint = "; see `onward actions reconcile`" if action.state is ActionState.UNKNOWN else ""
        raise Conflict("the action is in another state", where=action.draft.action_id, expected=state.value,
                       found=action.state.value + hint)  # fmt: skip


def compensate(
    action_id: str, store_url: str, *, targets: Path, key_file: Path | None, by: str, note: str, as_json: bool
) -> None:
    """Undo a done action, by the action that its policy names for it."""
    allowed = load_targets(targets)

    def change(tx: Transaction, tenant: str) -> Action:
        return person.compensate(tx, tenant, action_id, targets=allowed, keys=open_keys(store_url, key_file), by=by,
                                 now_s=time.time(), note=note)  # fmt: skip

    _change(action_id, store_url, change, as_json)


def _change(action_id: str, store_url: str, change: Callable[[Transaction, str], Action], as_json: bool) -> None:
    with open_store(store_url) as store, store.transaction() as tx:
        action = change(tx, _action(tx, action_id).draft.tenant)
    if is_for_reading(as_json):
        print_line(f"{action.draft.name} {action.draft.action_id} is {action.state.value}", style="green")
    else:
        print_json(plain_action(action))


def list_approvals(store_url: str, *, key_file: Path | None, tenant: str | None, as_json: bool) -> None:
    """What can be approved now, oldest first."""
    with open_store(store_url) as store:
        keys = find_keys(store_url, key_file)
        with store.snapshot() as reader:
            rows = [_request(reader, approval, keys) for approval in reader.open_approvals(tenant, time.time())]
    if not is_for_reading(as_json):
        print_json(*rows)
        return
    if not rows:
        print_line("nothing waits for an approval", style="dim")
    for row in rows:
        _print_request(row)


def _request(reader: Reader, approval: Approval, keys: Keys | None) -> dict[str, Any]:
    action = _action(reader, approval.action_id)
    name = {"name": action.draft.name, "decision_id": action.draft.decision_id}
    return _plain_approval(approval) | name | _payload(reader, action, keys)


def _print_request(row: Mapping[str, Any]) -> None:
    print_line(f"{row['approval_id']}  {row['name']}  tenant {row['tenant']}", style="bold")
    print_line(f"  asked {moment(row['requested_s'])}, until {moment(row['expires_s'])}", style="dim")
    _print_payload(row)
    print_line(f"  digest {row['payload_digest']}", style="dim")


def approve(
    approval_id: str, store_url: str, *, digest: str, key_file: Path | None, by: str, note: str, as_json: bool
) -> None:
    """Approve what somebody saw: the payload of that digest, or the one shown here and confirmed."""
    with open_store(store_url) as store:
        with store.snapshot() as reader:
            approval = _approval(reader, approval_id)
            if not digest:
                if not (sys.stdin.isatty() and is_for_reading(as_json)):
                    expected = f"--digest with {SHORTEST_DIGEST} digits or more, from `onward approvals list`"
                    raise UsageError("an approval is for a payload that was seen", expected=expected)
                _print_request(_request(reader, approval, find_keys(store_url, key_file)))
        if not digest:
            click.confirm("Approve this?", abort=True)
            digest = approval.payload_digest
        if len(digest) >= SHORTEST_DIGEST and approval.payload_digest.startswith(digest.lower()):
            digest = approval.payload_digest  # anything else is refused below, as another payload
        with store.transaction() as tx:
            decided = approvals.decide(tx, approval.tenant, approval_id, payload_digest=digest, granted=True, by=by,
                                       now_s=time.time(), note=note)  # fmt: skip
    _print_decided(decided, as_json)


def refuse(approval_id: str, store_url: str, *, by: str, note: str, as_json: bool) -> None:
    """Refuse an action, whatever its payload."""
    with open_store(store_url) as store, store.transaction() as tx:
        approval = _approval(tx, approval_id)
        decided = approvals.decide(tx, approval.tenant, approval_id, payload_digest=approval.payload_digest,
                                   granted=False, by=by, now_s=time.time(), note=note)  # fmt: skip
    _print_decided(decided, as_json)


def _print_decided(approval: Approval, as_json: bool) -> None:
    if is_for_reading(as_json):
        print_line(f"{approval.approval_id} is {approval.state.value} by {approval.decided_by}", style="green")
    else:
        print_json(_plain_approval(approval))


def turn_kill_switch(
    store_url: str, *, on: bool, tenant: str | None, action: str | None, by: str, note: str, as_json: bool
) -> None:
    """Stop actions, or let them go on. Works before there is a store, so that nothing begins by surprise."""
    if tenant and action:
        raise UsageError("a switch is for a tenant or for an action", expected="--tenant or --action")
    with open_store(store_url, make=True) as store, store.transaction() as tx:
        switch = kill.turn(tx, on=on, by=by, at_s=time.time(), tenant=tenant or "", action=action or "", note=note)
    if is_for_reading(as_json):
        said = "no action begins any more" if on else "actions go on"
        print_line(f"{switch.name}: {said}", style="yellow" if on else "green")
    else:
        print_json(msgspec.to_builtins(switch))


def show_kill_switches(store_url: str, *, as_json: bool) -> None:
    """Every switch that was ever turned."""
    with open_store(store_url) as store, store.snapshot() as reader:
        switches = list(reader.switches().values())
    if not is_for_reading(as_json):
        print_json(*map(msgspec.to_builtins, switches))
    elif not switches:
        print_line("no switch was ever turned: actions go on", style="dim")
    else:
        rows = [(each.name, "stopped" if each.on else "goes on", each.by, moment(each.at_s)) for each in switches]
        print_table("", ("what", "state", "by", "since"), rows)


def _payload(reader: Reader, action: Action, keys: Keys | None) -> dict[str, Any]:
    """The payload, if it can be read; else why not."""
    payload, hidden = approvals.readable(cast("Transaction", reader), action, keys)  # it only reads
    return {"payload": payload} | ({"hidden": hidden} if hidden else {})


def _print_payload(row: Mapping[str, Any]) -> None:
    payload = row["payload"]
    if payload is None:
        print_line(f"  payload cannot be read: {row['hidden']}", style="yellow")
        return
    for name, value in payload.get("arguments", {}).items():
        print_line(f"  {name} = {msgspec.json.encode(value).decode()}")


def _plain_approval(approval: Approval) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(approval)
    return values


def _action(reader: Reader, action_id: str) -> Action:
    action = reader.action(action_id)
    if action is None:
        raise NotFound("no such action", where=action_id, expected="an id from `onward actions list`")
    return action


def _approval(reader: Reader, approval_id: str) -> Approval:
    approval = reader.approval(approval_id)
    if approval is None:
        raise NotFound("no such approval", where=approval_id, expected="an id from `onward approvals list`")
    return approval
