"""Reads of one state of a database."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, func, select

from onward.store import tables as t
from onward.store.records import (
    Action,
    ActionState,
    Approval,
    AuditEntry,
    Conversation,
    EntityKey,
    ProfileEvent,
    Recording,
    Switch,
    Turn,
)
from onward.store.sql.rows import (
    ACTION,
    APPROVAL,
    ENTRY,
    action_of,
    approval_of,
    columns,
    entry_of,
    reading,
)
from onward.store.sql.session import Lookup, Session

MOST = 2**31 - 1
"""No limit is larger: it must fit a database's integer."""

_key_of = reading(EntityKey)
_event_of, _recording_of = reading(ProfileEvent), reading(Recording)
_conversation_of, _turn_of = reading(Conversation), reading(Turn)
_EVENT, _RECORDING = columns(t.events, ProfileEvent), columns(t.recordings, Recording)
_CONVERSATION, _TURN = columns(t.conversations, Conversation), columns(t.turns, Turn)
_KEY = columns(t.keys, EntityKey)

_limit = bindparam("limit", type_=sa.Integer)
_NEWEST_FIRST = t.audit.c.sequence.desc()
_ENTRIES = select(*ENTRY).where(t.audit.c.sequence > bindparam("after")).order_by(t.audit.c.sequence).limit(_limit)
_ENTRIES_OF = Lookup(select(*ENTRY).where(t.audit.c.subject == bindparam("subject")).order_by(t.audit.c.sequence))
_LAST_ENTRY = Lookup(select(*ENTRY).order_by(_NEWEST_FIRST).limit(1))
_ACTION_BY_ID = Lookup(select(*ACTION).where(t.actions.c.action_id == bindparam("action_id")))
_ACTIONS_OF = Lookup(
    select(*ACTION).where(t.actions.c.decision_id == bindparam("decision_id")).order_by(t.actions.c.place)
)
# With the states written out, a database sees that it may use the indexes that leave out what is done.
_ACTIONS_IN = {
    state: select(*ACTION)
    .where(t.actions.c.state == sa.literal_column(f"'{state.value}'"))
    .order_by(t.actions.c.place)
    .limit(_limit)
    for state in ActionState
}
_BACKLOG = select(t.actions.c.state, func.count()).where(sa.text("state NOT IN ('done', 'refused')"))
_BACKLOG = _BACKLOG.group_by(t.actions.c.state)
_APPROVAL_ORDER = (t.approvals.c.requested_s, t.approvals.c.approval_id)
_APPROVAL_BY_ID = select(*APPROVAL).where(t.approvals.c.approval_id == bindparam("approval_id"))
_APPROVALS_OF = select(*APPROVAL).where(t.approvals.c.action_id == bindparam("action_id")).order_by(*_APPROVAL_ORDER)
OPEN_APPROVALS = select(*APPROVAL).where(t.approvals.c.state == sa.literal_column("'open'")).order_by(*_APPROVAL_ORDER)
_OPEN_NOW = OPEN_APPROVALS.where(t.approvals.c.expires_s > bindparam("now_s")).limit(_limit)
_OUTCOMES = (
    select(t.outcomes.c.outcome, sa.cast(func.sum(t.outcomes.c.times), t.Place))
    .where(
        t.outcomes.c.tenant == bindparam("tenant"),
        t.outcomes.c.policy == bindparam("policy"),
        t.outcomes.c.at_s >= bindparam("since_s"),
    )
    .group_by(t.outcomes.c.outcome)
)
_ALL_OUTCOMES = Lookup(_OUTCOMES)
_OUTCOMES_OF_ONE = Lookup(_OUTCOMES.where(t.outcomes.c.outcome == bindparam("outcome")))
_SWITCHES = Lookup(select(*columns(t.switches, Switch)).order_by(t.switches.c.name))
_KEY_BY_ID = Lookup(select(*_KEY).where(t.keys.c.key_id == bindparam("key_id")))
_KEY_OF = Lookup(
    select(*_KEY).where(
        t.keys.c.tenant == bindparam("tenant"),
        t.keys.c.entity == bindparam("entity"),
        t.keys.c.destroyed_s.is_(None),
    )
)
_OF_ENTITY = (t.events.c.tenant == bindparam("tenant"), t.events.c.entity == bindparam("entity"))
_EVENTS = (
    select(*_EVENT)
    .where(*_OF_ENTITY, t.events.c.at_s < bindparam("as_of_s"))
    .order_by(t.events.c.at_s.desc(), t.events.c.event_id.desc())
    .limit(_limit)
)
_COUNT_EVENTS = select(func.count()).where(
    *_OF_ENTITY,
    t.events.c.kind == bindparam("kind"),
    t.events.c.at_s >= bindparam("since_s"),
    t.events.c.at_s < bindparam("as_of_s"),
)
_CONVERSATION_BY_ID = select(*_CONVERSATION).where(
    t.conversations.c.tenant == bindparam("tenant"),
    t.conversations.c.conversation_id == bindparam("conversation_id"),
)
_CONVERSATIONS_OF = (
    select(*_CONVERSATION)
    .where(t.conversations.c.tenant == bindparam("tenant"), t.conversations.c.entity == bindparam("entity"))
    .order_by(t.conversations.c.created_s, t.conversations.c.conversation_id)
    .limit(_limit)
)
_TURNS = (
    select(*_TURN)
    .where(t.turns.c.tenant == bindparam("tenant"), t.turns.c.conversation_id == bindparam("conversation_id"))
    .order_by(t.turns.c.index.desc())
    .limit(_limit)
)
_RECORDINGS = select(*_RECORDING).order_by(t.recordings.c.at_s, t.recordings.c.recording_id).limit(_limit)
_RECORDINGS_SINCE = _RECORDINGS.where(
    t.recordings.c.model == bindparam("model"), t.recordings.c.at_s >= bindparam("since_s")
)
_RECORDINGS_OF = _RECORDINGS.where(
    t.recordings.c.tenant == bindparam("tenant"), t.recordings.c.entity == bindparam("entity")
)


