"""The search: which settings are tried, at which rates, and which is taken. Knows no servers: a `Rig` measures.

1. Layouts (instances × threads) at the batch size of now, then batch sizes in the best layout: one short look each.
2. The best two and the setting of now, all running, climb in turn, three times each: medians, and their spread.
3. The one that holds the bound at the highest rate; the setting of now, unless another is better in every climb.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from onward.runners.tuning.trial import Point, Setting, Trial, held

LATE_SHARE = 0.25
"""From which share of the bound on the client's own lateness makes a look doubtful."""

REPEATS = 3
_BATCHES = (1, 8, 32, 128)
_STEP = 1.2  # from one rate of the grid to the next
_FINALISTS = 2
_BELOW = 4  # from so many rates of the grid below the one that was held at first, the last climbs begin
_LOOKS_A_CLIMB = 8  # about
_DEEPEST = 16
_BEYOND = 50.0
_SCREENING_SHARE = 0.55
_OVERHEAD = 1.3  # a look takes a little longer than its window: the last answers are waited for
_LEAST_WINDOW_S, _MOST_WINDOW_S = 0.2, 4.0
_BUDGET_OF_SECOND_S = 120.0  # the budget with which each rate is measured for a second


class Rig(Protocol):
    """A server with one setting, warm."""

    def capacity(self, seconds: float) -> float:
        """Answers a second with many callers who wait for each other's."""
        ...

    def at_rate(self, per_s: float, seconds: float) -> Point:
        """What callers meet who do not wait."""
        ...


OpenRig: TypeAlias = Callable[[Setting], AbstractContextManager[Rig]]


@dataclass(slots=True, kw_only=True)
class Found:
    """What the search found. `best` is None where no setting surely holds the bound at any rate that was tried.

    `skipped` were not tried for want of time. `gain` is how much higher the best setting's rate is than that of now,
    over the latter; `noise` how far the repeats of either were apart, likewise.
    """

    bound_ms: float
    current: Setting
    best: Setting | None = None
    screened: list[Trial] = field(default_factory=list)
    finals: list[Trial] = field(default_factory=list)
    skipped: list[Setting] = field(default_factory=list)
    gain: float = 0.0
    noise: float = 0.0

    @property
    def doubtful(self) -> bool:
        """Whether the client itself was late: this machine is busy with other things, or too small for both."""
        points = [point for trial in self.finals for point in trial.curve() if point.holds(self.bound_ms)]
        return any(point.late_ms > LATE_SHARE * self.bound_ms for point in points)

    def final(self, setting: Setting) -> Trial:
        """The final trial of a setting."""
        return next(one for one in self.finals if one.setting == setting)


