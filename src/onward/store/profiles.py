"""Profiles: what has happened to each entity, kept in the store and read as features.

Events are written through the store's writer and known to every read as soon as they are durable. What has been read
is kept in a bounded cache, by entity; an event or an erasure in this process ends that at once, one in another process
after `freshness_s`. Knows nothing of HTTP or packages; what a feature is, `onward.prepare.profile` knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec

from onward.prepare.profile import Features, PastEvent, check_entity
from onward.store.history_cache import HistoryCache, Kept
from onward.store.new_events import read_event
from onward.store.records import Erasure, ProfileEvent
from onward.store.store import Reader, Store, Transaction

T = TypeVar("T")
_EVER_S = 1e12  # after the year 9999, which is as late as an event may happen
_PURGE_ROWS = 2000
_decode = msgspec.json.Decoder().decode


class Submits(Protocol):
    """Runs a function in a transaction of the store: `onward.store.writer.Writer`."""

    def submit(self, change: Callable[[Transaction], T], /) -> Future[T]:
        """The future is done once what the function wrote is durable."""
        ...


class NotesErasure(Protocol):
    """Writes an erasure into the audit log: `onward.decide.audit.note_erasure`."""

    def __call__(self, tx: Transaction, erasure: Erasure, *, tenant: str, key_id: str, by: str, at_s: float) -> object:
        """Append the entry; the entity itself is never named in it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What became of events that were sent: new ones, and ones whose ids the tenant had already."""

    accepted: int
    duplicate: int


class Profiles:
    """The profiles of one store. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        writer: Submits,
        *,
        note_erasure: NotesErasure | None = None,
        cache_bytes: int = 64 << 20,
        freshness_s: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`freshness_s`: how long a read may rely on the cache before it asks the store what others have written."""
        self._store = store
        self._writer = writer
        self._note_erasure = note_erasure
        self._clock = clock
        self._cache = HistoryCache(cache_bytes, freshness_s)

    def ingest(self, tenant: str, entity: str, events: Sequence[Mapping[str, Any]]) -> Future[Ingested]:
        """Add events to an entity's history; the future is done once they are durable and reads see them.

        An event is `{"id", "kind", "at", "data"}`; see `read_event`. Raises `InputError`: then none was taken.
        """
        check_entity(entity, where="entity")
        now_s = self._clock()
        many = len(events) > 1
        rows = [
            read_event(event, tenant=tenant, entity=entity, now_s=now_s, where=f"[{index}]." if many else "")
            for index, event in enumerate(events)
        ]
        return self.append(rows)

    def append(self, events: Sequence[ProfileEvent]) -> Future[Ingested]:
        """Add events that have been checked, of any entities."""

        def work(tx: Transaction) -> Ingested:
            new = tx.append_events(events)
            return Ingested(accepted=new, duplicate=len(events) - new)

        return self._changed({(event.tenant, event.entity) for event in events}, self._writer.submit(work))

    def read(
        self,
        tenant: str,
        entity: str,
        features: Features,
        *,
        as_of_s: float | None = None,
        known_s: float | None = None,
    ) -> dict[str, Any]:
        """An entity's features as of a time (None: now); with `known_s`, as a read at that time gave them.

        Asks the store where the cache does not have them, which takes a few hundred microseconds: on an event loop,
        try `cached` first. An entity that nothing is known about, or "", has the defaults.
        """
        if not entity or not features.kinds:
            return dict(features.default)
        now_s = self._clock()
        as_of_s = now_s if as_of_s is None else as_of_s
        if known_s is None and as_of_s >= now_s - 1.0:  # the past is not read again and again
            kept = self._cached((tenant, entity), features, as_of_s) or self._load((tenant, entity), features, as_of_s)
            if kept.holds(features, as_of_s):
                return kept.history.read(as_of_s)
        with self._store.snapshot() as reader:
            events = reader.events(
                tenant,
                entity,
                as_of_s=as_of_s,
                since_s=_since_s(features, as_of_s),
                known_s=known_s,
                kinds=features.kinds,
                limit=features.source.max_events,
            )
        return features.compute(map(_past, events), as_of_s=as_of_s, known_s=known_s)

    def cached(
        self, tenant: str, entity: str, features: Features, *, as_of_s: float | None = None
    ) -> dict[str, Any] | None:
        """What `read` would give, without asking the store; None where that is not possible."""
        if not entity or not features.kinds:
            return dict(features.default)
        as_of_s = self._clock() if as_of_s is None else as_of_s
        kept = self._cached((tenant, entity), features, as_of_s)
        return None if kept is None else kept.history.read(as_of_s)

    def events(
        self, tenant: str, entity: str, *, before_s: float | None = None, kinds: tuple[str, ...] = (), limit: int = 100
    ) -> list[dict[str, Any]]:
        """The latest events of an entity, newest first, as they were sent."""
        as_of_s = _EVER_S if before_s is None else before_s
        with self._store.snapshot() as reader:
            found = reader.events(tenant, entity, as_of_s=as_of_s, kinds=kinds, limit=limit)
        return [_shown(event) for event in found]

    def export(self, tenant: str, entity: str) -> dict[str, Any]:
        """All that the store keeps in the clear about an entity, as JSON can hold it.

        What the audit log and the outbox keep is encrypted under the entity's key; `key_id` says which that is.
        """
        with self._store.snapshot() as reader:
            key = reader.key_of(tenant, entity)
            return {
                "tenant": tenant,
                "entity": entity,
                "exported_s": self._clock(),
                "key_id": key.key_id if key is not None else "",
                "events": [_shown(event) for event in _all_events(reader, tenant, entity)],
                "conversations": [
                    {
                        "conversation_id": talk.conversation_id,
                        "model": talk.model,
                        "created_s": talk.created_s,
                        "turns": [
                            {
                                "index": turn.index,
                                "role": turn.role,
                                "at_s": turn.at_s,
                                "content": readable(turn.content),
                            }
                            for turn in reader.turns(tenant, talk.conversation_id, limit=1 << 31)
                        ],
                    }
                    for talk in reader.conversations_of(tenant, entity, limit=1 << 31)
                ],
                "recordings": [
                    {
                        "recording_id": one.recording_id,
                        "model": one.model,
                        "version": one.version,
                        "at_s": one.at_s,
                        "input": readable(one.input),
                        "answer": readable(one.answer),
                    }
                    for one in reader.recordings_of(tenant, entity, limit=1 << 31)
                ],
            }

    def erase(self, tenant: str, entity: str, *, by: str = "") -> Erasure:
        """Erase all traces of an entity, and wait until it is done: its events, conversations and recordings are
        deleted, its key is destroyed, and no byte of them is left in the store's files.

        `by` goes into the audit log, where the entity is named by its key's id only. Idempotent.
        """

        def work(tx: Transaction) -> Erasure:
            now_s = self._clock()
            key = tx.key_of(tenant, entity)
            erasure = tx.erase_entity(tenant, entity, now_s)
            if self._note_erasure is not None:
                key_id = key.key_id if key is not None else ""
                self._note_erasure(tx, erasure, tenant=tenant, key_id=key_id, by=by, at_s=now_s)
            return erasure

        return self._changed({(tenant, entity)}, self._writer.submit(work)).result()

    def purge(self, packages: Iterable[Features], *, now_s: float | None = None) -> int:
        """Delete events that are older than the `ttl_s` of every package that reads their kind; how many there were.

        Kinds that no package reads, or one without a `ttl_s`, are kept. Done in small bites.
        """
        now_s = self._clock() if now_s is None else now_s
        ttl_s: dict[str, float | None] = {}
        for features in packages:
            for kind in features.kinds:
                mine, others = features.source.ttl_s, ttl_s.get(kind, 0.0)
                ttl_s[kind] = None if mine is None or others is None else max(mine, others)
        deleted = 0
        for kind, span_s in ttl_s.items():
            while span_s is not None:
                bite = self._writer.submit(_purge(kind, now_s - span_s)).result()
                deleted += bite
                if bite < _PURGE_ROWS:
                    break
        return deleted

    def _cached(self, place: tuple[str, str], features: Features, as_of_s: float) -> Kept | None:
        kept = self._cache.get(place, features.key)
        return kept if kept is not None and kept.holds(features, as_of_s) else None

    def _load(self, place: tuple[str, str], features: Features, as_of_s: float) -> Kept:
        mark = self._cache.mark(place)
        limit = features.source.max_events
        since_s = _since_s(features, as_of_s)
        with self._store.snapshot() as reader:
            events = reader.events(*place, as_of_s=_EVER_S, since_s=since_s, kinds=features.kinds, limit=limit)
        history = features.history([_past(event) for event in events])
        kept = Kept(history=history, whole=len(events) < limit, from_s=as_of_s if since_s is not None else 0.0)
        self._cache.put(place, features.key, kept, mark)
        return kept

    def _changed(self, places: Iterable[tuple[str, str]], written: Future[T]) -> Future[T]:
        """A future that is done after `written` and after the cache has forgotten what was changed."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()

        def forget(future: Future[T]) -> None:
            for place in places:
                self._cache.forget(place)
            error = future.exception()
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(future.result())

        written.add_done_callback(forget)
        return done


def _purge(kind: str, before_s: float) -> Callable[[Transaction], int]:
    return lambda tx: tx.delete_events(before_s=before_s, kinds=(kind,), limit=_PURGE_ROWS)


def _since_s(features: Features, as_of_s: float) -> float | None:
    since_s = as_of_s - features.horizon_s
    return since_s if since_s > 0 else None


def _past(event: ProfileEvent) -> PastEvent:
    return PastEvent(
        event_id=event.event_id,
        kind=event.kind,
        at_s=event.at_s,
        recorded_s=event.recorded_s,
        data=_decode(event.data),
    )


def _shown(event: ProfileEvent) -> dict[str, Any]:
    return {"id": event.event_id, "kind": event.kind, "at": event.at_s, "recorded": event.recorded_s,
            "data": _decode(event.data)}  # fmt: skip


def _all_events(reader: Reader, tenant: str, entity: str) -> list[ProfileEvent]:
    return reader.events(tenant, entity, as_of_s=_EVER_S, limit=1 << 31)


def readable(data: bytes) -> Any:
    """What is kept as JSON, or as text, as that."""
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return data.decode("utf-8", "backslashreplace")