class SqlReader:
    """See `Reader`."""

    def __init__(self, session: Session) -> None:
        self._session_or_none: Session | None = session

    @property
    def _session(self) -> Session:
        if self._session_or_none is None:
            raise RuntimeError("the transaction has ended")
        return self._session_or_none

    def end(self) -> bool:
        """Every later call is a `RuntimeError`; whether something was erased."""
        self._session_or_none = None
        return False

    def audit_entries(self, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """See `Reader`."""
        return [entry_of(row) for row in self._session.rows(_ENTRIES, {"after": after, "limit": min(limit, MOST)})]

    def audit_of(self, subject: str) -> list[AuditEntry]:
        """See `Reader`."""
        return [entry_of(row) for row in self._session.seek(_ENTRIES_OF, {"subject": subject})]

    def last_audit(self) -> AuditEntry | None:
        """See `Reader`."""
        return next((entry_of(row) for row in self._session.seek(_LAST_ENTRY, {})), None)

    def action(self, action_id: str) -> Action | None:
        """See `Reader`."""
        return next((action_of(row) for row in self._session.seek(_ACTION_BY_ID, {"action_id": action_id})), None)

    def actions(self, state: ActionState, *, tenant: str | None = None, limit: int = 100) -> list[Action]:
        """See `Reader`."""
        query, values = _ACTIONS_IN[state], {"limit": min(limit, MOST), "tenant": tenant}
        if tenant is not None:
            query = query.where(t.actions.c.tenant == bindparam("tenant"))
        return [action_of(row) for row in self._session.rows(query, values)]

    def actions_of(self, decision_id: str) -> list[Action]:
        """See `Reader`."""
        return [action_of(row) for row in self._session.seek(_ACTIONS_OF, {"decision_id": decision_id})]

    def backlog(self) -> Mapping[ActionState, int]:
        """See `Reader`."""
        return {ActionState(state): count for state, count in self._session.rows(_BACKLOG, {})}

    def approval(self, approval_id: str) -> Approval | None:
        """See `Reader`."""
        found = self._session.rows(_APPROVAL_BY_ID, {"approval_id": approval_id})
        return next(map(approval_of, found), None)

    def approvals_of(self, action_id: str) -> list[Approval]:
        """See `Reader`."""
        return [approval_of(row) for row in self._session.rows(_APPROVALS_OF, {"action_id": action_id})]

    def open_approvals(self, tenant: str | None, now_s: float, *, limit: int = 100) -> list[Approval]:
        """See `Reader`."""
        query, values = _OPEN_NOW, {"now_s": now_s, "limit": min(limit, MOST), "tenant": tenant}
        if tenant is not None:
            query = query.where(t.approvals.c.tenant == bindparam("tenant"))
        return [approval_of(row) for row in self._session.rows(query, values)]

    def count_outcomes(
        self, tenant: str, policy: str, since_s: float, *, outcomes: Collection[str] = ()
    ) -> Mapping[str, int]:
        """See `Reader`."""
        values = {"tenant": tenant, "policy": policy, "since_s": since_s}
        if outcomes:
            each = (self._session.seek(_OUTCOMES_OF_ONE, values | {"outcome": outcome}) for outcome in set(outcomes))
            found = [row for rows in each for row in rows]
        else:
            found = list(self._session.seek(_ALL_OUTCOMES, values))
        return {outcome: int(count) for outcome, count in found}

    def switches(self) -> Mapping[str, Switch]:
        """See `Reader`."""
        found = self._session.seek(_SWITCHES, {})
        return {name: Switch(name=name, on=bool(on), by=by, at_s=at_s) for name, on, by, at_s in found}

    def key(self, key_id: str) -> EntityKey | None:
        """See `Reader`."""
        return next(map(_key_of, self._session.seek(_KEY_BY_ID, {"key_id": key_id})), None)

    def key_of(self, tenant: str, entity: str) -> EntityKey | None:
        """See `Reader`."""
        return next(map(_key_of, self._session.seek(_KEY_OF, {"tenant": tenant, "entity": entity})), None)

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
        query = _EVENTS
        values: dict[str, Any] = {"tenant": tenant, "entity": entity, "as_of_s": as_of_s, "limit": min(limit, MOST)}
        if since_s is not None:
            query, values["since_s"] = query.where(t.events.c.at_s >= bindparam("since_s")), since_s
        if known_s is not None:
            query, values["known_s"] = query.where(t.events.c.recorded_s <= bindparam("known_s")), known_s
        if kinds:
            query = query.where(t.events.c.kind.in_(bindparam("kinds", expanding=True)))
            values["kinds"] = kinds
        return [_event_of(row) for row in self._session.rows(query, values)]

    def count_events(self, tenant: str, entity: str, kind: str, *, since_s: float, as_of_s: float) -> int:
        """See `Reader`."""
        values = {"tenant": tenant, "entity": entity, "kind": kind, "since_s": since_s, "as_of_s": as_of_s}
        return sum(int(row[0]) for row in self._session.rows(_COUNT_EVENTS, values))

    def conversation(self, tenant: str, conversation_id: str) -> Conversation | None:
        """See `Reader`."""
        values = {"tenant": tenant, "conversation_id": conversation_id}
        return next(map(_conversation_of, self._session.rows(_CONVERSATION_BY_ID, values)), None)

    def conversations_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Conversation]:
        """See `Reader`."""
        values = {"tenant": tenant, "entity": entity, "limit": min(limit, MOST)}
        return [_conversation_of(row) for row in self._session.rows(_CONVERSATIONS_OF, values)]

    def turns(self, tenant: str, conversation_id: str, *, limit: int = 1000) -> list[Turn]:
        """See `Reader`."""
        values = {"tenant": tenant, "conversation_id": conversation_id, "limit": min(limit, MOST)}
        return [_turn_of(row) for row in reversed(self._session.rows(_TURNS, values))]

    def recordings(self, model: str, *, since_s: float = 0.0, limit: int = 1000) -> list[Recording]:
        """See `Reader`."""
        values = {"model": model, "since_s": since_s, "limit": min(limit, MOST)}
        return [_recording_of(row) for row in self._session.rows(_RECORDINGS_SINCE, values)]

    def recordings_of(self, tenant: str, entity: str, *, limit: int = 1000) -> list[Recording]:
        """See `Reader`."""
        values = {"tenant": tenant, "entity": entity, "limit": min(limit, MOST)}
        return [_recording_of(row) for row in self._session.rows(_RECORDINGS_OF, values)]
