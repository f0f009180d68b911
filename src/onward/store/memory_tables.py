"""The tables of the store in memory, and reading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

from onward.store.records import (
    Action,
    ActionState,
    Approval,
    ApprovalState,
    AuditEntry,
    Conversation,
    EntityKey,
    ProfileEvent,
    Recording,
    Switch,
    Turn,
)

ENDS = frozenset({ActionState.DONE, ActionState.REFUSED})


@dataclass(slots=True, kw_only=True)
class Tables:
    """One state of the store. Records are frozen, so that a copy of the containers is a copy of the state."""

    audit: list[AuditEntry] = field(default_factory=list)
    entry_ids: dict[str, int] = field(default_factory=dict)
    actions: dict[str, Action] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], str] = field(default_factory=dict)
    approvals: dict[str, Approval] = field(default_factory=dict)
    outcomes: list[tuple[str, str, str, float]] = field(default_factory=list)
    switches: dict[str, Switch] = field(default_factory=dict)
    keys: dict[str, EntityKey] = field(default_factory=dict)
    events: dict[tuple[str, str], ProfileEvent] = field(default_factory=dict)
    conversations: dict[tuple[str, str], Conversation] = field(default_factory=dict)
    turns: dict[tuple[str, str], tuple[Turn, ...]] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)

    def copy(self) -> Tables:
        """A state that can be changed on its own."""
        return Tables(**{column.name: getattr(self, column.name).copy() for column in fields(self)})


class MemoryReader:
    """Reads of one state of the tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables_or_none: Tables | None = tables

    @property
    def _tables(self) -> Tables:
        if self._tables_or_none is None:
            raise RuntimeError("the transaction has ended")
        return self._tables_or_none

    def end(self) -> Tables:
        """The tables as they are now; every later call is a `RuntimeError`."""
        tables, self._tables_or_none = self._tables, None
        return tables

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

    def actions(self, state: ActionState, *, tenant: str | None = None, limit: int = 100) -> list[Action]:
        """See `Reader`."""
        return [
            action
            for action in self._tables.actions.values()
            if action.state is state and tenant in (None, action.draft.tenant)
        ][:limit]

    def actions_of(self, decision_id: str) -> list[Action]:
        """See `Reader`."""
        return [action for action in self._tables.actions.values() if action.draft.decision_id == decision_id]

    def backlog(self) -> Mapping[ActionState, int]:
        """See `Reader`."""
        return dict(Counter(action.state for action in self._tables.actions.values() if action.state not in ENDS))

    def approval(self, approval_id: str) -> Approval | None:
        """See `Reader`."""
        return self._tables.approvals.get(approval_id)

    def approvals_of(self, action_id: str) -> list[Approval]:
        """See `Reader`."""
        return self._in_order(
            [approval for approval in self._tables.approvals.values() if approval.action_id == action_id]
        )

    def open_approvals(self, tenant: str | None, now_s: float, *, limit: int = 100) -> list[Approval]:
        """See `Reader`."""
        return self._in_order(
            [
                approval
                for approval in self._tables.approvals.values()
                if approval.state is ApprovalState.OPEN
                and now_s < approval.expires_s
                and tenant in (None, approval.tenant)
            ]
        )[:limit]

    @staticmethod
    def _in_order(approvals: list[Approval]) -> list[Approval]:
        return sorted(approvals, key=lambda approval: (approval.requested_s, approval.approval_id))

    def count_outcomes(
        self, tenant: str, policy: str, since_s: float, *, outcomes: Collection[str] = ()
    ) -> Mapping[str, int]:
        """See `Reader`."""
        return dict(
            Counter(
                outcome
                for owner, name, outcome, at_s in self._tables.outcomes
                if (owner, name) == (tenant, policy) and at_s >= since_s and (not outcomes or outcome in outcomes)
            )
        )

    def switches(self) -> Mapping[str, Switch]:
        """See `Reader`."""
        return dict(self._tables.switches)

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
        since_s: float | None = None,
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
            and (since_s is None or event.at_s >= since_s)
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

    def conversations_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Conversation]:
        """See `Reader`."""
        found = [talk for talk in self._tables.conversations.values() if (talk.tenant, talk.entity) == (tenant, entity)]
        return sorted(found, key=lambda talk: (talk.created_s, talk.conversation_id))[:limit]

    def turns(self, tenant: str, conversation_id: str, *, limit: int = 1000) -> list[Turn]:
        """See `Reader`."""
        turns = self._tables.turns.get((tenant, conversation_id), ())
        return list(turns[max(len(turns) - limit, 0) :])

    def recordings(self, model: str, *, since_s: float = 0.0, limit: int = 1000) -> list[Recording]:
        """See `Reader`."""
        found = [row for row in self._tables.recordings.values() if row.model == model and row.at_s >= since_s]
        return sorted(found, key=lambda row: (row.at_s, row.recording_id))[:limit]

    def recordings_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Recording]:
        """See `Reader`."""
        found = [row for row in self._tables.recordings.values() if (row.tenant, row.entity) == (tenant, entity)]
        return sorted(found, key=lambda row: (row.at_s, row.recording_id))[:limit]
