"""What the audit log says: the bodies of its entries, how they are written and how a decision is read back.

A body is canonical JSON: sorted keys, the shortest digits that give the same double back, nothing that is not finite.
A decision's entry holds all that its policy looked at, so that it can be decided again from the entry alone. What is
private (the profile, private fields, the arguments made of them) is not in the body but sealed under the entity's
key, and the entity is not named. Knows nothing of how entries are chained or stored, and never sees a secret.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from onward.decide.plain import NotRecordable, canonical, plain
from onward.decide.policy import Facts
from onward.errors import OnwardError
from onward.store.records import Action, Approval, ApprovalState, AuditDraft, AuditEntry, Erasure
from onward.store.store import Reader, Transaction
from onward.types import ActionCall, Decision, PackageId

__all__ = [
    "DECISION",
    "EVERYTHING",
    "FORMAT",
    "HiddenDecision",
    "NotRecordable",
    "RecordedDecision",
    "RuleSet",
    "Sealer",
    "UnreadableEntry",
    "canonical",
    "note_action",
    "note_approval",
    "note_denied",
    "note_erasure",
    "note_kill_switch",
    "plain",
    "plain_decision",
    "plain_facts",
    "read_body",
    "read_decision",
    "record_decision",
]

FORMAT = 1
"""The format of the bodies; a reader refuses a newer one."""
DECISION = "decision"
EVERYTHING = "*"
"""As a private field: all of the input and the answer is private."""
_SHOWN_CHARACTERS = 500
# The system's random bytes are asked for once a process: each call would give other threads the turn.
_PROCESS = os.urandom(6).hex()
_NUMBERS = itertools.count(1)


class UnreadableEntry(OnwardError):
    """The audit entry is not one that this version of Onward can read."""

    code = "UNREADABLE_ENTRY"
    status = 500
    exit_code = 65


class Sealer(Protocol):
    """Encrypts and decrypts under an entity's key: `onward.store.keys.Keys`."""

    def seal(self, tx: Transaction, tenant: str, entity: str, data: bytes, /) -> tuple[str, bytes]:
        """The key's id and the ciphertext; makes the entity's key at first use."""
        ...

    def open(self, reader: Reader, key_id: str, sealed: bytes, /) -> bytes | None:
        """The plaintext; None once the key is destroyed."""
        ...


class RuleSet(Protocol):
    """What an entry says of the policy, and how its actions' arguments are declared."""

    @property
    def name(self) -> str:
        """The policy's name."""
        ...

    @property
    def version(self) -> str:
        """The policy's version."""
        ...

    @property
    def digest(self) -> str:
        """The SHA-256 of `policy.toml`, in hex."""
        ...

    @property
    def actions(self) -> Mapping[str, Any]:
        """Each action's type; its `arguments` say which are `private`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDecision:
    """A decision as the log has it, whole. `package` and the policy's digest say what decided."""

    decision_id: str
    tenant: str
    package: PackageId
    policy: str
    policy_version: str
    policy_digest: str
    facts: Facts
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenDecision:
    """A decision whose private part cannot be read: its entity was `erased`, or the key is not at hand."""

    decision_id: str
    policy: str
    outcome: str
    erased: bool


def plain_facts(facts: Facts) -> Facts:
    """The facts as the log keeps them: decide on these, so that deciding again finds the very same."""
    return Facts(
        answer=None if facts.answer is None else plain(facts.answer, "result"),
        input=plain(facts.input, "input"),
        profile=plain(facts.profile, "profile"),
        now_s=plain(float(facts.now_s), "now"),
        recent=plain(facts.recent, "recent"),
        failure=facts.failure,
    )


def record_decision(
    tx: Transaction,
    keys: Sealer | None,
    *,
    decision_id: str,
    tenant: str,
    entity: str,
    package: PackageId,
    rules: RuleSet,
    facts: Facts,
    decision: Decision,
    private_fields: Collection[str],
    at_s: float,
    is_plain: bool = False,
) -> AuditEntry:
    """Write a decision into the log. `is_plain`: the facts have been through `plain_facts` already.

    `private_fields` names what is private of the input and the answer (`EVERYTHING`: all of it); the profile always
    is. Where any of that is there, all arguments are sealed with it, since they may be made of it; else those that
    the policy declares private. Raises `NotRecordable`, also where there is something to seal and no `keys`.
    """
    facts = facts if is_plain else plain_facts(facts)
    public, private = _parted(facts, decision, private_fields, rules)
    body: dict[str, Any] = {
        "format": FORMAT,
        "package": {"name": package.name, "version": package.version, "digest": package.digest},
        "policy": {"name": rules.name, "version": rules.version, "digest": rules.digest},
        **public,
    }
    key_id, sealed = "", b""
    if private:
        if keys is None:
            raise NotRecordable("private values, and no key to seal them with", found=", ".join(sorted(private)))
        body["sealed"] = sorted(private)
        key_id, sealed = keys.seal(tx, tenant, entity, canonical(private))
    return tx.append_audit(
        AuditDraft(
            entry_id=_entry_id(at_s),
            at_s=at_s,
            tenant=tenant,
            kind=DECISION,
            subject=decision_id,
            body=canonical(body),
            key_id=key_id,
            sealed=sealed,
        )
    )


