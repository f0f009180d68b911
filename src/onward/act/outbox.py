"""From a decision to actions in the outbox: which are allowed, under which key, with what payload, after whose yes.

`plan` is pure and decides everything; `reserve` writes it into the transaction that writes the decision. Nothing is
sent here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from onward.act.ledger import Ledger, audit_ledger
from onward.act.targets import Target, Targets
from onward.decide.policy import Facts
from onward.errors import OnwardError
from onward.store.records import Action, ActionDraft, ActionState, Approval
from onward.store.store import Reader, Transaction
from onward.types import ActionCall, Decision, PackageId

MAX_ACTIONS = 16
"""How many actions one decision may want."""
MAX_PAYLOAD_BYTES = 64 << 10
_ID = re.compile(r"[\x21-\x7e]{1,200}")


class ActionRules(Protocol):
    """What the outbox asks of a policy's `[[action]]`."""

    @property
    def approval_expires_s(self) -> float | None:
        """How long an approval may be given."""
        ...

    @property
    def compensation(self) -> str | None:
        """The action that undoes it."""
        ...

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Each argument's declaration, with `private`."""
        ...

    def check(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The typed arguments. Raises an `OnwardError` for any that do not fit."""
        ...


class PolicyRules(Protocol):
    """What the outbox asks of a policy."""

    @property
    def actions(self) -> Mapping[str, Any]:
        """The `ActionRules` of each action, by name."""
        ...

    def needs_approval(self, call: ActionCall, facts: Facts) -> bool:
        """Whether a person must approve this call."""
        ...


class Keys(Protocol):
    """Encryption under an entity's key: `onward.store.keys.Keys`."""

    def seal(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> tuple[str, bytes]:
        """The key's id and the ciphertext; makes the key at first use."""
        ...

    def open(self, reader: Reader, key_id: str, sealed: bytes, /) -> bytes | None:
        """The plaintext; None once the key is destroyed."""
        ...

    def digest(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> str:
        """An HMAC under the entity's key, in hex: the same for the same data, and nothing once the key is gone."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An action to be reserved. The draft's payload is in the clear; `reserve` seals it where it is `private`."""

    draft: ActionDraft
    private: bool = False
    approval_expires_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """An action that may not happen, and why: NO_SUCH_ACTION, NO_TARGET, PACKAGE_NOT_ALLOWED, ARGUMENT_REFUSED, …"""

    action_id: str
    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of the actions that a decision wants."""

    decision_id: str
    tenant: str
    package: str
    planned: tuple[Planned, ...] = ()
    denied: tuple[Denied, ...] = ()


def plan(
    rules: PolicyRules,
    targets: Targets,
    decision: Decision,
    facts: Facts,
    *,
    decision_id: str,
    tenant: str,
    package: PackageId,
    at_s: float,
    private: bool = False,
) -> Plan:
    """Judge every action of a decision. The same arguments always give the same plan.

    `private`: the decision is made of private values, so that every payload is sealed, whatever the policy declares.
    Raises `ValueError` for a decision id that could not be sent in a header.
    """
    if not _ID.fullmatch(decision_id):
        raise ValueError("a decision id has 1 to 200 printable ASCII characters")
    planned: list[Planned] = []
    denied: list[Denied] = []
    for index, call in enumerate(decision.actions):
        key = f"{decision_id}:{call.name}:{index}"
        action_id = action_id_of(tenant, key)
        try:
            if index >= MAX_ACTIONS:
                raise _No("TOO_MANY_ACTIONS")
            action, target = _allowed(rules, targets, call.name, package.name)
            checked = ActionCall(name=call.name, arguments=_checked(action, call.arguments))
            planned.append(
                Planned(
                    draft=ActionDraft(
                        action_id=action_id,
                        tenant=tenant,
                        idempotency_key=key,
                        decision_id=decision_id,
                        name=call.name,
                        **_payload(checked, decision_id, tenant, package, compensation=action.compensation or ""),
                        created_s=at_s,
                        available_s=at_s,
                        needs_approval=target.approval or rules.needs_approval(checked, facts),
                    ),
                    private=private or any(each.private for each in action.arguments.values()),
                    approval_expires_s=at_s + (action.approval_expires_s or 86400.0),
                )
            )
        except _No as no:
            denied.append(Denied(action_id=action_id, name=call.name, why=str(no)))
    return Plan(
        decision_id=decision_id, tenant=tenant, package=package.name, planned=tuple(planned), denied=tuple(denied)
    )


class _No(Exception):
    """The action may not happen."""


def _allowed(rules: PolicyRules, targets: Targets, name: str, package: str) -> tuple[ActionRules, Target]:
    action = rules.actions.get(name)
    if action is None:
        raise _No("NO_SUCH_ACTION")
    target = targets.find(name, package)
    if target is None:
        raise _No("PACKAGE_NOT_ALLOWED" if name in targets.names else "NO_TARGET")
    return action, target


def _checked(action: ActionRules, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return action.check(arguments)
    except OnwardError as error:
        raise _No(error.code) from None


def _payload(
    call: ActionCall, decision_id: str, tenant: str, package: PackageId, *, compensation: str
) -> dict[str, Any]:
    value = {
        "name": call.name,
        "arguments": dict(call.arguments),
        "decision_id": decision_id,
        "tenant": tenant,
        "package": {"name": package.name, "version": package.version, "digest": package.digest},
    }
    payload = canonical(value | ({"compensation": compensation} if compensation else {}))
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise _No("PAYLOAD_TOO_LARGE")
    return {"payload": payload, "payload_digest": digest_of(payload)}


def canonical(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted keys, no spaces, floats in their shortest form."""
    return msgspec.json.encode(value, order="deterministic")


def digest_of(payload: bytes) -> str:
    """The digest of a payload in the clear."""
    return hashlib.sha256(payload).hexdigest()


def action_id_of(tenant: str, idempotency_key: str) -> str:
    """An action's id: derived from its key, so that planning again gives the same."""
    return "a_" + hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).hexdigest()[:32]


def reserve(
    tx: Transaction,
    plan: Plan,
    *,
    at_s: float,
    keys: Keys | None = None,
    entity: str = "",
    ledger: Ledger | None = None,
) -> list[Action]:
    """Write a plan: actions, requests for approval, and an audit entry for each and for what was denied.

    Reserving the same plan again changes nothing and gives the actions as they are now. Private payloads are sealed
    under the key of `entity` ("": the tenant's key for nobody). Raises `LookupError` where that needs `keys` and there
    are none.
    """
    ledger = ledger or audit_ledger()
    actions = []
    for planned in plan.planned:
        draft = seal_payload(tx, planned.draft, keys, entity) if planned.private else planned.draft
        known = tx.action(draft.action_id) is not None
        action = tx.reserve(draft)
        actions.append(action)
        if known:
            continue
        ledger.note_action(tx, action, at_s=at_s)
        if action.state is ActionState.WAITING:
            ask(tx, action, at_s=at_s, expires_s=planned.approval_expires_s, ledger=ledger)
    for denied in plan.denied:
        ledger.note_denied(
            tx,
            action_id=denied.action_id,
            decision_id=plan.decision_id,
            tenant=plan.tenant,
            name=denied.name,
            package=plan.package,
            why=denied.why,
            at_s=at_s,
        )
    return actions


def ask(tx: Transaction, action: Action, *, at_s: float, expires_s: float, ledger: Ledger) -> Approval:
    """Request the approval that an action waits for."""
    draft = action.draft
    approval = Approval(
        approval_id=f"p_{draft.action_id.removeprefix('a_')}",
        tenant=draft.tenant,
        action_id=draft.action_id,
        payload_digest=draft.payload_digest,
        requested_s=at_s,
        expires_s=expires_s,
    )
    tx.request_approval(approval)
    ledger.note_approval(tx, approval, at_s=at_s)
    return approval


def seal_payload(tx: Transaction, draft: ActionDraft, keys: Keys | None, entity: str) -> ActionDraft:
    """The draft with its payload under the entity's key, and a digest that says nothing without it."""
    if keys is None:
        raise LookupError("private arguments, and no keys to seal them with")
    key_id, sealed = keys.seal(tx, draft.tenant, entity, draft.payload)
    return replace(
        draft, payload=sealed, key_id=key_id, payload_digest=keys.digest(tx, draft.tenant, entity, draft.payload)
    )


class PayloadGone(Exception):
    """The payload cannot be read: `code` is ERASED or PAYLOAD_CHANGED, or NO_KEYS or KEY_UNUSABLE (`curable`)."""

    def __init__(self, code: str, *, curable: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.curable = curable


def open_payload(tx: Transaction, draft: ActionDraft, keys: Keys | None) -> bytes:
    """The payload in the clear, if it is what its digest (and so its approval) says. Raises `PayloadGone`."""
    if not draft.key_id:
        if digest_of(draft.payload) != draft.payload_digest:
            raise PayloadGone("PAYLOAD_CHANGED")
        return draft.payload
    key = tx.key(draft.key_id)
    if key is None or key.destroyed_s is not None:
        raise PayloadGone("ERASED")
    if keys is None:
        raise PayloadGone("NO_KEYS", curable=True)
    try:
        payload = keys.open(tx, draft.key_id, draft.payload)
        digest = "" if payload is None else keys.digest(tx, key.tenant, key.entity, payload)
    except OnwardError as error:
        raise PayloadGone(error.code, curable=True) from error
    if payload is None:
        raise PayloadGone("ERASED")
    if digest != draft.payload_digest:
        raise PayloadGone("PAYLOAD_CHANGED")
    return payload
