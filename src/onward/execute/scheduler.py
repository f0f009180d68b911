"""The scheduler: which waiting work forms the next batch. A pure state machine without clock, threads or I/O.

`serve` drives it from the event loop, `batch` from a thread, the tests from a list of made-up times. One scheduler
belongs to one model. It never lets an idle instance wait (unless `max_queue_delay_us` asks for it): what arrives while
a batch runs forms the next one. It weighs work by rows, keeps unlike work apart by `key` and by length bucket, serves
the oldest first, and drops work whose deadline passed or whose caller left before it is computed.

    queued ──next_batch──▶ running ──done──▶ finished
      ├──cancel──▶ cancelled
      └──deadline──▶ expired            (work that `add` refuses is rejected and was never queued)
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from onward.errors import Overloaded, TooLarge

# Lengths (tokens) up to a bound share a batch: padding stays below a third, and there are few distinct shapes.
LENGTH_BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
_NEVER_S = float("inf")
# Share of the newest batch in the moving average of seconds a row.
_SMOOTHING = 0.2
_PURGE_FROM = 64


class State(enum.Enum):
    """Where a piece of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class Work:
    """One request's rows on their way through the scheduler; the driver subclasses it to carry the request.

    `rows` is its cost, at least 1. Work with different `key` never shares a batch; `length` (0: fixed shape) is
    bucketed. `deadline_s` is on the same clock as every `now_s`.
    """

    __slots__ = ("arrived_s", "deadline_s", "key", "length", "rows", "state")

    def __init__(self, *, rows: int = 1, key: Hashable = None, length: int = 0, deadline_s: float = _NEVER_S) -> None:
        self.rows = rows
        self.key = key
        self.length = length
        self.deadline_s = deadline_s
        self.arrived_s = 0.0
        self.state = State.QUEUED


@dataclass(slots=True, eq=False)
class Batch:
    """Work that runs together. `bucket` is the number of rows to pad to (≥ `rows`)."""

    works: list[Work]
    rows: int
    bucket: int
    started_s: float


