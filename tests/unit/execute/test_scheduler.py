"""Properties of the scheduler, on made-up times."""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import weakref
from collections.abc import Hashable
from dataclasses import dataclass

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
from onward.execute.scheduler import (
    BEHIND_S,
    HIGH,
    LENGTH_BUCKETS,
    LOW,
    NEW,
    NORMAL,
    RETURNING,
    UNKNOWN,
    Batch,
    Scheduler,
    State,
    Work,
    length_bucket,
)

ENDED = {State.FINISHED, State.CANCELLED, State.EXPIRED}
TTLS_S = st.sampled_from([0.0, 1.0, 3.0, 1e9, 1e9, 1e9])
KEYS = st.sampled_from([None, None, "a"])
FAR_S = 1e8
ROWS = st.sampled_from([1, 1, 1, 2, 3, 10])
LENGTHS = st.sampled_from([0, 0, 0, 8, 9, 16, 9000])
PRIORITY = st.sampled_from([HIGH, NORMAL, NORMAL, NORMAL, LOW])
KINDS = st.sampled_from([(None, 0), (None, 0), (None, 0), (None, 8), (None, 9), ("a", 0), ("a", 16), (None, 7)])


def queue_of(work: Work) -> Hashable:
    """What two works must have in common to share a batch."""
    return (work.key, length_bucket(work.length) if work.length else None)


def rank(work: Work) -> float:
    """When it counts as having come."""
    return work.arrived_s + BEHIND_S[work.priority]


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

    @rule(requests=st.lists(st.tuples(ROWS, KINDS, TTLS_S, PRIORITY), min_size=1, max_size=6))
    def add(self, requests: list[tuple[int, tuple[str | None, int], float, int]]) -> None:
        for rows, (key, length), ttl_s, priority in requests:
            self._add(Work(rows=rows, key=key, length=length, deadline_s=self.now_s + ttl_s, priority=priority))

    @rule(rows=ROWS)
    def come_back(self, rows: int) -> None:
        work = Work(rows=rows)
        work.standing = rows if self.rejected else UNKNOWN
        self._add(work)

    def _add(self, work: Work) -> None:
        scheduler = self.scheduler
        queued = [one for one in self.added if one.state is State.QUEUED]
        own = sum(one.rows for one in queued if one.priority == work.priority)
        limit = scheduler.max_queue_rows
        has_eighth = own + work.rows <= math.ceil(limit / 8)
        fits = scheduler.queued_rows + work.rows <= limit or has_eighth
        # While others have been told to come back, most is kept for them, though not of an empty queue.
        open_rows = math.ceil(limit / 8) if self.rejected and work.standing == NEW and queued else limit
        must_fit = scheduler.queued_rows + work.rows <= open_rows or has_eighth
        try:
            scheduler.add(work, self.now_s)
        except TooLarge:
            assert work.rows > scheduler.max_queue_rows
            self.rejected.append(work)
        except Overloaded as error:
            has_little_time = queued and work.deadline_s < FAR_S
            assert not must_fit or has_little_time
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
        shelved = [one for one in self.added if one.state is State.EXPIRED and id(one) not in self.reported]
        batch = scheduler.next_batch(self.now_s)
        given_up = [work for work in waiting if work.state is State.EXPIRED]
        assert all(work.deadline_s < FAR_S for work in given_up), "it gives up what has time"
        assert batch is not None or not given_up, "it gives up work and has nothing better to do"
        still = [work for work in waiting if work.state is State.QUEUED]
        if batch is None:
            self._check_that_it_may_wait(still, free)
            return
        assert free
        self.running.append(batch)
        if len(batch.works) == 1 and (given_up or batch.works[0] in shelved) and batch.works[0].deadline_s < FAR_S:
            assert batch.works[0].deadline_s > self.now_s, "it takes back what is over"
            return
        self._check_batch(batch, [work for work in waiting if work.state is not State.EXPIRED], bool(given_up))

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

    def _check_batch(self, batch: Batch, waiting: list[Work], gave_up: bool) -> None:
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
        mates = sorted((work for work in waiting if queue_of(work) == queue_of(batch.works[0])), key=rank)
        assert list(map(rank, mates[: len(batch.works)])) == list(map(rank, batch.works)), "not in order"
        for priority in (HIGH, NORMAL, LOW):
            same = [
                work for work in waiting if work.priority == priority and queue_of(work) == queue_of(batch.works[0])
            ]
            taken = [work for work in batch.works if work.priority == priority]
            assert same[: len(taken)] == taken, "not first in, first out"
        if len(mates) > len(batch.works):
            following = [
                work for work in mates if work not in batch.works and rank(work) == rank(mates[len(batch.works)])
            ]
            is_tight = any(work.deadline_s < FAR_S for work in [*batch.works, *following])
            assert is_tight or any(batch.rows + work.rows > scheduler.max_batch_size for work in following), (
                "unused room"
            )
        oldest_s = min(work.arrived_s for work in waiting)
        due = self.now_s >= oldest_s + scheduler.max_queue_delay_s
        if due:
            assert rank(batch.works[0]) == min(map(rank, waiting)), "work that comes before waits"
        else:
            is_full = sum(work.rows for work in mates) >= scheduler.max_batch_size
            assert is_full or gave_up, "it did not wait for the delay"

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
            assert work.deadline_s < FAR_S
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
        limit = self.scheduler.max_queue_rows
        assert self.scheduler.queued_rows == queued <= limit + 2 * math.ceil(limit / 8)
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


