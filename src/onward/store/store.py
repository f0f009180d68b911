"""The store's interface: one transaction over all tables, so that a decision, its audit entry and its action are
written together or not at all.

Knows nothing of databases, threads or clocks: ids and times are the caller's. Calls are synchronous; `serve` makes
them on the store's writer thread. All implementations pass `tests/unit/store/test_contract*.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from onward.errors import OnwardError
from onward.store.records import (
    Action,
    ActionDraft,
    ActionState,
    Approval,
    AuditDraft,
    AuditEntry,
    Conversation,
    EntityKey,
    Erasure,
    ProfileEvent,
    Recording,
    Switch,
    Turn,
)


class Conflict(OnwardError):
    """The store is not in the state that this change needs."""

    code = "CONFLICT"
    status = 409
    exit_code = 75


class InvalidRecord(OnwardError):
    """The record cannot be stored."""

    code = "INVALID_RECORD"
    status = 400
    exit_code = 65


class StoreUnavailable(OnwardError):
    """The store cannot be reached or cannot write."""

    code = "STORE_UNAVAILABLE"
    status = 503
    exit_code = 69


class Reader(Protocol):
    """Reads, all of one state of the store. What does not exist, or belongs to another tenant, is None or empty."""

    def audit_entries(self, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """The entries after the sequence number, in order."""
        ...

    def audit_of(self, subject: str) -> list[AuditEntry]:
        """The entries about one decision, action or approval, in order."""
        ...

    def last_audit(self) -> AuditEntry | None:
        """The end of the chain."""
        ...

    def action(self, action_id: str) -> Action | None:
        """One action of the outbox."""
        ...

    def actions(self, state: ActionState, *, tenant: str | None = None, limit: int = 100) -> list[Action]:
        """Actions in a state, of one tenant or of all, those first that were reserved first."""
        ...

    def actions_of(self, decision_id: str) -> list[Action]:
        """The actions that a decision wants, in the order in which they were reserved."""
        ...

    def backlog(self) -> Mapping[ActionState, int]:
        """How many actions stand in each state that is not an end; states without any are left out."""
        ...

    def approval(self, approval_id: str) -> Approval | None:
        """One request for approval."""
        ...

    def approvals_of(self, action_id: str) -> list[Approval]:
        """The requests for approval of one action, oldest first; of the same time, by their ids."""
        ...

    def open_approvals(self, tenant: str | None, now_s: float, *, limit: int = 100) -> list[Approval]:
        """What a person can decide now, oldest request first; None: of all tenants."""
        ...

    def count_outcomes(
        self, tenant: str, policy: str, since_s: float, *, outcomes: Collection[str] = ()
    ) -> Mapping[str, int]:
        """How often a policy came to each outcome from `since_s` on; of the given outcomes, or of all.

        Outcomes that it never came to are left out.
        """
        ...

    def switches(self) -> Mapping[str, Switch]:
        """The kill switches that were ever turned, by name."""
        ...

    def key(self, key_id: str) -> EntityKey | None:
        """A key by its id; a destroyed one has `destroyed_s` set and neither entity nor bytes."""
        ...

    def key_of(self, tenant: str, entity: str) -> EntityKey | None:
        """The living key of an entity."""
        ...

    def events(
        self,
        tenant: str,
        entity: str,
        *,
        as_of_s: float,
        since_s: float | None = None,
        known_s: float | None = None,
        kinds: tuple[str, ...] = (),
        limit: int = 100,
    ) -> list[ProfileEvent]:
        """The entity's latest events that happened before `as_of_s`, newest first; of the given kinds, or of all.

        With `since_s`, only those that happened from then on. With `known_s`, only those recorded by then: what a
        read at that time saw. Events of the same time come in the reverse order of their ids.
        """
        ...

    def count_events(self, tenant: str, entity: str, kind: str, *, since_s: float, as_of_s: float) -> int:
        """How many events of the kind happened from `since_s` until before `as_of_s`."""
        ...

    def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """One conversation of the tenant."""
        ...

    def conversations_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Conversation]:
        """The conversations of one entity, oldest first."""
        ...

    def turns(self, tenant: str, conversation_id: str, *, limit: int = 1000) -> list[Turn]:
        """The latest turns of a conversation of the tenant, in order."""
        ...

    def recordings(self, model: str, *, since_s: float = 0.0, limit: int = 1000) -> list[Recording]:
        """Recordings of a model from a time on, oldest first."""
        ...

    def recordings_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Recording]:
        """The recordings of one entity, oldest first."""
        ...


class Transaction(Reader, Protocol):
    """Reads its own writes; they become visible to others together, at its end, or never if it ends by an exception.

    A record with a text that a database does not take (a NUL, half a surrogate pair, an id of more than 512 bytes of
    UTF-8) or a time that is no finite number (or minus zero) is an `InvalidRecord`.
    """

    def savepoint(self) -> AbstractContextManager[None]:
        """A block whose changes alone are undone where it raises; the transaction goes on. Not to be nested."""
        ...

    def append_audit(self, draft: AuditDraft) -> AuditEntry:
        """Chain an entry to the log. Raises `Conflict` for an `entry_id` that is there already."""
        ...

    def reserve(self, draft: ActionDraft) -> Action:
        """Put an action into the outbox: PENDING, or WAITING where it needs approval.

        If the idempotency key is taken, the action that has it is returned; `Conflict` if that one differs in name or
        payload digest, or if the `action_id` is taken by another.
        """
        ...

    def lease_actions(
        self, owner: str, *, now_s: float, lease_s: float, limit: int = 1, names: Collection[str] | None = None
    ) -> list[Action]:
        """Take PENDING actions whose time has come, the longest due first: LEASED, one attempt more.

        No action is leased to two owners at a time. With `names`, only actions that are called so.
        """
        ...

    def move_action(
        self,
        action_id: str,
        to: ActionState,
        *,
        attempt: int,
        now_s: float,
        available_s: float | None = None,
        error: str = "",
        receipt: bytes = b"",
    ) -> Action:
        """Bring an action into another state; back to PENDING from `available_s` (default: now) on.

        Raises `Conflict` where `ACTION_TRANSITIONS` forbids it or another attempt has begun since: a relay whose
        lease ran out finds out here, before it acts.
        """
        ...

    def settle_leases(self, now_s: float) -> list[Action]:
        """End the leases that ran out: LEASED goes back to PENDING, EXECUTING becomes UNKNOWN. Returns those."""
        ...

    def request_approval(self, approval: Approval) -> None:
        """Ask for an approval. Raises `Conflict` unless its action is WAITING with that payload digest and tenant.

        Also where the action has an open request already: it is decided on once.
        """
        ...

    def decide_approval(
        self,
        tenant: str,
        approval_id: str,
        *,
        payload_digest: str,
        granted: bool,
        by: str,
        now_s: float,
        note: str = "",
    ) -> Approval:
        """Record the decision and move the action on: PENDING or REFUSED.

        `payload_digest` is that of what the person saw. Raises `Conflict` where it is another, or the request is not
        open any more, or not the tenant's.
        """
        ...

    def expire_approvals(self, now_s: float) -> list[Approval]:
        """End the open requests whose time has passed, and refuse their actions. Returns those; again: none."""
        ...

    def note_outcome(self, tenant: str, policy: str, outcome: str, at_s: float) -> None:
        """Count a decision of a policy; goes into the transaction that appends it to the audit log."""
        ...

    def delete_outcomes(self, *, before_s: float) -> int:
        """Forget what was counted before a time; how many there were."""
        ...

    def set_switch(self, name: str, on: bool, by: str, at_s: float) -> Switch:
        """Turn a kill switch on or off, whatever it was before."""
        ...

    def add_key(self, key: EntityKey) -> None:
        """Keep an entity's key. Raises `Conflict` where it has a living one or the id is taken."""
        ...

    def append_event(self, event: ProfileEvent) -> bool:
        """Add to an entity's history. False, and no change, if the tenant has an event of that id already."""
        ...

    def append_events(self, events: Sequence[ProfileEvent]) -> int:
        """Add many at once; how many were new. Of two with the same tenant and id, the first counts."""
        ...

    def delete_events(
        self, *, before_s: float, tenant: str | None = None, kinds: tuple[str, ...] = (), limit: int | None = None
    ) -> int:
        """Delete what happened before a time, of all tenants and kinds or the given ones; how many there were.

        With `limit`, at most so many, the oldest first: a purge in small bites does not hold others up.
        """
        ...

    def erase_entity(self, tenant: str, entity: str, now_s: float) -> Erasure:
        """Destroy the entity's key and delete its events, conversations and recordings. Idempotent.

        Raises `InvalidRecord` for the entity "": that is all who are not known.
        """
        ...

    def open_conversation(self, conversation: Conversation) -> None:
        """Start a conversation. Raises `Conflict` for an id that is taken."""
        ...

    def append_turn(self, tenant: str, turn: Turn) -> None:
        """Add a turn. Raises `Conflict` unless the conversation is the tenant's and `index` the next one."""
        ...

    def delete_conversation(self, tenant: str, conversation_id: str) -> bool:
        """Delete a conversation with its turns; whether there was one."""
        ...

    def add_recording(self, recording: Recording) -> None:
        """Keep a recording. Raises `Conflict` for an id that is taken."""
        ...

    def delete_recordings(self, *, before_s: float) -> int:
        """Delete what was recorded before a time; how many there were."""
        ...


class Store(Protocol):
    """All tables of one installation. `transaction` may be entered from several threads; they take turns."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """One transaction: committed at the end of the block, rolled back where it raises. Not to be nested.

        `StoreUnavailable` where it cannot begin, go on or commit. If it comes from the commit, the changes may have
        been made all the same: try again with the same ids and idempotency keys.
        """
        ...

    def snapshot(self) -> AbstractContextManager[Reader]:
        """The state committed last, for reading; does not wait for a transaction and is not changed by one."""
        ...

    def close(self) -> None:
        """Release files and connections; idempotent."""
        ...