class Scheduler:
    """Queue and batches of one model. Not thread-safe: one driver calls it."""

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_delay_us: int = 0,
        max_queue_rows: int = 2048,
        instances: int = 1,
        row_buckets: tuple[int, ...] = (),
    ) -> None:
        if max_batch_size < 1 or instances < 1 or max_queue_rows < 1:
            raise ValueError("max_batch_size, instances and max_queue_rows must be at least 1")
        self.max_batch_size = max_batch_size
        self.max_queue_delay_s = max_queue_delay_us / 1e6
        self.max_queue_rows = max_queue_rows
        self.instances = instances
        self.row_buckets = row_buckets
        self.queued_rows = 0
        self.running = 0
        self._queues: dict[Hashable, deque[Work]] = {}
        self._expired: list[Work] = []
        self._cancelled = 0
        self._seconds_per_row = 0.0

    def add(self, work: Work, now_s: float) -> None:
        """Queue the work. Raises `Overloaded` (with the time after which it is worth trying again) when it is full.

        Work larger than the whole queue raises `TooLarge`: it could never be admitted. Work without rows has nothing to
        wait for and is a `ValueError`.
        """
        waiting = self.queued_rows + work.rows
        if not self.queued_rows < waiting <= self.max_queue_rows:
            # Else a later `cancel` would take rows off the queue that were never on it.
            work.state = State.REJECTED
            if work.rows < 1:
                raise ValueError("work has at least one row")
            if work.rows > self.max_queue_rows:
                raise TooLarge(expected=f"at most {self.max_queue_rows} rows", found=f"{work.rows} rows")
            raise Overloaded(f"{self.queued_rows} rows are waiting", retry_after_s=self.retry_after_s())
        self.queued_rows = waiting
        work.arrived_s = now_s
        key: Hashable = work.key
        if work.length:
            key = (key, length_bucket(work.length))
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
        queue.append(work)

    def cancel(self, work: Work) -> bool:
        """The caller left. True if the work will not be computed, False if it runs already or has ended."""
        if work.state is not State.QUEUED:
            return False
        work.state = State.CANCELLED
        self.queued_rows -= work.rows
        self._cancelled += 1
        if self._cancelled > max(self.queued_rows, _PURGE_FROM):
            self._purge()
        return True

    def next_batch(self, now_s: float) -> Batch | None:
        """The next batch to run, or None when there is nothing to do now (see `wake_s`)."""
        if self.running >= self.instances or not self.queued_rows:
            return None
        queue = self._oldest_queue(now_s)
        if queue is None:
            return None
        if self.max_queue_delay_s and now_s < queue[0].arrived_s + self.max_queue_delay_s:
            queue = self._full_queue(now_s)
            if queue is None:
                return None
        works, rows = self._take(queue, now_s)
        self.running += 1
        self.queued_rows -= rows
        return Batch(works, rows, self._bucket(rows), now_s)

    def done(self, batch: Batch, now_s: float) -> None:
        """The batch has been computed (or has failed): its instance is free again."""
        self.running -= 1
        for work in batch.works:
            work.state = State.FINISHED
        seconds_per_row = (now_s - batch.started_s) / batch.rows
        if self._seconds_per_row:
            seconds_per_row = _SMOOTHING * seconds_per_row + (1 - _SMOOTHING) * self._seconds_per_row
        self._seconds_per_row = seconds_per_row

    def alone(self, work: Work, now_s: float) -> Batch:
        """A batch of one for work of a failed batch (after `done`): what failed may have been its neighbour."""
        self.running += 1
        work.state = State.RUNNING
        return Batch([work], work.rows, self._bucket(work.rows), now_s)

    def expire(self, now_s: float) -> list[Work]:
        """Take the work whose deadline has passed out of the queue, with what `next_batch` found so before."""
        for key, queue in list(self._queues.items()):
            if any(work.deadline_s <= now_s for work in queue):
                self._queues[key] = deque(work for work in queue if not self._is_over(work, now_s))
        expired, self._expired = self._expired, []
        return expired

    def wake_s(self) -> float | None:
        """When `next_batch` is worth another call although nothing arrives and nothing ends; None: it is not."""
        if not self.max_queue_delay_s or not self.queued_rows or self.running >= self.instances:
            return None
        heads = [queue[0].arrived_s for queue in self._queues.values() if queue]
        return min(heads) + self.max_queue_delay_s if heads else None

    def retry_after_s(self) -> float:
        """How long the rows that wait now will take to drain, at the rate seen lately."""
        return max(self.queued_rows * self._seconds_per_row / self.instances, 0.001)

    @property
    def found_expired(self) -> bool:
        """Whether `expire` has something to hand over without looking."""
        return bool(self._expired)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.queued_rows and not self.running

    def _oldest_queue(self, now_s: float) -> deque[Work] | None:
        """The queue whose first live work has waited longest; queues found empty are dropped."""
        oldest: deque[Work] | None = None
        for key, queue in list(self._queues.items()):
            while queue and self._is_over(queue[0], now_s):
                queue.popleft()
            if not queue:
                if len(self._queues) > 1:
                    del self._queues[key]
            elif oldest is None or queue[0].arrived_s < oldest[0].arrived_s:
                oldest = queue
        return oldest

    def _is_over(self, work: Work, now_s: float) -> bool:
        """Whether queued work needs no computing any more; marks and collects what has just expired."""
        if work.state is State.CANCELLED:
            return True
        if work.deadline_s <= now_s:
            work.state = State.EXPIRED
            self.queued_rows -= work.rows
            self._expired.append(work)
            return True
        return False

    def _purge(self) -> None:
        """Let go of cancelled work: behind a long batch, clients that come and leave must not fill the memory."""
        self._cancelled = 0
        for key, queue in list(self._queues.items()):
            live = deque(work for work in queue if work.state is not State.CANCELLED)
            if live:
                self._queues[key] = live
            else:
                del self._queues[key]

    def _full_queue(self, now_s: float) -> deque[Work] | None:
        """Of the queues whose live work fills a batch, so that waiting gains nothing, the one with the oldest head."""
        oldest: deque[Work] | None = None
        for queue in self._queues.values():
            if queue and (oldest is None or queue[0].arrived_s < oldest[0].arrived_s):
                live = (work.rows for work in queue if work.state is State.QUEUED and work.deadline_s > now_s)
                if sum(live) >= self.max_batch_size:
                    oldest = queue
        return oldest

    def _take(self, queue: deque[Work], now_s: float) -> tuple[list[Work], int]:
        """Live work from the head, up to `max_batch_size` rows; larger work runs alone."""
        works: list[Work] = []
        rows = 0
        while queue:
            work = queue[0]
            if work.state is State.CANCELLED or (work.deadline_s <= now_s and self._is_over(work, now_s)):
                queue.popleft()
                continue
            if works and rows + work.rows > self.max_batch_size:
                break
            queue.popleft()
            work.state = State.RUNNING
            works.append(work)
            rows += work.rows
        return works, rows

    def _bucket(self, rows: int) -> int:
        if not self.row_buckets or rows > self.row_buckets[-1]:
            return rows
        return self.row_buckets[bisect_left(self.row_buckets, rows)]


def length_bucket(length: int) -> int:
    """The upper bound of the length bucket that `length` falls into; beyond the last bound, the length itself."""
    index = bisect_left(LENGTH_BUCKETS, length)
    return LENGTH_BUCKETS[index] if index < len(LENGTH_BUCKETS) else length