ARRIVALS = st.lists(st.tuples(st.floats(0, 6), st.sampled_from([HIGH, NORMAL, LOW]), KEYS), max_size=60)


@settings(deadline=None)
@given(ARRIVALS, st.integers(1, 4), st.sampled_from([0.1, 0.5, 2.0]))
def test_nothing_waits_for_what_came_more_than_its_patience_later(
    arrivals: list[tuple[float, int, str | None]], max_batch_size: int, took_s: float
) -> None:
    scheduler = Scheduler(max_batch_size=max_batch_size)
    coming = sorted(arrivals, key=lambda one: one[0])
    now_s, waiting, started = 0.0, [], {}
    while coming or scheduler.queued_rows:
        while coming and coming[0][0] <= now_s:
            at_s, priority, key = coming.pop(0)
            work = Work(key=key, priority=priority)
            scheduler.add(work, at_s)
            waiting.append(work)
        batch = scheduler.next_batch(now_s)
        if batch is None:
            now_s = coming[0][0]
            continue
        started |= {id(work): now_s for work in batch.works}
        now_s += took_s
        scheduler.done(batch, now_s)
    for work in waiting:
        for other in waiting:
            ahead_s = BEHIND_S[work.priority] - BEHIND_S[other.priority]
            if other.arrived_s > work.arrived_s + max(ahead_s, 0.0) and other.key == work.key:
                assert started[id(other)] >= started[id(work)]


def test_a_stream_of_urgent_work_holds_ordinary_work_up_for_a_second_and_low_for_two() -> None:
    scheduler = Scheduler(max_batch_size=1)
    ordinary, low = Work(), Work(priority=LOW)
    scheduler.add(ordinary, 0.0)
    scheduler.add(low, 0.0)
    began: dict[int, float] = {}
    for step in range(40):
        now_s = step / 10
        scheduler.add(Work(priority=HIGH), now_s)
        batch = scheduler.next_batch(now_s)
        assert batch is not None
        began.setdefault(id(batch.works[0]), now_s)
        scheduler.done(batch, now_s + 0.1)
    assert 1.0 <= began[id(ordinary)] <= 1.2
    assert 2.0 <= began[id(low)] <= 2.4


def test_priorities_share_batches_and_what_is_urgent_is_in_the_first() -> None:
    works = [Work(priority=priority) for priority in (LOW, NORMAL, NORMAL, HIGH, LOW, NORMAL)]
    scheduler = Scheduler(max_batch_size=4)
    for number, work in enumerate(works):
        scheduler.add(work, number / 100)
    assert drain(scheduler, 0.1) == [[works[3], works[1], works[2], works[5]], [works[0], works[4]]]


@pytest.mark.parametrize("priority", [HIGH, LOW])
def test_a_full_queue_has_an_eighth_more_for_each_priority_that_is_not_in_it(priority: int) -> None:
    scheduler = scheduler_with([Work() for _ in range(16)], max_queue_rows=16)
    with pytest.raises(Overloaded):
        scheduler.add(Work(), 20.0)
    for _ in range(2):
        scheduler.add(Work(priority=priority), 20.0)
    with pytest.raises(Overloaded):
        scheduler.add(Work(priority=priority), 20.0)
    assert scheduler.queued_rows == 18


def test_urgent_work_that_fills_the_queue_leaves_ordinary_work_its_eighth() -> None:
    scheduler = scheduler_with([Work(priority=HIGH) for _ in range(16)], max_queue_rows=16)
    scheduler.add(Work(rows=2), 20.0)
    with pytest.raises(Overloaded):
        scheduler.add(Work(), 20.0)


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


