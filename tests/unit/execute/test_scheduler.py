"""Properties of the scheduler, on made-up times."""

from __future__ import annotations

import weakref
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from onward.errors import Overloaded, TooLarge
from onward.execute.scheduler import LENGTH_BUCKETS, Batch, Scheduler, State, Work, length_bucket

ENDED = {State.FINISHED, State.CANCELLED, State.EXPIRED}
TTLS_S = st.sampled_from([0.0, 1.0, 3.0, 1e9, 1e9, 1e9])
KEYS = st.sampled_from([None, None, "a"])
ROWS = st.sampled_from([1, 1, 1, 2, 3, 10])
LENGTHS = st.sampled_from([0, 0, 0, 8, 9, 16, 9000])
KINDS = st.sampled_from([(None, 0), (None, 0), (None, 0), (None, 8), (None, 9), ("a", 0), ("a", 16), (None, 7)])


def queue_of(work: Work) -> Hashable:
    """What two works must have in common to share a batch."""
    return (work.key, length_bucket(work.length) if work.length else None)


def live(works: list[Work], now_s: float) -> list[Work]:
    return [work for work in works if work.state is State.QUEUED and work.deadline_s > now_s]


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a scheduler as `serve` does and checks it against a plain list of everything that was ever added."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.added: list[Work] = []
        self.rejected: list[Work] = []
        self.running: list[Batch] = []
        self.reported: set[int] = set()

    @initialize(
        max_batch_size=st.sampled_from([1, 2, 4, 8]),
        delay_us=st.sampled_from([0, 0, 1_000_000, 3_500_000]),
        queue_rows=st.sampled_from([5, 40, 40, 40]),
        instances=st.integers(1, 3),
    )
    def start(self, max_batch_size: int, delay_us: int, queue_rows: int, instances: int) -> None:
        self.scheduler = Scheduler(
            max_batch_size=max_batch_size,
            max_queue_delay_us=delay_us,
            max_queue_rows=queue_rows,
            instances=instances,
            row_buckets=tuple(size for size in (1, 2, 4, 8) if size <= max_batch_size),
        )

    @rule(requests=st.lists(st.tuples(ROWS, KINDS, TTLS_S), min_size=1, max_size=6))
    def add(self, requests: list[tuple[int, tuple[str | None, int], float]]) -> None:
        for rows, (key, length), ttl_s in requests:
            self._add(Work(rows=rows, key=key, length=length, deadline_s=self.now_s + ttl_s))

    def _add(self, work: Work) -> None:
        scheduler = self.scheduler
        fits = scheduler.queued_rows + work.rows <= scheduler.max_queue_rows
        try:
            scheduler.add(work, self.now_s)
        except TooLarge:
            assert work.rows > scheduler.max_queue_rows
            self.rejected.append(work)
        except Overloaded as error:
            assert not fits
            assert work.rows <= scheduler.max_queue_rows
            assert error.retry_after_s > 0
            self.rejected.append(work)
        else:
            assert fits
            assert work.arrived_s == self.now_s
            self.added.append(work)

    @rule(index=st.integers(0, 30))
    def cancel_any(self, index: int) -> None:
        works = self.added + self.rejected
        if works:
            self._cancel(works[index % len(works)])

    @rule(indices=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def cancel_waiting(self, indices: list[int]) -> None:
        for index in indices:
            waiting = [work for work in self.added if work.state is State.QUEUED]
            if waiting:
                self._cancel(waiting[index % len(waiting)])

    def _cancel(self, work: Work) -> None:
        before = work.state
        cancelled = self.scheduler.cancel(work)
        assert cancelled == (work in self.added and before is State.QUEUED)
        assert work.state is (State.CANCELLED if cancelled else before)

    @rule()
    def next_batch(self) -> None:
        scheduler = self.scheduler
        waiting = live(self.added, self.now_s)
        free = scheduler.running < scheduler.instances
        batch = scheduler.next_batch(self.now_s)
        if batch is None:
            self._check_that_it_may_wait(waiting, free)
            return
        assert free
        self._check_batch(batch, waiting)
        self.running.append(batch)

    def _check_that_it_may_wait(self, waiting: list[Work], free: bool) -> None:
        if not free or not waiting:
            return
        scheduler = self.scheduler
        oldest_s = min(work.arrived_s for work in waiting)
        assert self.now_s < oldest_s + scheduler.max_queue_delay_s, "it waits longer than it may"
        for key in {queue_of(work) for work in waiting}:
            rows = sum(work.rows for work in waiting if queue_of(work) == key)
            assert rows < scheduler.max_batch_size, "a full batch waits"
        assert scheduler.wake_s() == oldest_s + scheduler.max_queue_delay_s

    def _check_batch(self, batch: Batch, waiting: list[Work]) -> None:
        scheduler = self.scheduler
        assert batch.works
        assert all(work in waiting for work in batch.works), "it runs what is cancelled, expired or not queued"
        assert all(work.state is State.RUNNING for work in batch.works)
        assert len({queue_of(work) for work in batch.works}) == 1
        assert batch.rows == sum(work.rows for work in batch.works)
        assert batch.rows <= scheduler.max_batch_size or len(batch.works) == 1
        assert batch.bucket >= batch.rows
        if batch.rows <= scheduler.row_buckets[-1]:
            assert batch.bucket in scheduler.row_buckets
            assert not any(batch.rows <= size < batch.bucket for size in scheduler.row_buckets)
        mates = [work for work in waiting if queue_of(work) == queue_of(batch.works[0])]
        assert mates[: len(batch.works)] == batch.works, "not first in, first out"
        if len(mates) > len(batch.works):
            assert batch.rows + mates[len(batch.works)].rows > scheduler.max_batch_size, "it left room unused"
        oldest_s = min(work.arrived_s for work in waiting)
        head_s = batch.works[0].arrived_s
        due = self.now_s >= oldest_s + scheduler.max_queue_delay_s
        if due:
            assert head_s == oldest_s, "an older head waits"
        else:
            assert sum(work.rows for work in mates) >= scheduler.max_batch_size, "it did not wait for the delay"

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 2), took_s=st.sampled_from([0.0, 0.5, 2.0]))
    def done(self, index: int, took_s: float) -> None:
        self.now_s += took_s
        batch = self.running.pop(index % len(self.running))
        self.scheduler.done(batch, self.now_s)
        assert all(work.state is State.FINISHED for work in batch.works)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def expire(self) -> None:
        waiting = live(self.added, self.now_s)
        for work in self.scheduler.expire(self.now_s):
            assert work.state is State.EXPIRED
            assert work.deadline_s <= self.now_s
            assert id(work) not in self.reported, "it reports an expiry twice"
            self.reported.add(id(work))
        assert live(self.added, self.now_s) == waiting
        assert all(work.deadline_s > self.now_s for work in self.added if work.state is State.QUEUED)

    @precondition(lambda self: self.scheduler.max_queue_delay_s)
    @rule()
    def sleep_until_wake(self) -> None:
        scheduler = self.scheduler
        wake_s = scheduler.wake_s()
        if wake_s is None:
            return
        self.now_s = max(self.now_s, wake_s)

    @invariant()
    def counts_are_exact(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        queued = sum(work.rows for work in self.added if work.state is State.QUEUED)
        assert self.scheduler.queued_rows == queued <= self.scheduler.max_queue_rows
        assert self.scheduler.running == len(self.running) <= self.scheduler.instances
        assert self.scheduler.idle == (not queued and not self.running)

    def teardown(self) -> None:
        """Drain: whatever happened before, everything ends, and everything that expired is reported."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3 * len(self.added) + 3):
            self.next_batch()
            if self.running:
                self.done(0, 0.5)
            elif self.scheduler.queued_rows:
                wake_s = self.scheduler.wake_s()
                assert wake_s is not None
                assert wake_s > self.now_s
                self.now_s = wake_s
            else:
                break
        self.expire()
        assert all(work.state in ENDED for work in self.added)
        assert {id(work) for work in self.added if work.state is State.EXPIRED} == self.reported
        assert all(work.state is State.REJECTED for work in self.rejected)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def scheduler_with(works: list[Work], **options: int) -> Scheduler:
    scheduler = Scheduler(**{"max_batch_size": 4, **options})  # type: ignore[arg-type]
    for index, work in enumerate(works):
        scheduler.add(work, float(index))
    return scheduler


def drain(scheduler: Scheduler, now_s: float) -> list[list[Work]]:
    batches = []
    while batch := scheduler.next_batch(now_s):
        batches.append(batch.works)
        scheduler.done(batch, now_s)
    return batches


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), KEYS, LENGTHS), max_size=60), st.integers(1, 9))
def test_every_work_runs_once_and_within_its_queue_in_order_of_arrival(
    requests: list[tuple[int, str | None, int]], max_batch_size: int
) -> None:
    works = [Work(rows=rows, key=key, length=length) for rows, key, length in requests]
    batches = drain(scheduler_with(works, max_batch_size=max_batch_size), 1e3)
    ran = [work for batch in batches for work in batch]
    assert len(ran) == len(works)
    for key in {queue_of(work) for work in works}:
        assert [work for work in ran if queue_of(work) == key] == [work for work in works if queue_of(work) == key]
    heads = [batch[0].arrived_s for batch in batches]
    assert heads == sorted(heads), "an older head waited behind a younger one"


def test_a_busy_key_does_not_starve_a_quiet_one() -> None:
    scheduler = Scheduler(max_batch_size=2)
    quiet = Work(key="quiet")
    for step in range(3):
        scheduler.add(Work(key="busy"), step / 10)
    scheduler.add(quiet, 0.5)
    for step in range(10):
        scheduler.add(Work(key="busy"), 1.0 + step)
        batch = scheduler.next_batch(1.0 + step)
        assert batch is not None
        scheduler.done(batch, 1.5 + step)
        if quiet in batch.works:
            assert step == 2, "it waits for the three that came before it and for nothing else"
            return
    pytest.fail("the quiet key never ran")


def test_work_larger_than_a_batch_runs_alone() -> None:
    small, large, last = Work(rows=1), Work(rows=9), Work(rows=1)
    assert drain(scheduler_with([small, large, last]), 9.0) == [[small], [large], [last]]


def test_work_larger_than_the_queue_is_too_large_even_when_the_queue_is_empty() -> None:
    with pytest.raises(TooLarge, match="at most 4 rows"):
        Scheduler(max_batch_size=4, max_queue_rows=4).add(Work(rows=5), 0.0)


def test_work_without_rows_is_refused_because_it_would_wait_forever() -> None:
    scheduler = Scheduler(max_batch_size=4)
    with pytest.raises(ValueError, match="at least one row"):
        scheduler.add(Work(rows=0), 0.0)
    assert scheduler.idle


def test_cancelling_what_was_refused_leaves_the_count_alone() -> None:
    scheduler = scheduler_with([Work(rows=3)], max_queue_rows=4)
    refused = Work(rows=2)
    with pytest.raises(Overloaded):
        scheduler.add(refused, 1.0)
    assert not scheduler.cancel(refused)
    assert scheduler.queued_rows == 3


def test_retry_after_is_the_time_the_waiting_rows_need_at_the_rate_seen() -> None:
    scheduler = scheduler_with([Work(rows=4)], max_queue_rows=8, instances=2)
    batch = scheduler.next_batch(10.0)
    assert batch is not None
    scheduler.done(batch, 12.0)  # half a second a row
    scheduler.add(Work(rows=8), 12.0)
    with pytest.raises(Overloaded) as raised:
        scheduler.add(Work(), 12.0)
    assert raised.value.retry_after_s == pytest.approx(8 * 0.5 / 2)


def test_no_more_batches_run_than_there_are_instances() -> None:
    scheduler = scheduler_with([Work(rows=4) for _ in range(3)], instances=2)
    first, second, third = (scheduler.next_batch(3.0) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is None
    scheduler.done(second, 4.0)
    assert scheduler.next_batch(4.0) is not None


def test_without_delay_an_idle_instance_never_waits() -> None:
    scheduler = scheduler_with([Work()])
    assert scheduler.wake_s() is None
    assert scheduler.next_batch(0.0) is not None


def test_with_delay_a_lone_work_runs_exactly_when_wake_says() -> None:
    scheduler = scheduler_with([Work()], max_queue_delay_us=2000)
    assert scheduler.next_batch(0.0) is None
    wake_s = scheduler.wake_s()
    assert wake_s is not None
    assert wake_s == pytest.approx(0.002)
    assert scheduler.next_batch(wake_s * 0.99) is None
    assert scheduler.next_batch(wake_s) is not None


def test_with_delay_a_full_batch_runs_at_once_even_behind_an_older_queue() -> None:
    scheduler = Scheduler(max_batch_size=2, max_queue_delay_us=1_000_000)
    older, full = Work(key="a"), [Work(key="b"), Work(key="b")]
    for now_s, work in enumerate([older, *full]):
        scheduler.add(work, now_s / 10)
    batch = scheduler.next_batch(0.2)
    assert batch is not None
    assert batch.works == full


def test_a_batch_is_padded_up_to_the_next_row_bucket() -> None:
    scheduler = Scheduler(max_batch_size=32, row_buckets=(1, 4, 16))
    for rows, bucket in [(1, 1), (3, 4), (4, 4), (5, 16), (17, 17)]:
        scheduler.add(Work(rows=rows), 0.0)
        batch = scheduler.next_batch(0.0)
        assert batch is not None
        assert (batch.rows, batch.bucket) == (rows, bucket)
        scheduler.done(batch, 0.0)


@settings(deadline=None)
@given(st.integers(1, 20_000))
def test_a_length_bucket_is_the_smallest_bound_that_holds_the_length(length: int) -> None:
    bucket = length_bucket(length)
    assert bucket >= length
    assert not any(length <= bound < bucket for bound in LENGTH_BUCKETS)


@pytest.mark.parametrize("wrong", ["max_batch_size", "instances", "max_queue_rows"])
def test_sizes_below_one_are_refused(wrong: str) -> None:
    sizes = {"max_batch_size": 1, "instances": 1, "max_queue_rows": 1, wrong: 0}
    with pytest.raises(ValueError, match="at least 1"):
        Scheduler(**sizes)  # type: ignore[arg-type]


class Followed(Work):
    """Work that can be referred to weakly."""


def test_works_whose_callers_left_do_not_pile_up_behind_a_long_batch() -> None:
    scheduler = scheduler_with([Work()], max_queue_rows=100)
    running = scheduler.next_batch(0.0)
    waits = [Work(key=number % 3) for number in range(10)]
    for work in waits:
        scheduler.add(work, 1.0)
    gone = []
    for _ in range(5000):
        work = Followed(key="a", length=7)
        scheduler.add(work, 2.0)
        assert scheduler.cancel(work)
        gone.append(weakref.ref(work))
        del work
    assert sum(one() is not None for one in gone) <= 100
    assert running is not None
    scheduler.done(running, 3.0)
    assert sorted(map(len, drain(scheduler, 3.0))) == [3, 3, 4] and scheduler.idle