def layouts(current: Setting, cores: int, *, threads_count: bool) -> list[Setting]:
    """The layouts worth a look on so many cores, that of now first; where threads do not count, only instances vary."""
    ways = [(1, 0), (cores, 1), (1, 1)] if threads_count else [(1, current.threads), (cores, current.threads)]
    if threads_count and cores >= 4:
        ways.insert(2, (cores // 2, 2))
    made = [current]
    for instances, threads in ways:
        setting = Setting(max_batch_size=current.max_batch_size, instances=instances, threads=threads)
        if _on(setting, cores) not in [_on(one, cores) for one in made]:
            made.append(setting)
    return made


def _on(setting: Setting, cores: int) -> tuple[int, int]:
    return setting.instances, setting.threads or cores


def batches(setting: Setting) -> list[Setting]:
    """The same layout with other batch sizes."""
    return [
        Setting(max_batch_size=size, instances=setting.instances, threads=setting.threads)
        for size in _BATCHES
        if size != setting.max_batch_size
    ]


class Search:
    """One search. `now` is the clock, in seconds."""

    def __init__(
        self, open_rig: OpenRig, current: Setting, *, cores: int, threads_count: bool, bound_ms: float, budget_s: float,
        progress: Callable[[str], None], now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._open_rig = open_rig
        self._cores = cores
        self._threads_count = threads_count
        self._progress = progress
        self._now = now
        self._started_s = now()
        self._budget_s = budget_s
        self._window_s = min(max(budget_s / _BUDGET_OF_SECOND_S, _LEAST_WINDOW_S), _MOST_WINDOW_S)
        self._found = Found(bound_ms=bound_ms, current=current)

    def run(self) -> Found:
        """Search, and say what was found."""
        found = self._found
        self._screen(layouts(found.current, self._cores, threads_count=self._threads_count))
        self._screen(batches(self._ranked()[0].setting))
        self._compare([one.setting for one in self._ranked()[:_FINALISTS]])
        self._choose()
        return found

    # --- 1. A short look at many ---

    def _screen(self, settings: Sequence[Setting]) -> None:
        found = self._found
        for setting in settings:
            if found.screened and self._now() - self._started_s > _SCREENING_SHARE * self._budget_s:
                found.skipped.append(setting)
                continue
            self._progress(f"trying {setting}")
            with self._open_rig(setting) as rig:
                found.screened.append(self._look(setting, rig))

    def _look(self, setting: Setting, rig: Rig) -> Trial:
        """The throughput, and one climb from half of it, or from below where that is too much already."""
        window_s = max(self._window_s / 2, _LEAST_WINDOW_S)
        rig.capacity(window_s / 2)  # the first requests after a start are slower
        trial = Trial(setting=setting, capacity_per_s=rig.capacity(window_s))
        place = _place(0.5 * trial.capacity_per_s)
        trial.climbs.append(self._climb(rig, place, trial.capacity_per_s, window_s))
        return trial

    def _climb(self, rig: Rig, place: int, capacity_per_s: float, window_s: float) -> list[Point]:
        """Each rate of the grid from `place` up, until two in a row do not hold; where none does, lower ones."""
        climb: list[Point] = []
        lowest = place
        while len(climb) < 2 or any(point.holds(self._found.bound_ms) for point in climb[-2:]):
            if _rate(place) > _BEYOND * capacity_per_s and len(climb) >= 2:  # so wrong that throughput cannot be
                break
            climb.append(rig.at_rate(_rate(place), window_s))
            place += 1
        for lower in range(lowest - 3, lowest - _DEEPEST, -3):
            if held(climb, self._found.bound_ms):
                break
            climb.append(rig.at_rate(_rate(lower), window_s))
        return climb

    def _ranked(self) -> list[Trial]:
        """The best first: by the rate that is held, and where none is, by throughput."""
        bound_ms = self._found.bound_ms
        return sorted(self._found.screened, key=lambda one: (-one.held_per_s(bound_ms), -one.capacity_per_s))

    # --- 2. A long look at few ---

    def _compare(self, settings: Sequence[Setting]) -> None:
        found = self._found
        chosen = list(dict.fromkeys([found.current, *settings]))
        with ExitStack() as stack:
            rigs = []
            for setting in chosen:
                rigs.append(stack.enter_context(self._open_rig(setting)))
                screened = next(one for one in found.screened if one.setting == setting)
                found.finals.append(Trial(setting=setting, capacity_per_s=screened.capacity_per_s))
            for rig in rigs:
                rig.capacity(self._window_s / 3)
            # Shorter looks rather than fewer repeats: without these nobody knows what is noise.
            left_s = self._budget_s - (self._now() - self._started_s)
            window_s = left_s / (REPEATS * len(chosen) * _LOOKS_A_CLIMB * _OVERHEAD)
            window_s = min(max(window_s, _LEAST_WINDOW_S), _MOST_WINDOW_S)
            for turn in range(REPEATS):
                self._progress(f"round {turn + 1} of {REPEATS}")
                order = range(len(chosen)) if turn % 2 == 0 else range(len(chosen) - 1, -1, -1)
                for which in order:
                    self._round(found.finals[which], rigs[which], window_s)

    def _round(self, trial: Trial, rig: Rig, window_s: float) -> None:
        """One climb, from a little below what was held before."""
        screened = next(one for one in self._found.screened if one.setting == trial.setting)
        known = screened.held_per_s(self._found.bound_ms) or min(point.offered_per_s for point in screened.climbs[0])
        trial.climbs.append(self._climb(rig, _place(known * 1.01) - _BELOW, trial.capacity_per_s, window_s))

    # --- 3. The choice ---

    def _choose(self) -> None:
        found, bound_ms = self._found, self._found.bound_ms
        best = max(found.finals, key=lambda one: one.held_per_s(bound_ms))
        current = found.final(found.current)
        theirs, ours = best.held_in_climbs(bound_ms), current.held_in_climbs(bound_ms)
        found.noise = max(_spread(theirs), _spread(ours))
        if min(theirs) > max(ours):  # every climb against every climb: by chance that is one in twenty
            found.best = best.setting
            now = current.held_per_s(bound_ms)
            found.gain = best.held_per_s(bound_ms) / now - 1 if now else math.inf
        elif current.held_per_s(bound_ms):
            found.best = found.current


def _spread(values: Sequence[float]) -> float:
    """How far climbs are apart, over the middle one."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else float(max(values) > 0)


def _place(per_s: float) -> int:
    return math.floor(math.log(max(per_s, 1e-3)) / math.log(_STEP))


def _rate(place: int) -> float:
    return float(_STEP**place)
