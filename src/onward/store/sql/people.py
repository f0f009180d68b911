"""What a transaction writes about entities: keys, events, conversations, recordings; and how all of it is erased."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from onward.store import tables as t
from onward.store.records import Conversation, EntityKey, Erasure, ProfileEvent, Recording, Turn
from onward.store.sql.reader import MOST, SqlReader
from onward.store.sql.rows import values_of
from onward.store.store import Conflict, InvalidRecord
from onward.store.validity import valid, valid_time

_ADD_EVENTS = {
    "sqlite": sqlite.insert(t.events).on_conflict_do_nothing().execution_options(preserve_rowcount=True),
    "postgresql": postgresql.insert(t.events).on_conflict_do_nothing().execution_options(preserve_rowcount=True),
}
_EVENT_KEY = (t.events.c.tenant, t.events.c.entity, t.events.c.at_s, t.events.c.event_id)
_DESTROY_KEY = (
    sa.update(t.keys)
    .where(t.keys.c.key_id == bindparam("the_id"))
    .values(entity="", wrapped=b"", destroyed_s=bindparam("now_s"))
)
_COUNT_TURNS = select(sa.func.count()).where(
    t.turns.c.tenant == bindparam("tenant"), t.turns.c.conversation_id == bindparam("conversation_id")
)
_DELETE_CONVERSATION = sa.delete(t.conversations).where(
    t.conversations.c.tenant == bindparam("tenant"),
    t.conversations.c.conversation_id == bindparam("conversation_id"),
)
_RECORDING_ID = select(t.recordings.c.recording_id).where(t.recordings.c.recording_id == bindparam("recording_id"))
_DELETE_RECORDINGS = sa.delete(t.recordings).where(t.recordings.c.at_s < bindparam("before_s"))
_ERASE = {
    table.name: sa.delete(table).where(table.c.tenant == bindparam("tenant"), table.c.entity == bindparam("entity"))
    for table in (t.events, t.conversations, t.recordings)
}


class PeopleWrites(SqlReader, ABC):
    """The part of `Transaction` that is about entities."""

    _erased = False

    @abstractmethod
    def write_through(self) -> None:
        """Called before anything but what can wait is written."""

    def end(self) -> bool:
        """Every later call is a `RuntimeError`; whether something was erased."""
        super().end()
        return self._erased

    def add_key(self, key: EntityKey) -> None:
        """See `Transaction`."""
        if self.key(valid(key).key_id) is not None or self.key_of(key.tenant, key.entity) is not None:
            raise Conflict("the entity has a key, or the id is taken", found=key.key_id)
        self.write_through()
        self._session.write(sa.insert(t.keys), values_of(key))

    def append_event(self, event: ProfileEvent) -> bool:
        """See `Transaction`."""
        return self.append_events([event]) == 1

    def append_events(self, events: Sequence[ProfileEvent]) -> int:
        """See `Transaction`."""
        rows = [values_of(valid(event)) for event in events]
        if not rows:
            return 0
        self.write_through()
        return self._session.write(_ADD_EVENTS[self._session.dialect], rows)

    def delete_events(
        self, *, before_s: float, tenant: str | None = None, kinds: tuple[str, ...] = (), limit: int | None = None
    ) -> int:
        """See `Transaction`."""
        old = [t.events.c.at_s < before_s]
        if tenant is not None:
            old.append(t.events.c.tenant == tenant)
        if kinds:
            old.append(t.events.c.kind.in_(kinds))
        if limit is not None:
            oldest = select(*_EVENT_KEY).where(*old).order_by(t.events.c.at_s, t.events.c.tenant, t.events.c.event_id)
            old = [sa.tuple_(*_EVENT_KEY).in_(oldest.limit(min(limit, MOST)))]
        self.write_through()
        return self._session.write(sa.delete(t.events).where(*old), {})

    def erase_entity(self, tenant: str, entity: str, now_s: float) -> Erasure:
        """See `Transaction`."""
        if not entity:
            raise InvalidRecord("only somebody can be erased", where="entity")
        self.write_through()
        self._erased = True
        key = self.key_of(tenant, entity)
        if key is not None:
            self._session.write(_DESTROY_KEY, {"the_id": key.key_id, "now_s": valid_time("now_s", now_s)})
        whose = {"tenant": tenant, "entity": entity}
        gone = {name: self._session.write(statement, whose) for name, statement in _ERASE.items()}
        return Erasure(keys=int(key is not None), **gone)

    def open_conversation(self, conversation: Conversation) -> None:
        """See `Transaction`."""
        if self.conversation(valid(conversation).tenant, conversation.conversation_id) is not None:
            raise Conflict("there is a conversation of that id", found=conversation.conversation_id)
        self.write_through()
        self._session.write(sa.insert(t.conversations), values_of(conversation))

    def append_turn(self, tenant: str, turn: Turn) -> None:
        """See `Transaction`."""
        if self.conversation(tenant, valid(turn).conversation_id) is None:
            raise Conflict("there is no such conversation", found=turn.conversation_id)
        place = {"tenant": tenant, "conversation_id": turn.conversation_id}
        count = int(self._session.rows(_COUNT_TURNS, place)[0][0])
        if turn.index != count:
            raise Conflict("the conversation has gone on", expected=f"turn {count}", found=f"turn {turn.index}")
        self.write_through()
        self._session.write(sa.insert(t.turns), values_of(turn) | {"tenant": tenant})

    def delete_conversation(self, tenant: str, conversation_id: str) -> bool:
        """See `Transaction`."""
        self.write_through()
        return self._session.write(_DELETE_CONVERSATION, {"tenant": tenant, "conversation_id": conversation_id}) > 0

    def add_recording(self, recording: Recording) -> None:
        """See `Transaction`."""
        if self._session.rows(_RECORDING_ID, {"recording_id": valid(recording).recording_id}):
            raise Conflict("there is a recording of that id", found=recording.recording_id)
        self.write_through()
        self._session.write(sa.insert(t.recordings), values_of(recording))

    def delete_recordings(self, *, before_s: float) -> int:
        """See `Transaction`."""
        self.write_through()
        return self._session.write(_DELETE_RECORDINGS, {"before_s": before_s})
