"""The records of tuning: a setting, what a load at one rate showed, and how one setting did."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

_MISSES = 2


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Setting:
    """What is tuned: `batching.max_batch_size`, `execute.instances` and `execute.threads` (0: all cores)."""

    max_batch_size: int
    instances: int
    threads: int

    def __str__(self) -> str:
        threads = f"{self.threads} thread(s)" if self.threads else "all cores"
        return f"batches up to {self.max_batch_size}, {self.instances} instance(s) of {threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A load at one rate. `goodput_per_s` counts the answers within the bound; `late_ms` is how late the client itself
    sent at p99, which is part of the latencies. `failures` are all that were not answered with 2xx. It is not
    `sustained` where answers fell behind: in so short a look that need not show in the latencies yet.
    """

    offered_per_s: float
    p50_ms: float
    p99_ms: float
    goodput_per_s: float
    failures: int = 0
    requests: int = 0
    late_ms: float = 0.0
    sustained: bool = True

    def holds(self, bound_ms: float) -> bool:
        """Whether p99 was within the bound, nobody was turned away, and it could go on like that."""
        return self.sustained and not self.failures and self.p99_ms <= bound_ms


@dataclass(slots=True, kw_only=True)
class Trial:
    """One setting under load: its throughput with many callers who wait, and its climbs, each a curve by itself."""

    setting: Setting
    capacity_per_s: float = 0.0
    climbs: list[list[Point]] = field(default_factory=list)

    def curve(self) -> list[Point]:
        """The medians at each rate, by rate; a failure in half of the climbs stays one."""
        by_rate: dict[float, list[Point]] = {}
        for point in (point for climb in self.climbs for point in climb):
            by_rate.setdefault(point.offered_per_s, []).append(point)
        return [_median(by_rate[rate]) for rate in sorted(by_rate)]

    def held_per_s(self, bound_ms: float) -> float:
        """The highest rate that holds the bound, in the middle of the climbs; 0 where none does."""
        held = self.held_in_climbs(bound_ms)
        return statistics.median_low(held) if held else 0.0

    def held_in_climbs(self, bound_ms: float) -> list[float]:
        """The same for each climb by itself: how far they are apart is the noise."""
        return [held(climb, bound_ms) for climb in self.climbs]


def held(climb: Sequence[Point], bound_ms: float) -> float:
    """The highest rate that holds, before two one after the other do not: one alone may be a neighbour's doing."""
    highest, missed = 0.0, 0
    for point in sorted(climb, key=lambda one: one.offered_per_s):
        missed = 0 if point.holds(bound_ms) else missed + 1
        if missed == _MISSES:
            break
        if not missed:
            highest = point.offered_per_s
    return highest


def _median(points: Sequence[Point]) -> Point:
    def of(name: str) -> float:
        return float(statistics.median(getattr(point, name) for point in points))

    return Point(
        offered_per_s=of("offered_per_s"), p50_ms=of("p50_ms"), p99_ms=of("p99_ms"), goodput_per_s=of("goodput_per_s"),
        failures=int(statistics.median_high([point.failures for point in points])),
        requests=sum(point.requests for point in points), late_ms=of("late_ms"),
        sustained=2 * sum(point.sustained for point in points) >= len(points),
    )  # fmt: skip