def read_decision(
    entry: AuditEntry, keys: Sealer | None = None, reader: Reader | None = None
) -> RecordedDecision | HiddenDecision:
    """A decision's entry, read back. Raises `UnreadableEntry` where it is none, or does not open with its own key."""
    body = read_body(entry)
    try:
        private: Mapping[str, Any] = {}
        if entry.draft.key_id:
            opened = _opened(entry, keys, reader)
            if isinstance(opened, HiddenDecision):
                return opened
            private = opened
        return _joined(entry, body, private)
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.DecodeError) as error:
        expected = "the body of a decision"
        raise UnreadableEntry(where=f"entry {entry.sequence}", expected=expected, found=repr(error)) from None


def read_body(entry: AuditEntry) -> Mapping[str, Any]:
    """What an entry says in the clear. Raises `UnreadableEntry`."""
    where = f"entry {entry.sequence}"
    try:
        body = msgspec.json.decode(entry.draft.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableEntry(where=where, expected="a JSON object", found=str(error)) from None
    if body.get("format") != FORMAT:
        raise UnreadableEntry(where=where, expected=f"format {FORMAT}", found=repr(body.get("format")))
    return body


def plain_decision(decision: Decision) -> dict[str, Any]:
    """A decision as a plain value; two decisions are the same where the canonical JSON of this is."""
    return {
        "outcome": decision.outcome,
        "rule": decision.rule,
        "reasons": list(decision.reasons),
        "arguments": plain(decision.arguments, "arguments"),
        "actions": [
            {"name": call.name, "arguments": plain(call.arguments, f"{call.name}.arguments")}
            for call in decision.actions
        ],
    }


def note_action(tx: Transaction, action: Action, *, at_s: float, by: str = "", note: str = "") -> AuditEntry:
    """Write where an action stands now; `by` names the person who brought it there, if one did."""
    draft = action.draft
    body = {
        "decision_id": draft.decision_id,
        "name": draft.name,
        "attempt": action.attempt,
        "payload_digest": draft.payload_digest,
        "error": action.error[:_SHOWN_CHARACTERS],
    }
    if action.receipt and not draft.key_id:  # of a private action even the digest of a short answer tells something
        body["receipt_digest"] = hashlib.sha256(action.receipt).hexdigest()
    return _note(tx, f"action.{action.state.value}", draft.action_id, draft.tenant, at_s, body, by=by, note=note)


def note_denied(
    tx: Transaction, *, action_id: str, decision_id: str, tenant: str, name: str, package: str, why: str, at_s: float
) -> AuditEntry:
    """Write that an action was not even reserved: nobody allowed it to this package."""
    body = {"decision_id": decision_id, "name": name, "package": package, "why": why[:_SHOWN_CHARACTERS]}
    return _note(tx, "action.denied", action_id, tenant, at_s, body)


def note_approval(tx: Transaction, approval: Approval, *, at_s: float) -> AuditEntry:
    """Write what became of a request for approval, or that there is one."""
    state = "requested" if approval.state is ApprovalState.OPEN else approval.state.value
    body = {
        "action_id": approval.action_id,
        "payload_digest": approval.payload_digest,
        "expires_s": approval.expires_s,
    }
    return _note(tx, f"approval.{state}", approval.approval_id, approval.tenant, at_s, body,
                 by=approval.decided_by, note=approval.note)  # fmt: skip


def note_kill_switch(tx: Transaction, *, on: bool, tenant: str, by: str, at_s: float, note: str = "") -> AuditEntry:
    """Write that a person stopped actions (of a tenant; "": of all), or let them go on."""
    return _note(tx, f"kill_switch.{'on' if on else 'off'}", tenant, tenant, at_s, {}, by=by, note=note)


def note_erasure(tx: Transaction, erasure: Erasure, *, tenant: str, key_id: str, by: str, at_s: float) -> AuditEntry:
    """Write that an entity was erased: the id of the key that it had is all that is left of it."""
    body = {
        "keys": erasure.keys,
        "events": erasure.events,
        "conversations": erasure.conversations,
        "recordings": erasure.recordings,
    }
    return _note(tx, "profile.erased", key_id, tenant, at_s, body, by=by)


def _note(
    tx: Transaction, kind: str, subject: str, tenant: str, at_s: float, body: Mapping[str, Any], *, by: str = "",
    note: str = "",
) -> AuditEntry:  # fmt: skip
    said = {"format": FORMAT, **body, "by": by, "note": note[:_SHOWN_CHARACTERS]}
    told = {name: value for name, value in said.items() if value != ""}
    draft = AuditDraft(
        entry_id=_entry_id(at_s), at_s=at_s, tenant=tenant, kind=kind, subject=subject, body=canonical(plain(told))
    )
    return tx.append_audit(draft)


def _entry_id(at_s: float) -> str:
    """An id that nothing else has; those of later entries sort later, which keeps an index on them compact."""
    return f"{max(int(at_s * 1e6), 0):014x}{_PROCESS}{next(_NUMBERS) & 0xFFFFFFFF:08x}"


def _parted(
    facts: Facts, decision: Decision, private_fields: Collection[str], rules: RuleSet
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What may be read of a decision, and what is to be sealed: parts that `_joined` puts together again."""
    private: dict[str, Any] = {}
    shown: dict[str, Any] = {"input": facts.input, "answer": facts.answer}
    if private_fields:
        everything = EVERYTHING in private_fields
        for part, values in tuple(shown.items()):
            hidden = {name: value for name, value in (values or {}).items() if everything or name in private_fields}
            if hidden:
                private[part] = hidden
                shown[part] = {name: value for name, value in values.items() if name not in hidden}
    if facts.profile:
        private["profile"] = facts.profile
    decided = plain_decision(decision)
    hide_all = bool(private)
    if hide_all and decided["arguments"]:
        private["arguments"] = decided.pop("arguments")
    calls = []
    for call in decided["actions"]:
        declared = getattr(rules.actions.get(call["name"]), "arguments", {})
        hidden = {
            name: value
            for name, value in call["arguments"].items()
            if hide_all or getattr(declared.get(name), "private", True)
        }
        calls.append(hidden)
        call["arguments"] = {name: value for name, value in call["arguments"].items() if name not in hidden}
    if any(calls):
        private["actions"] = calls
    facts_shown = shown | {"now_s": facts.now_s, "recent": facts.recent, "failure": facts.failure}
    return {"facts": facts_shown, "decision": decided}, private


def _joined(entry: AuditEntry, body: Mapping[str, Any], private: Mapping[str, Any]) -> RecordedDecision:
    said, decided, package, policy = body["facts"], body["decision"], body["package"], body["policy"]
    answer = said["answer"]
    hidden_calls = private.get("actions", [{}] * len(decided["actions"]))
    actions = tuple(
        ActionCall(name=call["name"], arguments=call["arguments"] | hidden)
        for call, hidden in zip(decided["actions"], hidden_calls, strict=True)
    )
    return RecordedDecision(
        decision_id=entry.draft.subject,
        tenant=entry.draft.tenant,
        package=PackageId(name=package["name"], version=package["version"], digest=package["digest"]),
        policy=policy["name"],
        policy_version=policy["version"],
        policy_digest=policy["digest"],
        facts=Facts(
            answer=None if answer is None else answer | private.get("answer", {}),
            input=said["input"] | private.get("input", {}),
            profile=private.get("profile", {}),
            now_s=said["now_s"],
            recent=said["recent"],
            failure=said["failure"],
        ),
        decision=Decision(
            outcome=decided["outcome"],
            rule=decided["rule"],
            reasons=tuple(decided["reasons"]),
            arguments=decided.get("arguments", {}) | private.get("arguments", {}),
            actions=actions,
        ),
    )


def _opened(entry: AuditEntry, keys: Sealer | None, reader: Reader | None) -> Mapping[str, Any] | HiddenDecision:
    """The sealed part; a hidden decision where the key is gone or not at hand."""
    draft, body = entry.draft, read_body(entry)
    hidden = HiddenDecision(
        decision_id=draft.subject,
        policy=str(body["policy"]["name"]),
        outcome=str(body["decision"]["outcome"]),
        erased=False,
    )
    key = reader.key(draft.key_id) if reader is not None else None
    if key is not None and key.destroyed_s is not None:
        return replace(hidden, erased=True)
    if key is None or keys is None or reader is None:
        return hidden
    opened = keys.open(reader, draft.key_id, draft.sealed)
    if opened is None:
        return replace(hidden, erased=True)
    private: Mapping[str, Any] = msgspec.json.decode(opened, type=dict[str, Any])
    return private
