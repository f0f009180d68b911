"""The rows of the store's tables, as frozen records. Knows nothing of databases, and of encryption only the key's id.

Times are seconds since the epoch. Bytes named `sealed`, and a `payload` with a `key_id`, are ciphertext under that
entity's key; the store never looks inside. Digests are SHA-256 in hex.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDraft:
    """What is to be written into the audit log: `body` in the clear, `sealed` under the key `key_id` ("": none).

    `subject` is what the entry is about: a decision's, action's or approval's id. An entity is never named here, only
    its key is, so that the log can stay when the entity is erased.
    """

    entry_id: str
    at_s: float
    tenant: str
    kind: str
    subject: str
    body: bytes
    key_id: str = ""
    sealed: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """A link of the chain: `digest` covers the draft, its place (from 1 up, no gaps) and the digest before it."""

    sequence: int
    previous: str
    digest: str
    draft: AuditDraft


class ActionState(enum.Enum):
    """Where an action stands on its way through the outbox."""

    WAITING = "waiting"  # for an approval
    PENDING = "pending"  # to be executed once `available_s` has come
    LEASED = "leased"  # a relay has taken it and has not begun
    EXECUTING = "executing"  # the relay is about to act, or acts
    DONE = "done"
    REFUSED = "refused"  # not approved
    DEAD = "dead"  # given up on: a dead letter
    UNKNOWN = "unknown"  # it may have happened: to be reconciled, never blindly retried


ACTION_TRANSITIONS: Mapping[ActionState, frozenset[ActionState]] = {
    ActionState.WAITING: frozenset({ActionState.PENDING, ActionState.REFUSED}),
    ActionState.PENDING: frozenset({ActionState.LEASED, ActionState.DEAD}),
    ActionState.LEASED: frozenset({ActionState.EXECUTING, ActionState.PENDING, ActionState.DEAD}),
    ActionState.EXECUTING: frozenset({ActionState.DONE, ActionState.PENDING, ActionState.DEAD, ActionState.UNKNOWN}),
    ActionState.UNKNOWN: frozenset({ActionState.DONE, ActionState.PENDING, ActionState.DEAD}),
    ActionState.DEAD: frozenset({ActionState.PENDING}),
    ActionState.DONE: frozenset(),
    ActionState.REFUSED: frozenset(),
}
"""Which state may follow which. Only a lease that ran out before the relay began, or an attempt known to have had no
effect, goes back to PENDING by itself; from UNKNOWN and DEAD only a reconciliation or a person leads on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionDraft:
    """An action to be reserved together with the decision that wants it.

    `idempotency_key` is unique within the tenant. `payload_digest` identifies the typed arguments and is what an
    approval is bound to; where the payload is sealed it is an HMAC under the entity's key, so that it says nothing
    once the key is gone.
    """

    action_id: str
    tenant: str
    idempotency_key: str
    decision_id: str
    name: str
    payload: bytes
    payload_digest: str
    created_s: float
    available_s: float
    key_id: str = ""
    needs_approval: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """An action in the outbox. `attempt` counts the leases; only who holds the latest one may move the action on."""

    draft: ActionDraft
    state: ActionState
    attempt: int
    available_s: float
    updated_s: float
    owner: str = ""
    lease_until_s: float = 0.0
    error: str = ""
    receipt: bytes = b""


class ApprovalState(enum.Enum):
    """What has become of a request for approval."""

    OPEN = "open"
    GRANTED = "granted"
    REFUSED = "refused"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A person is asked whether this action with exactly this payload may happen, until `expires_s`."""

    approval_id: str
    tenant: str
    action_id: str
    payload_digest: str
    requested_s: float
    expires_s: float
    state: ApprovalState = ApprovalState.OPEN
    decided_by: str = ""
    decided_s: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityKey:
    """An entity's encryption key, wrapped by the installation's key. Once destroyed, only id and times are left."""

    key_id: str
    tenant: str
    entity: str
    wrapped: bytes
    created_s: float
    destroyed_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileEvent:
    """Something that happened to an entity at `at_s`, known here since `recorded_s`; `event_id` makes it idempotent."""

    event_id: str
    tenant: str
    entity: str
    kind: str
    at_s: float
    recorded_s: float
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A dialogue of one entity with one model ("": no known entity)."""

    conversation_id: str
    tenant: str
    entity: str
    model: str
    created_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One message of a conversation; `index` counts from 0 without gaps, `state` is the dialogue's after it."""

    conversation_id: str
    index: int
    role: str
    content: bytes
    at_s: float
    state: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One sampled request with its answer, redacted before it comes here, to be replayed on a candidate."""

    recording_id: str
    tenant: str
    entity: str
    model: str
    version: str
    package_digest: str
    at_s: float
    duration_s: float
    input: bytes
    answer: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A kill switch: what it is called, whether it is on, and who turned it when."""

    name: str
    on: bool
    by: str
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """How much was erased of an entity."""

    keys: int
    events: int
    conversations: int
    recordings: int
