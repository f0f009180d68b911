"""An entity's features, computed from its past events as of a point in time: the same in `serve` and in `batch`.

Pure: events come as values, in any order. Knows nothing of stores, clocks or caches.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onward.errors import InputError, WrongDatatype
from onward.package.features import typed_value
from onward.package.manifest import Feature, Manifest, ProfileSource
from onward.prepare.fields import shown
from onward.types import Item

Profile: TypeAlias = Mapping[str, Any]
"""An entity's features: {name: value}; one that is absent (no event counts, no default) is left out."""

MAX_ENTITY_BYTES = 256
LARGEST = 1e300
"""The largest number that counts in an event: so that no sum of them leaves the range of a double."""

_TRUE, _FALSE = object(), object()  # in Python True == 1; here they are two values


@dataclass(frozen=True, slots=True, kw_only=True)
class PastEvent:
    """What happened at `at_s` and has been known since `recorded_s` (seconds since the epoch)."""

    event_id: str
    kind: str
    at_s: float
    recorded_s: float
    data: Mapping[str, Any]


class Features:
    """The features that a package declares, ready to be computed."""

    def __init__(self, source: ProfileSource, features: Sequence[Feature], *, fills: Iterable[str] = ()) -> None:
        """`fills` names the inputs that are filled from the feature of the same name."""
        self.source = source
        self.features = tuple(features)
        self.kinds = tuple(sorted({kind for feature in features for kind in feature.kinds}))
        # Events longer ago than this count for nothing.
        self.horizon_s = max((_span_s(feature, source) for feature in features), default=0.0)
        self.key = hashlib.sha256(repr((source, self.features)).encode()).hexdigest()[:16]
        self._fills = tuple(feature.name for feature in features if feature.name in set(fills))
        self.default: Profile = {feature.name: _default(feature) for feature in features if feature.default is not None}

    @classmethod
    def of(cls, manifest: Manifest) -> Features | None:
        """The features of a package, None where it has no `[profile]`."""
        if manifest.profile is None:
            return None
        return cls(manifest.profile, manifest.features, fills=[field.name for field in manifest.inputs])

    def entity(self, item: Item) -> str:
        """Whom an item is about; "" where it says nothing. Raises `WrongDatatype` or `InputError`."""
        where = self.source.entity
        value = item.get(where)
        if value is None:
            return ""
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise WrongDatatype(where=where, expected="text in UTF-8", found=shown(value)) from None
        if not isinstance(value, str):
            raise WrongDatatype(where=where, expected="text that names an entity", found=shown(value))
        return check_entity(value, where=where)

    def fill(self, item: Item, profile: Profile | None) -> Item:
        """The item with the inputs it leaves out taken from the profile; None: from the features' defaults."""
        if profile is None:
            profile = self.default
        found = {
            name: profile[name] for name in self._fills if item.get(name) is None and profile.get(name) is not None
        }
        return {**item, **found} if found else item

    def given(self, item: Item) -> Profile:
        """The profile where there is no store: the defaults, and what the item itself gives under a feature's name."""
        found = {name: item[name] for name in self._fills if item.get(name) is not None}
        return {**self.default, **found} if found else self.default

    def compute(self, events: Iterable[PastEvent], *, as_of_s: float, known_s: float | None = None) -> dict[str, Any]:
        """The features as of a time: of the events before it and, with `known_s`, of those recorded by then.

        Only the latest `max_events` of the kinds that features name count, and none older than `ttl_s`.
        """
        seen = [
            event
            for event in events
            if event.at_s < as_of_s and event.kind in self.kinds and (known_s is None or event.recorded_s <= known_s)
        ]
        seen.sort(key=_order)
        return self.history(seen[-self.source.max_events :]).read(as_of_s)

    def history(self, events: Sequence[PastEvent]) -> History:
        """The events of one entity, laid out to be read at any time that they cover."""
        return History(self, sorted(events, key=_order))