def test_each_who_is_turned_away_has_a_time_of_its_own_at_the_rate_of_the_queue() -> None:
    scheduler = scheduler_with([Work(rows=4)], max_queue_rows=8)
    batch = scheduler.next_batch(10.0)
    assert batch is not None
    scheduler.done(batch, 12.0)  # half a second a row
    scheduler.add(Work(rows=8), 12.0)
    told = []
    for rows in (1, 1, 2):
        with pytest.raises(Overloaded) as raised:
            scheduler.add(Work(rows=rows), 12.0)
        told.append(raised.value.retry_after_s)
    assert told == pytest.approx([4.0, 4.55, 5.65])


def test_room_is_kept_for_those_who_come_back_and_for_nobody_for_ever() -> None:
    works = [Work() for _ in range(8)]
    scheduler = scheduler_with(works, max_queue_rows=8)
    for _ in range(20):
        with pytest.raises(Overloaded):
            scheduler.add(Work(), 10.0)
    for work in works[:4]:
        scheduler.cancel(work)
    with pytest.raises(Overloaded):
        scheduler.add(Work(), 10.1)  # half of the queue is free, and kept
    returned = Work()
    returned.standing = RETURNING
    scheduler.add(returned, 10.1)
    for _ in range(3):
        scheduler.add(Work(), 60.0)  # nobody else came
    assert scheduler.queued_rows == 8


def test_who_was_turned_away_with_a_row_comes_back_with_a_row_and_for_its_own_place() -> None:
    works = [Work() for _ in range(16)]
    scheduler = scheduler_with(works, max_queue_rows=16)
    for rows in (1, 4, 4, 4):
        with pytest.raises(Overloaded) as refused:
            scheduler.add(Work(rows=rows), 10.0)
        assert refused.value.promised_rows == rows
    for work in works[:10]:
        scheduler.cancel(work)
    promises = scheduler._promises
    assert promises.rows == 13
    greedy = Work(rows=4)
    greedy.standing = 1
    with pytest.raises(Overloaded):
        scheduler.add(greedy, 10.1)
    assert promises.rows == 13 - 1 + 4, "its own place is given up, none of others', and it has another one"
    obedient = Work(rows=3)
    obedient.standing = 4
    scheduler.add(obedient, 10.1)
    assert promises.rows == 16 - 4


@pytest.mark.parametrize(("within_s", "promised"), [(0.001, 0), (2.3, 0), (2.5, 1)])
def test_work_without_time_keeps_no_room_from_work_with_time(within_s: float, promised: int) -> None:
    scheduler = scheduler_with([Work()], max_batch_size=1, max_queue_rows=16)
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    scheduler.done(batch, 1.0)  # a second a row
    for _ in range(4):
        scheduler.add(Work(), 1.0)
    for _ in range(200):
        with pytest.raises(Overloaded) as refused:
            scheduler.add(Work(deadline_s=1.0 + within_s), 1.0)
        assert refused.value.promised_rows == promised
        assert promised or refused.value.retry_after_s == pytest.approx(4.0)
    for _ in range(12):
        scheduler.add(Work(), 1.0)
    with pytest.raises(Overloaded) as refused:
        scheduler.add(Work(deadline_s=1.001), 1.0)  # now there is no room, either
    assert refused.value.promised_rows == 0


@pytest.mark.parametrize("think_s", [0.0, 0.03])
@pytest.mark.parametrize("batch_rows", [1, 8])
@pytest.mark.parametrize(("clients", "queue_rows"), [(60, 16), (240, 16), (90, 32), (300, 64)])
def test_whoever_comes_back_when_told_is_admitted_and_the_model_is_never_idle(
    clients: int, queue_rows: int, batch_rows: int, think_s: float
) -> None:
    """Many more clients than the queue has room for, each asking again at once when it has its answer."""
    chance = random.Random(7)
    scheduler = Scheduler(max_batch_size=batch_rows, max_queue_rows=queue_rows)
    coming = [(chance.random() / 100, number, False) for number in range(clients)]
    free_s, batch, back, admitted, busy_s = 0.0, None, 0, 0, 0.0
    heapq.heapify(coming)
    while coming[0][0] < 20.0 if coming else batch:
        now_s = min(coming[0][0] if coming else math.inf, free_s if batch else math.inf)
        if batch and free_s <= now_s:
            scheduler.done(batch, now_s)
            for work in batch.works:
                heapq.heappush(coming, (now_s + think_s * chance.random(), id(work), False))
            batch = None
        else:
            _, number, told = heapq.heappop(coming)
            work = Work()
            work.standing = RETURNING if told else NEW
            back += told
            try:
                scheduler.add(work, now_s)
                admitted += told
            except Overloaded as error:
                heapq.heappush(coming, (now_s + error.retry_after_s + chance.random() / 500, number, True))
        if batch is None and (batch := scheduler.next_batch(now_s)):
            free_s = now_s + 0.005 * batch.rows
            busy_s += 0.005 * batch.rows
    assert back > 100
    assert admitted >= 0.95 * back  # the first come before any batch has shown the rate
    assert busy_s > 0.99 * 19.5


