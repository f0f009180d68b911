"""The store in memory: for tests and for trying things out. Whole, but nothing outlives the process.

A transaction works on a copy of the tables, which takes the place of the old ones when it commits; so it costs time
in proportion to what is stored, and a savepoint does too.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from onward.store.chain import link
from onward.store.memory_tables import MemoryReader, Tables
from onward.store.records import (
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
    Switch,
    Turn,
)
from onward.store.store import Conflict, InvalidRecord
from onward.store.transitions import (
    AFTER_LEASE,
    LEASE_RAN_OUT,
    after_approval,
    check_request,
    decided,
    expired,
    leased,
    moved,
    reserved,
    same_request,
)
from onward.store.validity import valid, valid_text, valid_time


class MemoryTransaction(MemoryReader):
    """Reads and writes on a copy of the tables."""

    _inside = False

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See `Transaction`."""
        if self._inside:
            raise RuntimeError("savepoints cannot be nested")
        before, self._inside = self._tables.copy(), True
        try:
            yield
        except BaseException:
            self._tables_or_none = before
            raise
        finally:
            self._inside = False

    def append_audit(self, draft: AuditDraft) -> AuditEntry:
        """See `Transaction`."""
        if valid(draft).entry_id in self._tables.entry_ids:
            raise Conflict("the audit log has an entry of that id", found=draft.entry_id)
        entry = link(draft, self.last_audit())
        self._tables.audit.append(entry)
        self._tables.entry_ids[draft.entry_id] = entry.sequence
        return entry

    def reserve(self, draft: ActionDraft) -> Action:
        """See `Transaction`."""
        taken = self._tables.idempotency.get((valid(draft).tenant, draft.idempotency_key))
        if taken is not None:
            return same_request(self._tables.actions[taken], draft)
        if draft.action_id in self._tables.actions:
            raise Conflict("there is an action of that id", found=draft.action_id)
        action = self._tables.actions[draft.action_id] = reserved(draft)
        self._tables.idempotency[draft.tenant, draft.idempotency_key] = draft.action_id
        return action

    def lease_actions(
        self, owner: str, *, now_s: float, lease_s: float, limit: int = 1, names: Collection[str] | None = None
    ) -> list[Action]:
        """See `Transaction`."""
        valid_text("owner", owner)
        due = [
            action
            for action in self._tables.actions.values()
            if action.state is ActionState.PENDING
            and action.available_s <= valid_time("now_s", now_s)
            and (names is None or action.draft.name in names)
        ]
        due.sort(key=lambda action: action.available_s)
        taken = [leased(action, owner, now_s=now_s, lease_s=lease_s) for action in due[:limit]]
        self._tables.actions.update({action.draft.action_id: action for action in taken})
        return taken

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
        action = moved(
            self.action(action_id),
            action_id,
            to,
            attempt=attempt,
            now_s=now_s,
            available_s=available_s,
            error=error,
            receipt=receipt,
        )
        self._tables.actions[action_id] = action
        return action

    def settle_leases(self, now_s: float) -> list[Action]:
        """See `Transaction`."""
        return [
            self.move_action(
                action_id, AFTER_LEASE[action.state], attempt=action.attempt, now_s=now_s, error=LEASE_RAN_OUT
            )
            for action_id, action in list(self._tables.actions.items())
            if action.state in AFTER_LEASE and action.lease_until_s <= now_s
        ]

    def request_approval(self, approval: Approval) -> None:
        """See `Transaction`."""
        if valid(approval).approval_id in self._tables.approvals:
            raise Conflict("there is an approval of that id", found=approval.approval_id)
        check_request(approval, self.action(approval.action_id), self.approvals_of(approval.action_id))
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
        approval = decided(
            self.approval(approval_id),
            tenant,
            approval_id,
            payload_digest=payload_digest,
            granted=granted,
            by=by,
            now_s=now_s,
            note=note,
        )
        action = self._tables.actions[approval.action_id]
        self._tables.actions[approval.action_id] = after_approval(approval, action, now_s)
        self._tables.approvals[approval_id] = approval
        return approval

    def expire_approvals(self, now_s: float) -> list[Approval]:
        """See `Transaction`."""
        over = [
            expired(approval, valid_time("now_s", now_s))
            for approval in self._in_order(list(self._tables.approvals.values()))
            if approval.state is ApprovalState.OPEN and approval.expires_s <= now_s
        ]
        for approval in over:
            action = self._tables.actions[approval.action_id]
            self._tables.approvals[approval.approval_id] = approval
            if action.state is ActionState.WAITING:
                self._tables.actions[approval.action_id] = after_approval(approval, action, now_s)
        return over

    def note_outcome(self, tenant: str, policy: str, outcome: str, at_s: float) -> None:
        """See `Transaction`."""
        for name, text in (("tenant", tenant), ("policy", policy), ("outcome", outcome)):
            valid_text(name, text)
        self._tables.outcomes.append((tenant, policy, outcome, valid_time("at_s", at_s)))

    def delete_outcomes(self, *, before_s: float) -> int:
        """See `Transaction`."""
        outcomes = self._tables.outcomes
        kept = [noted for noted in outcomes if noted[3] >= before_s]
        self._tables.outcomes = kept
        return len(outcomes) - len(kept)

    def set_switch(self, name: str, on: bool, by: str, at_s: float) -> Switch:
        """See `Transaction`."""
        switch = self._tables.switches[name] = valid(Switch(name=name, on=on, by=by, at_s=at_s))
        return switch

    def add_key(self, key: EntityKey) -> None:
        """See `Transaction`."""
        if valid(key).key_id in self._tables.keys or self.key_of(key.tenant, key.entity) is not None:
            raise Conflict("the entity has a key, or the id is taken", found=key.key_id)
        self._tables.keys[key.key_id] = key

    def append_event(self, event: ProfileEvent) -> bool:
        """See `Transaction`."""
        return self.append_events([event]) == 1

    def append_events(self, events: Sequence[ProfileEvent]) -> int:
        """See `Transaction`."""
        table = self._tables.events
        before = len(table)
        for event in [valid(event) for event in events]:
            table.setdefault((event.tenant, event.event_id), event)
        return len(table) - before

    def delete_events(
        self, *, before_s: float, tenant: str | None = None, kinds: tuple[str, ...] = (), limit: int | None = None
    ) -> int:
        """See `Transaction`."""
        old = [
            (event.at_s, place)
            for place, event in self._tables.events.items()
            if event.at_s < before_s and tenant in (None, event.tenant) and (not kinds or event.kind in kinds)
        ]
        doomed = sorted(old)[:limit]
        for _, place in doomed:
            del self._tables.events[place]
        return len(doomed)

    def erase_entity(self, tenant: str, entity: str, now_s: float) -> Erasure:
        """See `Transaction`."""
        if not entity:
            raise InvalidRecord("only somebody can be erased", where="entity")
        tables, owner = self._tables, (tenant, entity)
        key = self.key_of(tenant, entity)
        if key is not None:
            destroyed = replace(key, entity="", wrapped=b"", destroyed_s=valid_time("now_s", now_s))
            tables.keys[key.key_id] = destroyed
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
        place = (valid(conversation).tenant, conversation.conversation_id)
        if place in self._tables.conversations:
            raise Conflict("there is a conversation of that id", found=conversation.conversation_id)
        self._tables.conversations[place] = conversation

    def append_turn(self, tenant: str, turn: Turn) -> None:
        """See `Transaction`."""
        place = (tenant, valid(turn).conversation_id)
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
        if valid(recording).recording_id in self._tables.recordings:
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
        self._tables = Tables()
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