class History:
    """What the features need of an entity's events: for each the times and values of the events that count."""

    __slots__ = ("_columns", "_features", "count", "last_s", "size_bytes")

    def __init__(self, features: Features, events: Sequence[PastEvent]) -> None:
        self._features = features
        self._columns: list[tuple[list[float], list[Any]]] = []
        shared: dict[Any, tuple[list[float], list[Any]]] = {}
        for feature in features.features:
            needs_value = feature.function not in ("count", "time_since")
            what = (feature.kinds, feature.field, _reader_name(feature), feature.missing)
            if what not in shared:
                shared[what] = _column(feature, events) if needs_value else _times(feature, events)
            self._columns.append(shared[what])
        self.count = len(events)
        self.last_s = events[-1].at_s if events else -math.inf
        # Estimated: a float is 24 bytes and its place in a list 8; texts weigh what they are long.
        self.size_bytes = 512 + sum(
            64 * len(times) + sum(len(value) for value in values if isinstance(value, str))
            for times, values in shared.values()
        )

    def read(self, as_of_s: float) -> dict[str, Any]:
        """The features as of a time."""
        profile: dict[str, Any] = {}
        source = self._features.source
        for feature, (times, values) in zip(self._features.features, self._columns, strict=True):
            end = bisect_left(times, as_of_s)
            start = bisect_left(times, as_of_s - _span_s(feature, source), 0, end)
            if start < end:
                profile[feature.name] = _value(feature, times, values, start, end, as_of_s)
            elif feature.default is not None:
                profile[feature.name] = _default(feature)
        return profile


def check_entity(entity: str, *, where: str) -> str:
    """The entity, if it is one: 1 to 256 bytes of UTF-8 without control characters. Raises `InputError`."""
    try:
        size = len(entity.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_ENTITY_BYTES or not entity.isprintable():
        expected = f"1 to {MAX_ENTITY_BYTES} bytes of printable text"
        raise InputError("not the name of an entity", where=where, expected=expected, found=ascii(entity[:60]))
    return entity


def _value(
    feature: Feature, times: list[float], values: list[Any], start: int, end: int, as_of_s: float
) -> float | str | bool | list[Any]:
    """The function over the events from `start` until before `end`; there is at least one."""
    function = feature.function
    if function == "count":
        return end - start
    if function == "time_since":
        return as_of_s - times[end - 1]
    if function == "last":
        value: float | str | bool = values[end - 1]
        return value
    if function == "last_n":
        return values[max(start, end - feature.n) : end][::-1]  # newest first
    if function == "distinct":
        return len(set(values[start:end]))
    numbers: list[float] = values[start:end]
    if function == "minimum":
        return min(numbers)
    if function == "maximum":
        return max(numbers)
    # fsum rounds once, at the end: the sum does not depend on the order of the events.
    total = math.fsum(numbers)
    return total if function == "sum" else total / len(numbers)


def _times(feature: Feature, events: Sequence[PastEvent]) -> tuple[list[float], list[Any]]:
    return [event.at_s for event in events if event.kind in feature.kinds], []


def _column(feature: Feature, events: Sequence[PastEvent]) -> tuple[list[float], list[Any]]:
    times, values = [], []
    read = _reader(_reader_name(feature))
    for event in events:
        if event.kind in feature.kinds:
            value = read(event.data.get(feature.field), feature.datatype)
            if value is None:
                value = feature.missing
            if value is not None:
                times.append(event.at_s)
                values.append(value)
    return times, values


def _reader_name(feature: Feature) -> str:
    if feature.function in ("last", "last_n"):
        return feature.datatype
    return {"distinct": "scalar", "count": "", "time_since": ""}.get(feature.function, "number")


def _number(value: Any, datatype: str) -> float | None:
    number = typed_value(value, "FP64")
    return number if isinstance(number, float) and abs(number) <= LARGEST else None


def _scalar(value: Any, datatype: str) -> Any:
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    return value if isinstance(value, str | int | float) else None


def _reader(name: str) -> Callable[[Any, str], Any]:
    return {"number": _number, "scalar": _scalar}.get(name, typed_value)


def _order(event: PastEvent) -> tuple[float, str]:
    return event.at_s, event.event_id


def _span_s(feature: Feature, source: ProfileSource) -> float:
    """How long an event counts for a feature."""
    return min(_or_ever(feature.window_s), _or_ever(source.ttl_s))


def _or_ever(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _default(feature: Feature) -> Any:
    return list(feature.default) if isinstance(feature.default, tuple) else feature.default
