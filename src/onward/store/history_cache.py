"""A bounded cache of entities' histories, the least recently used leaving first. Knows neither store nor clock time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from onward.prepare.profile import Features, History

Place = tuple[str, str]
"""A tenant and an entity."""

_BUCKETS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A history as it was loaded. `whole`: no event was left out because there were too many; it has all events that
    count for reads as of `from_s` or later."""

    history: History
    whole: bool
    from_s: float
    loaded_s: float = field(default_factory=time.monotonic)

    def holds(self, features: Features, as_of_s: float) -> bool:
        """Whether a read as of that time can be answered from it."""
        return as_of_s >= self.from_s and (self.whole or as_of_s > self.history.last_s)


class HistoryCache:
    """Histories by entity and by the features they were laid out for. Safe to use from several threads."""

    def __init__(self, max_bytes: int, freshness_s: float) -> None:
        self._max_bytes = max_bytes
        self._freshness_s = freshness_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, dict[str, Kept]] = OrderedDict()
        self._changes = [0] * _BUCKETS
        self.size_bytes = 0

    def __len__(self) -> int:
        """How many entities are in it."""
        return len(self._kept)

    def get(self, place: Place, key: str) -> Kept | None:
        """What is kept and still fresh."""
        with self._lock:
            of_entity = self._kept.get(place)
            kept = of_entity.get(key) if of_entity is not None else None
            if kept is None or time.monotonic() - kept.loaded_s > self._freshness_s:
                return None
            self._kept.move_to_end(place)
            return kept

    def mark(self, place: Place) -> int:
        """To be taken before loading, and given to `put`: what changed in between is not kept."""
        return self._changes[hash(place) % _BUCKETS]

    def put(self, place: Place, key: str, kept: Kept, mark: int) -> None:
        """Keep a history, unless the entity has changed since the mark was taken or it is too large."""
        size_bytes = kept.history.size_bytes
        with self._lock:
            if self._changes[hash(place) % _BUCKETS] != mark or size_bytes > self._max_bytes // 4:
                return
            of_entity = self._kept.setdefault(place, {})
            before = of_entity.get(key)
            self.size_bytes += size_bytes - (before.history.size_bytes if before is not None else 0)
            of_entity[key] = kept
            self._kept.move_to_end(place)
            while self.size_bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def forget(self, place: Place) -> None:
        """The entity has changed."""
        with self._lock:
            self._changes[hash(place) % _BUCKETS] += 1
            if place in self._kept:
                self._drop(place)

    def _drop(self, place: Place) -> None:
        self.size_bytes -= sum(kept.history.size_bytes for kept in self._kept.pop(place).values())
