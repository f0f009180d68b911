"""The search takes what holds the bound at the highest rate, and stays with what is where nothing is surely better."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from onward.runners.tuning.search import REPEATS, Found, Search, layouts
from onward.runners.tuning.trial import Point, Setting, Trial, held

CURRENT = Setting(max_batch_size=64, instances=1, threads=0)


class Machine:
    """Servers that behave as queues do: waits grow without end towards their capacity. Time is theirs to tell."""

    def __init__(self, capacity: Callable[[Setting], float], *, noise: float = 0.0, service_ms: float = 1.0) -> None:
        self.capacity_of = capacity
        self.clock_s = 0.0
        self.opened: list[Setting] = []
        self._noise = noise
        self._service_ms = service_ms
        self._chance = random.Random(3)

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Queue]:
        self.opened.append(setting)
        self.clock_s += 2.0
        yield Queue(self, setting)

    def shaken(self, value: float) -> float:
        return value * (1 + self._chance.uniform(-self._noise, self._noise))


class Queue:
    def __init__(self, machine: Machine, setting: Setting) -> None:
        self.machine = machine
        self.per_s = machine.capacity_of(setting)

    def capacity(self, seconds: float) -> float:
        self.machine.clock_s += seconds
        return self.machine.shaken(self.per_s)

    def at_rate(self, per_s: float, seconds: float) -> Point:
        self.machine.clock_s += seconds
        share = per_s / self.machine.shaken(self.per_s)
        p99_ms = self.machine._service_ms * 4.6 / (1 - share) if share < 1 else 1e4
        return Point(
            offered_per_s=per_s,
            p50_ms=p99_ms / 6,
            p99_ms=p99_ms,
            goodput_per_s=per_s,
            failures=int(share > 3),
            sustained=share < 1.15,
        )


def search(machine: Machine, *, bound_ms: float = 20.0, budget_s: float = 120.0, current: Setting = CURRENT) -> Found:
    return Search(
        machine.open, current, cores=4, threads_count=True, bound_ms=bound_ms, budget_s=budget_s,
        progress=lambda _: None, now=lambda: machine.clock_s,
    ).run()  # fmt: skip


def by_layout_and_batch(setting: Setting) -> float:
    """Four instances of one thread are twice as good as one of four, batches up to 32 better than all others."""
    return 1000 * (1 + (setting.instances == 4)) * (1.3 if setting.max_batch_size == 32 else 1.0)


def test_the_best_layout_and_batch_size_are_found() -> None:
    found = search(Machine(by_layout_and_batch, noise=0.02))
    assert found.best == Setting(max_batch_size=32, instances=4, threads=1)
    assert found.gain > 1 and found.noise < 0.5 and not found.skipped
    # 20 ms are held up to a share of 1 - 4.6 / 20 of the capacity.
    assert 0.6 * 2600 < found.final(found.best).held_per_s(20.0) < 0.8 * 2600
    assert found.final(CURRENT).held_per_s(20.0) < 800


def test_what_is_stays_where_nothing_is_better() -> None:
    found = search(Machine(lambda setting: 1000.0))
    assert (found.best, found.gain) == (CURRENT, 0.0)


def test_what_is_stays_where_a_gain_is_within_the_noise() -> None:
    better = 0
    for _ in range(3):
        found = search(Machine(lambda setting: 1000 * (1.02 if setting.instances == 4 else 1), noise=0.25))
        better += found.best != CURRENT
    assert better == 0


def test_a_bound_that_nothing_holds_gives_nothing() -> None:
    found = search(Machine(lambda setting: 1000.0), bound_ms=2.0)
    assert found.best is None and found.finals


def test_a_setting_that_holds_is_taken_where_that_of_now_does_not() -> None:
    found = search(Machine(lambda setting: 1000.0 if setting.instances == 4 else 1e-3))
    assert found.best is not None and found.best.instances == 4 and found.gain > 1000


@pytest.mark.parametrize("budget_s", [10, 60, 120, 600])
def test_the_time_is_kept_and_repeats_are_not_what_is_saved(budget_s: float) -> None:
    machine = Machine(by_layout_and_batch)
    found = search(machine, budget_s=budget_s)
    assert machine.clock_s < budget_s * 1.1 + 25  # starting servers takes its time, too
    assert all(len(trial.climbs) == REPEATS for trial in found.finals)
    assert bool(found.skipped) == (budget_s < 60)


def test_layouts_are_tried_once_each() -> None:
    found = layouts(Setting(max_batch_size=8, instances=1, threads=2), 2, threads_count=True)
    assert [(one.instances, one.threads) for one in found] == [(1, 2), (2, 1), (1, 1)]
    python = layouts(CURRENT, 4, threads_count=False)
    assert [(one.instances, one.threads) for one in python] == [(1, 0), (4, 0)]


def climb(*p99s_ms: float) -> list[Point]:
    return [
        Point(offered_per_s=10.0 * place, p50_ms=1, p99_ms=p99_ms, goodput_per_s=1)
        for place, p99_ms in enumerate(p99s_ms, 1)
    ]


def test_one_miss_does_not_end_a_climb_two_do_and_the_middle_of_three_counts() -> None:
    assert [held(climb(*p99s), 5.0) for p99s in ((1, 1, 9), (1, 9, 1), (1, 9, 9, 1), (9, 9, 1))] == [20, 30, 10, 0]
    trial = Trial(setting=CURRENT, climbs=[climb(1, 1, 9), climb(1, 9, 9), climb(1, 1, 1)])
    assert trial.held_in_climbs(5.0) == [20.0, 10.0, 30.0] and trial.held_per_s(5.0) == 20.0
    assert [point.p99_ms for point in trial.curve()] == [1, 1, 9]
    failed = Point(offered_per_s=1, p50_ms=1, p99_ms=1, goodput_per_s=1, failures=1)
    assert not failed.holds(5.0)


def test_every_climb_goes_on_until_it_fails_so_that_no_setting_is_held_down_by_its_first_look() -> None:
    found = search(Machine(by_layout_and_batch, noise=0.3))
    for trial in found.finals:
        for one in trial.climbs:
            rising = sorted(one, key=lambda point: point.offered_per_s)
            assert not any(point.holds(20.0) for point in rising[-2:]) or rising[-1].offered_per_s > 1.5 * (
                trial.capacity_per_s
            )


def test_a_rate_that_cannot_go_on_is_not_held_though_it_is_within_the_bound_so_far() -> None:
    found = search(Machine(by_layout_and_batch, service_ms=0.01), bound_ms=1e6)
    assert found.best is not None
    assert 0.9 * 2600 < found.final(found.best).held_per_s(1e6) < 1.2 * 2600


def test_turns_are_taken_so_that_none_is_always_first() -> None:
    order: list[Setting] = []

    class Noting(Queue):
        def __init__(self, machine: Machine, setting: Setting) -> None:
            super().__init__(machine, setting)
            self.setting = setting

        def at_rate(self, per_s: float, seconds: float) -> Point:
            order.append(self.setting)
            return super().at_rate(per_s, seconds)

    machine = Machine(by_layout_and_batch)

    @contextmanager
    def noting(setting: Setting) -> Iterator[Noting]:
        yield Noting(machine, setting)

    machine.open = noting  # type: ignore[method-assign, assignment]
    finals = [one.setting for one in search(machine).finals]
    turns = [setting for setting, _ in itertools.groupby(order)]
    forth, back = finals, finals[::-1]
    expected = [setting for setting, _ in itertools.groupby([*forth, *back, *forth])]
    assert turns[-len(expected) :] == expected