def test_whoever_comes_back_when_told_is_admitted_where_time_is_short_and_not_room() -> None:
    chance = random.Random(7)
    scheduler = Scheduler(max_batch_size=8, max_queue_rows=256)
    coming = [(chance.random() / 10, number, False) for number in range(150)]
    heapq.heapify(coming)
    free_s, batch, back, admitted, most_rows = 0.0, None, 0, 0, 0
    while coming[0][0] < 10.0:
        now_s = min(coming[0][0], free_s if batch else math.inf)
        over = scheduler.expire(now_s)
        if batch and free_s <= now_s:
            scheduler.done(batch, now_s)
            over, batch = over + batch.works, None
        elif coming[0][0] <= now_s:
            _, number, told = heapq.heappop(coming)
            work = Work(deadline_s=now_s + 0.2)
            work.standing = RETURNING if told else NEW
            back += told
            try:
                scheduler.add(work, now_s)
                admitted += told
            except Overloaded as error:
                told = error.promised_rows > 0
                heapq.heappush(coming, (now_s + error.retry_after_s + chance.random() / 500, number, told))
        for work in over:
            heapq.heappush(coming, (now_s + chance.random() / 1000, id(work), False))
        most_rows = max(most_rows, scheduler.queued_rows)
        if batch is None and (batch := scheduler.next_batch(now_s)):
            free_s = now_s + (0.002 + 0.005 * batch.rows) * chance.uniform(0.8, 1.3)
    assert most_rows < 128, "there is room all the time"
    assert back > 100
    assert admitted >= 0.95 * back


@dataclass
class Flow:
    good: int = 0
    late: int = 0
    offered: int = 0


def open_loop(rate: float, *, deadline_s: float, batch_rows: int, row_s: float, over_s: float, seconds: float) -> Flow:
    """Requests that come at random, whatever became of those before them, and are never sent again."""
    chance = random.Random(3)
    scheduler, flow = Scheduler(max_batch_size=batch_rows), Flow()
    now_s, free_s = 0.0, 0.0
    batch: Batch | None = None
    while (arrives_s := now_s + chance.expovariate(rate)) < seconds:
        while batch is not None and free_s <= arrives_s:
            scheduler.done(batch, free_s)
            flow.good += sum(work.deadline_s >= free_s for work in batch.works)
            flow.late += sum(work.deadline_s < free_s for work in batch.works)
            batch = scheduler.next_batch(free_s)
            free_s += (over_s + row_s * batch.rows) * chance.uniform(0.8, 1.3) if batch else 0.0
        now_s = arrives_s
        flow.offered += 1
        with contextlib.suppress(Overloaded):
            scheduler.add(Work(deadline_s=now_s + deadline_s), now_s)
        if batch is None and (batch := scheduler.next_batch(now_s)):
            free_s = now_s + (over_s + row_s * batch.rows) * chance.uniform(0.8, 1.3)
    return flow


@pytest.mark.parametrize(
    ("batch_rows", "row_s", "over_s"),
    [(1, 0.005, 0.001), (8, 0.005, 0.002), (64, 0.0005, 0.002), (32, 0.0002, 0.0001)],
    ids=["one by one", "slow rows", "slow batches", "quick"],
)
def test_three_times_more_than_can_be_done_leaves_the_useful_work_as_it_was(
    batch_rows: int, row_s: float, over_s: float
) -> None:
    deadline_s = max(0.02, 10 * (over_s + row_s))
    capacity = batch_rows / (over_s + row_s * batch_rows)
    peak, much = (
        open_loop(
            capacity * load,
            deadline_s=deadline_s,
            batch_rows=batch_rows,
            row_s=row_s,
            over_s=over_s,
            seconds=min(8.0, 20_000 / (3 * capacity)),
        )
        for load in (0.9, 3.0)
    )
    assert much.offered > 2.5 * peak.offered
    assert much.good >= 0.9 * peak.good
    assert much.late <= 0.01 * (much.good + much.late), "p99 of what was admitted is within the deadline"


def test_an_idle_scheduler_takes_work_of_any_deadline() -> None:
    scheduler = scheduler_with([Work()])
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    scheduler.done(batch, 30.0)
    for _ in range(2):
        hurried = Work(deadline_s=30.1)
        scheduler.add(hurried, 30.0)
        found = scheduler.next_batch(30.0)
        assert found is not None and found.works == [hurried]
        scheduler.done(found, 30.05)


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
