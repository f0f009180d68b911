"""The store in memory: for tests and for trying things out. Whole, but nothing outlives the process.

A transaction works on a copy of the tables, which takes the place of the old ones when it commits; so it costs time
in proportion to what is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace

from onward.store.chain import link
from onward.store.records import (
    ACTION_TRANSITIONS,
    Action,
    ActionDraft,
    ActionState,
    Approval,
    ApprovalState,
    AuditDraft,
    AuditEntry,
    Conversation,
    EntityKey,
    Erasure,
    ProfileEvent,
    Recording,
    Turn,
)
from onward.store.store import Conflict


@dataclass(slots=True, kw_only=True)
class _Tables:
    audit: list[AuditEntry] = field(default_factory=list)
    entry_ids: dict[str, int] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], str] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    keys: dict[str, EntityKey] = field(default_factory=dict)
    events: dict[tuple[str, str], ProfileEvent] = field(default_factory=dict)
    conversations: dict[tuple[str, str], Conversation] = field(default_factory=dict)
    turns: dict[tuple[str, str], tuple[Turn, ...]] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)

    def copy(self) -> _Tables:
        return _Tables(**{column.name: getattr(self, column.name).copy() for column in fields(self)})


class MemoryReader:
    """Reads of one state of the tables."""

    def __init__(self, tables: _Tables) -> None:
        self._tables_or_none: _Tables | None = tables

    @property
    def _tables(self) -> _Tables:
        if self._tables_or_none is None:
            raise RuntimeError("the transaction has ended")
        return self._tables_or_none

    def audit_entries(self, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """See `Reader`."""
        return self._tables.audit[after : after + limit]

    def audit_of(self, subject: str) -> list[AuditEntry]:
        """See `Reader`."""
        return [entry for entry in self._tables.audit if entry.draft.subject == subject]

    def last_audit(self) -> AuditEntry | None:
        """See `Reader`."""
        return self._tables.audit[-1] if self._tables.audit else None

    def action(self, action_id: str) -> Action | None:
        """See `Reader`."""
        return self._tables.actions.get(action_id)

    def actions(self, state: ActionState, *, limit: int = 100) -> list[Action]:
        """See `Reader`."""
        return [action for action in self._tables.actions.values() if action.state is state][:limit]

    def approval(self, approval_id: str) -> Approval | None:
        """See `Reader`."""
        return self._tables.approvals.get(approval_id)

    def open_approvals(self, tenant: str, now_s: float, *, limit: int = 100) -> list[Approval]:
        """See `Reader`."""
        return [
            approval
            for approval in sorted(self._tables.approvals.values(), key=lambda approval: approval.requested_s)
            if approval.tenant == tenant and approval.state is ApprovalState.OPEN and now_s < approval.expires_s
        ][:limit]

    def key(self, key_id: str) -> EntityKey | None:
        """See `Reader`."""
        return self._tables.keys.get(key_id)

    def key_of(self, tenant: str, entity: str) -> EntityKey | None:
        """See `Reader`."""
        for key in self._tables.keys.values():
            if key.destroyed_s is None and (key.tenant, key.entity) == (tenant, entity):
                return key
        return None

    def events(
        self,
        tenant: str,
        entity: str,
        *,
        as_of_s: float,
        known_s: float | None = None,
        kinds: tuple[str, ...] = (),
        limit: int = 100,
    ) -> list[ProfileEvent]:
        """See `Reader`."""
        found = [
            event
            for event in self._tables.events.values()
            if (event.tenant, event.entity) == (tenant, entity)
            and event.at_s < as_of_s
            and (known_s is None or event.recorded_s <= known_s)
            and (not kinds or event.kind in kinds)
        ]
        return sorted(found, key=lambda event: (event.at_s, event.event_id), reverse=True)[:limit]

    def count_events(self, tenant: str, entity: str, kind: str, *, since_s: float, as_of_s: float) -> int:
        """See `Reader`."""
        return sum(
            (event.tenant, event.entity, event.kind) == (tenant, entity, kind) and since_s <= event.at_s < as_of_s
            for event in self._tables.events.values()
        )

    def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """See `Reader`."""
        return self._tables.conversations.get((tenant, conversation_id))

    def turns(self, tenant: str, conversation_id: str, *, limit: int = 1000) -> list[Turn]:
        """See `Reader`."""
        turns = self._tables.turns.get((tenant, conversation_id), ())
        return list(turns[max(len(turns) - limit, 0) :])

    def recordings(self, model: str, *, since_s: float = 0.0, limit: int = 1000) -> list[Recording]:
        """See `Reader`."""
        found = [row for row in self._tables.recordings.values() if row.model == model and row.at_s >= since_s]
        return sorted(found, key=lambda row: row.at_s)[:limit]


class MemoryTransaction(MemoryReader):
    """Reads and writes on a copy of the tables."""

    def end(self) -> _Tables:
        """The tables as they are now; every later call is a `RuntimeError`."""
        tables, self._tables_or_none = self._tables, None
        return tables

    def append_audit(self, draft: AuditDraft) -> AuditEntry:
        """See `Transaction`."""
        if draft.entry_id in self._tables.entry_ids:
            raise Conflict("the audit log has an entry of that id", found=draft.entry_id)
        entry = link(draft, self.last_audit())
        self._tables.audit.append(entry)
        self._tables.entry_ids[draft.entry_id] = entry.sequence
        return entry

    def reserve(self, draft: ActionDraft) -> Action:
        """See `Transaction`."""
        taken = self._tables.idempotency.get((draft.tenant, draft.idempotency_key))
        if taken is not None:
            action = self._tables.actions[taken]
            if (action.draft.name, action.draft.payload_digest) != (draft.name, draft.payload_digest):
                raise Conflict("the idempotency key belongs to another action", found=draft.idempotency_key)
            return action
        if draft.action_id in self._tables.actions:
            raise Conflict("there is an action of that id", found=draft.action_id)
        state = ActionState.WAITING if draft.needs_approval else ActionState.PENDING
        action = Action(draft=draft, state=state, attempt=0, available_s=draft.available_s, updated_s=draft.created_s)
        self._tables.actions[draft.action_id] = action
        self._tables.idempotency[draft.tenant, draft.idempotency_key] = draft.action_id
        return action

    def lease_actions(self, owner: str, *, now_s: float, lease_s: float, limit: int = 1) -> list[Action]:
        """See `Transaction`."""
        due = [
            action
            for action in self._tables.actions.values()
            if action.state is ActionState.PENDING and action.available_s <= now_s
        ]
        due.sort(key=lambda action: action.available_s)
        leased = [
            replace(
                action,
                state=ActionState.LEASED,
                attempt=action.attempt + 1,
                owner=owner,
                lease_until_s=now_s + lease_s,
                updated_s=now_s,
            )
            for action in due[:limit]
        ]
        self._tables.actions.update({action.draft.action_id: action for action in leased})
        return leased

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
        """See `Transaction`."""
        action = self.action(action_id)
        if action is None:
            raise Conflict("there is no such action", found=action_id)
        if action.attempt != attempt:
            raise Conflict("another attempt has begun", expected=f"attempt {action.attempt}", found=f"{attempt}")
        if to not in ACTION_TRANSITIONS[action.state] or to is ActionState.LEASED:
            raise Conflict(f"an action that is {action.state.value} does not become {to.value}", where=action_id)
        holds_lease = to is ActionState.EXECUTING
        moved = replace(
            action,
            state=to,
            available_s=(now_s if available_s is None else available_s)
            if to is ActionState.PENDING
            else action.available_s,
            updated_s=now_s,
            owner=action.owner if holds_lease else "",
            lease_until_s=action.lease_until_s if holds_lease else 0.0,
            error=error,
            receipt=receipt,
        )
        self._tables.actions[action_id] = moved
        return moved

    def settle_leases(self, now_s: float) -> list[Action]:
        """See `Transaction`."""
        settled = []
        after = {ActionState.LEASED: ActionState.PENDING, ActionState.EXECUTING: ActionState.UNKNOWN}
        for action_id, action in list(self._tables.actions.items()):
            if action.state in after and action.lease_until_s <= now_s:
                to = after[action.state]
                settled.append(
                    self.move_action(action_id, to, attempt=action.attempt, now_s=now_s, error="the lease ran out")
                )
        return settled

    def request_approval(self, approval: Approval) -> None:
        """See `Transaction`."""
        action = self.action(approval.action_id)
        if approval.approval_id in self._tables.approvals:
            raise Conflict("there is an approval of that id", found=approval.approval_id)
        if action is None or action.state is not ActionState.WAITING or action.draft.tenant != approval.tenant:
            raise Conflict("the action does not wait for an approval", found=approval.action_id)
        if action.draft.payload_digest != approval.payload_digest:
            raise Conflict("the action has another payload", found=approval.payload_digest)
        self._tables.approvals[approval.approval_id] = approval

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
        """See `Transaction`."""
        approval = self.approval(approval_id)
        if approval is None or approval.tenant != tenant:
            raise Conflict("there is no such approval", found=approval_id)
        if approval.payload_digest != payload_digest:
            raise Conflict("the approval is for another payload", found=payload_digest)
        if approval.state is not ApprovalState.OPEN or approval.expires_s <= now_s:
            raise Conflict("the approval is not open any more", found=approval_id)
        state = ApprovalState.GRANTED if granted else ApprovalState.REFUSED
        return self._end_approval(replace(approval, state=state, decided_by=by, note=note), now_s)

    def expire_approvals(self, now_s: float) -> list[Approval]:
        """See `Transaction`."""
        return [
            self._end_approval(replace(approval, state=ApprovalState.EXPIRED), now_s)
            for approval in list(self._tables.approvals.values())
            if approval.state is ApprovalState.OPEN and approval.expires_s <= now_s
        ]

    def _end_approval(self, approval: Approval, now_s: float) -> Approval:
        ended = replace(approval, decided_s=now_s)
        self._tables.approvals[approval.approval_id] = ended
        action = self._tables.actions[approval.action_id]
        granted = approval.state is ApprovalState.GRANTED
        to = ActionState.PENDING if granted else ActionState.REFUSED
        # What was granted is due when it was meant to be, not before.
        available_s = max(now_s, action.draft.available_s)
        self.move_action(approval.action_id, to, attempt=action.attempt, now_s=now_s, available_s=available_s)
        return ended

    def add_key(self, key: EntityKey) -> None:
        """See `Transaction`."""
        if key.key_id in self._tables.keys or self.key_of(key.tenant, key.entity) is not None:
            raise Conflict("the entity has a key, or the id is taken", found=key.key_id)
        self._tables.keys[key.key_id] = key

    def append_event(self, event: ProfileEvent) -> bool:
        """See `Transaction`."""
        if (event.tenant, event.event_id) in self._tables.events:
            return False
        self._tables.events[event.tenant, event.event_id] = event
        return True

    def erase_entity(self, tenant: str, entity: str, now_s: float) -> Erasure:
        """See `Transaction`."""
        tables, owner = self._tables, (tenant, entity)
        key = self.key_of(tenant, entity)
        if key is not None:
            tables.keys[key.key_id] = replace(key, entity="", wrapped=b"", destroyed_s=now_s)
        events = [place for place, event in tables.events.items() if (event.tenant, event.entity) == owner]
        talks = [place for place, talk in tables.conversations.items() if (talk.tenant, talk.entity) == owner]
        recordings = [place for place, row in tables.recordings.items() if (row.tenant, row.entity) == owner]
        for event_place in events:
            del tables.events[event_place]
        for _, conversation_id in talks:
            self.delete_conversation(tenant, conversation_id)
        for recording_id in recordings:
            del tables.recordings[recording_id]
        return Erasure(
            keys=int(key is not None), events=len(events), conversations=len(talks), recordings=len(recordings)
        )

    def open_conversation(self, conversation: Conversation) -> None:
        """See `Transaction`."""
        place = (conversation.tenant, conversation.conversation_id)
        if place in self._tables.conversations:
            raise Conflict("there is a conversation of that id", found=conversation.conversation_id)
        self._tables.conversations[place] = conversation

    def append_turn(self, tenant: str, turn: Turn) -> None:
        """See `Transaction`."""
        place = (tenant, turn.conversation_id)
        if place not in self._tables.conversations:
            raise Conflict("there is no such conversation", found=turn.conversation_id)
        turns = self._tables.turns.get(place, ())
        if turn.index != len(turns):
            raise Conflict("the conversation has gone on", expected=f"turn {len(turns)}", found=f"turn {turn.index}")
        self._tables.turns[place] = (*turns, turn)

    def delete_conversation(self, tenant: str, conversation_id: str) -> bool:
        """See `Transaction`."""
        self._tables.turns.pop((tenant, conversation_id), None)
        return self._tables.conversations.pop((tenant, conversation_id), None) is not None

    def add_recording(self, recording: Recording) -> None:
        """See `Transaction`."""
        if recording.recording_id in self._tables.recordings:
            raise Conflict("there is a recording of that id", found=recording.recording_id)
        self._tables.recordings[recording.recording_id] = recording

    def delete_recordings(self, *, before_s: float) -> int:
        """See `Transaction`."""
        old = [place for place, row in self._tables.recordings.items() if row.at_s < before_s]
        for recording_id in old:
            del self._tables.recordings[recording_id]
        return len(old)


class MemoryStore:
    """A `Store` in memory."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._writing = threading.Lock()
        self._writer = 0

    @contextmanager
    def transaction(self) -> Iterator[MemoryTransaction]:
        """See `Store`."""
        if self._writer == threading.get_ident():
            raise RuntimeError("transactions cannot be nested")
        with self._writing:
            self._writer = threading.get_ident()
            transaction = MemoryTransaction(self._tables.copy())
            try:
                yield transaction
                self._tables = transaction.end()
            finally:
                transaction._tables_or_none = None
                self._writer = 0

    @contextmanager
    def snapshot(self) -> Iterator[MemoryReader]:
        """See `Store`."""
        reader = MemoryReader(self._tables)
        try:
            yield reader
        finally:
            reader._tables_or_none = None

    def close(self) -> None:
        """Nothing to release."""
