"""The scheduler: which waiting work forms the next batch. A pure state machine without clock, threads or I/O.

`serve` drives it from the event loop, `batch` from a thread, the tests from a list of made-up times. One scheduler
belongs to one model. It never lets an idle instance wait (unless `max_queue_delay_us` asks for it): what arrives while
a batch runs forms the next one. It weighs work by rows, keeps unlike work apart by `key` and by length bucket, serves
the oldest first, and drops work whose deadline passed or whose caller left before it is computed.

Of three priorities each counts as having come a second before the next lower one. So what is urgent goes first, and
nothing starves: what comes more than two seconds after a piece of work is never ahead of it. Where the queue is full,
an eighth of it more is there for each priority that has not that much in it.

Deadlines bound the queue, too: else, with more to do than can be done, all would be computed just too late. Work that
would be late is turned away at once, batches take at most half of the time that their work was given, and work that has
waited too long to run in a batch of use is given up for those behind it.

    queued ──next_batch──▶ running ──done──▶ finished
      ├──cancel──▶ cancelled
      └──deadline──▶ expired            (work that `add` refuses is rejected and was never queued)
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Hashable
from typing import TypeAlias

from onward.errors import Overloaded, TooLarge
from onward.execute.pace import Pace
from onward.execute.promises import Promises
from onward.execute.work import (
    BEHIND_S,
    HIGH,
    LOW,
    NEW,
    NORMAL,
    PRIORITIES,
    RETURNING,
    UNKNOWN,
    Batch,
    State,
    Work,
)

__all__ = [
    "BEHIND_S", "HIGH", "LENGTH_BUCKETS", "LOW", "NEW", "NORMAL", "PRIORITIES", "RETURNING", "UNKNOWN", "Batch",
    "Scheduler", "State", "Work", "length_bucket",
]  # fmt: skip

# Lengths (tokens) up to a bound share a batch: padding stays below a third, and there are few distinct shapes.
LENGTH_BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192)
_NEVER_S = float("inf")
# To look a member up in its enum takes as long as all else that `add` does with a request.
_QUEUED, _RUNNING, _FINISHED = State.QUEUED, State.RUNNING, State.FINISHED
# Share of the newest batch in the moving average of seconds a row.
_SMOOTHING = 0.2
_PURGE_FROM = 64
_RESERVE = 8
# What a row is taken to need before any has been computed; a full queue then is taken to drain within a second.
_GUESS_S = 0.005
# While time is kept for those who were told to come back, new work has to have so many times what it needs.
_CAUTION = 1.5
# Of what a batch is expected to take, for what it may take.
_MARGIN = 1.2

_Line: TypeAlias = "tuple[deque[Work], deque[Work], deque[Work]]"
"""Work that may share a batch, by priority."""


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
        # What new work may fill of the queue: all of it, or what is not kept for others who were told to come back.
        self._open_rows = max_queue_rows
        self._promises = Promises()
        self._reserve = -(-max_queue_rows // _RESERVE)
        # Enough stays open for a batch: who was told to come back may not.
        self._most_kept = max_queue_rows - max(self._reserve, min(max_batch_size, max_queue_rows // 2))
        self.running = 0
        self._lines: dict[Hashable, _Line] = {}
        # Waiting rows by priority; those of NORMAL are the rest, so that ordinary work is not counted twice.
        self._rows_of = [0, 0, 0]
        self._odd_rows = 0
        self._expired: list[Work] = []
        self._cancelled = 0
        self._seconds_per_row = 0.0
        # What batches took is learnt from only when a deadline is so near that it matters: within the longest queue.
        self._pace = Pace()
        self._took: deque[tuple[int, float]] = deque(maxlen=64)
        self._tight_s = 0.0
        self._tight_rows = 2 * _MARGIN * _CAUTION * (max_queue_rows / instances + 2 * max_batch_size)
        self._begun_s, self._begun_rows = -_NEVER_S, 0

    def add(self, work: Work, now_s: float) -> None:
        """Queue the work. Raises `Overloaded` (with the time after which it is worth trying again) when it is full.

        It is full for work, too, that would have its answer after its deadline. Work larger than the whole queue raises
        `TooLarge`: it could never be admitted. Work without rows has nothing to wait for and is a `ValueError`.
        """
        waiting = self.queued_rows + work.rows
        if work.standing > 0:
            self._come_back(work)
        if not self.queued_rows < waiting <= self._open_rows or work.deadline_s < now_s + self._tight_s:
            self._check_room(work, now_s)
        self.queued_rows = waiting
        priority = work.priority
        if priority != NORMAL:
            self._rows_of[priority] += work.rows
            self._odd_rows += work.rows
        work.arrived_s = now_s
        key: Hashable = work.key
        if work.length:
            key = (key, length_bucket(work.length))
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = (deque(), deque(), deque())
        line[priority].append(work)

    def cancel(self, work: Work) -> bool:
        """The caller left. True if the work will not be computed, False if it runs already or has ended."""
        if work.state is not State.QUEUED:
            return False
        work.state = State.CANCELLED
        self._leave(work)
        self._cancelled += 1
        if self._cancelled > max(self.queued_rows, _PURGE_FROM):
            self._purge()
        return True

    def next_batch(self, now_s: float) -> Batch | None:
        """The next batch to run, or None when there is nothing to do now (see `wake_s`)."""
        if self.running >= self.instances or not self.queued_rows:
            return None
        works, rows = self._take_only(now_s)
        while not works:  # else all that was taken was given up for others
            line = self._first_line(now_s)
            if line is not None and self.max_queue_delay_s and now_s < self._oldest_s() + self.max_queue_delay_s:
                line = self._full_line(now_s)
            if line is None:
                return self._take_back(now_s)
            works, rows = self._take(line, now_s)
        self.queued_rows -= rows
        return self._begun(works, rows, now_s)

    def done(self, batch: Batch, now_s: float) -> None:
        """The batch has been computed (or has failed): its instance is free again."""
        self.running -= 1
        for work in batch.works:
            work.state = _FINISHED
        took_s = now_s - batch.started_s
        seconds_per_row = took_s / batch.rows
        if self._seconds_per_row:
            seconds_per_row = _SMOOTHING * seconds_per_row + (1 - _SMOOTHING) * self._seconds_per_row
        self._seconds_per_row = seconds_per_row
        self._took.append((batch.rows, took_s))
        self._tight_s = seconds_per_row * self._tight_rows

    def alone(self, work: Work, now_s: float) -> Batch:
        """A batch of one for work of a failed batch (after `done`): what failed may have been its neighbour."""
        self.running += 1
        work.state = State.RUNNING
        return Batch([work], work.rows, self._bucket(work.rows), now_s)

    def expire(self, now_s: float) -> list[Work]:
        """Take the work whose deadline has passed out of the queue, with what `next_batch` found so before."""
        for line in self._lines.values():
            for queue in line:
                if any(work.deadline_s <= now_s for work in queue):
                    live = [work for work in queue if not self._is_over(work, now_s)]
                    queue.clear()
                    queue.extend(live)
        expired, self._expired = self._expired, []
        return expired

    def wake_s(self) -> float | None:
        """When `next_batch` is worth another call although nothing arrives and nothing ends; None: it is not."""
        if not self.max_queue_delay_s or not self.queued_rows or self.running >= self.instances:
            return None
        return self._oldest_s() + self.max_queue_delay_s

    @property
    def found_expired(self) -> bool:
        """Whether `expire` has something to hand over without looking."""
        return bool(self._expired)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self.queued_rows and not self.running

    def limit(self, priority: int, standing: int, now_s: float) -> int:
        """How many rows may wait, those of a request of this priority and standing included."""
        self._promises.lapse(now_s)
        self._open_rows = self._left_open()
        limit = self._open_rows if standing == NEW and self.queued_rows else self.max_queue_rows
        return limit if priority == NORMAL else limit + self._reserve

    def turn_away(
        self, rows: int, now_s: float, *, waiting: int = 0, within_s: float = _NEVER_S, has_room: bool = False
    ) -> Overloaded:
        """The error for rows that there is no room for, or no time, with the time at which there will be.

        `waiting` are those that wait, where the queue does not hold all of them; `within_s` is the time they have.
        Rows that would be late behind a batch of their own size, whenever they come, are promised nothing.
        """
        row_s = (self._seconds_per_row or min(_GUESS_S, 1.0 / self.max_queue_rows)) / self.instances
        waiting = max(waiting, self.queued_rows)
        free_in_s = max(waiting * row_s, 0.001)
        told = f"{waiting} rows are waiting"
        self._learn()
        if within_s < 2 * _MARGIN * self._pace.run_s(rows):
            return Overloaded(told, retry_after_s=free_in_s)
        after_s = self._promises.give(now_s, rows=rows, free_in_s=free_in_s, row_s=row_s, keeps_room=not has_room)
        self._open_rows = self._left_open()
        return Overloaded(told, retry_after_s=after_s, promised_rows=rows)

    def _left_open(self) -> int:
        """What of the queue is not kept for those who were told to come back."""
        return self.max_queue_rows - min(self._promises.kept_room, self._most_kept)

    def _come_back(self, work: Work) -> None:
        """The promise has been used, whatever it was used for; more rows than were promised are as good as new."""
        self._promises.redeem(work.standing)
        if work.rows > work.standing:
            work.standing = NEW

    def _check_room(self, work: Work, now_s: float) -> None:
        """Whether work that finds no open room, or has little time, is admitted all the same; else raises."""
        has_room = False
        if work.rows > 0:
            limit = self.limit(NORMAL, work.standing, now_s)
            own = self._rows_of[work.priority] if work.priority != NORMAL else self.queued_rows - self._odd_rows
            has_room = self.queued_rows + work.rows <= limit or own + work.rows <= self._reserve
            if has_room and self._is_in_time(work, now_s):
                return
        # Else a later `cancel` would take rows off the queue that were never on it.
        work.state = State.REJECTED
        if work.rows < 1:
            raise ValueError("work has at least one row")
        if work.rows > self.max_queue_rows:
            raise TooLarge(expected=f"at most {self.max_queue_rows} rows", found=f"{work.rows} rows")
        raise self.turn_away(work.rows, now_s, within_s=work.deadline_s - now_s, has_room=has_room)

    def _is_in_time(self, work: Work, now_s: float) -> bool:
        """Whether work that is queued now has its answer before its deadline, as far as one can tell."""
        if not self.queued_rows or work.priority == HIGH:
            return True
        self._learn()
        within_s = work.deadline_s - now_s
        size = self._pace.rows_within(within_s / 2 / _MARGIN, self.max_batch_size)
        ahead, beside = divmod(self.queued_rows, size)
        own = max(min(beside + work.rows, size), work.rows)
        expected_s = ahead * self._pace.run_s(size) / self.instances + self._pace.run_s(own)
        busy_s = self._begun_s + self._pace.run_s(self._begun_rows) / self.instances - now_s
        expected_s = max(busy_s, 0.0) + expected_s * _MARGIN
        if work.standing == NEW and self._promises.kept:
            expected_s *= _CAUTION
        return expected_s <= within_s

    def _learn(self) -> None:
        while self._took:
            self._pace.note(*self._took.popleft())

    def _leave(self, work: Work) -> None:
        """Its rows do not wait any more."""
        self.queued_rows -= work.rows
        if work.priority != NORMAL:
            self._rows_of[work.priority] -= work.rows
            self._odd_rows -= work.rows

    def _first_line(self, now_s: float) -> _Line | None:
        """The line whose first live work counts as having waited longest; lines found empty are dropped."""
        first: _Line | None = None
        first_s = _NEVER_S
        is_ordinary = not self._odd_rows  # as it mostly is: other priorities need not be looked at
        for key, line in list(self._lines.items()):
            due_s = _NEVER_S
            if is_ordinary and (line[HIGH] or line[LOW]):  # cancelled, all of it
                line[HIGH].clear()
                line[LOW].clear()
            for queue in line[NORMAL:LOW] if is_ordinary else line:
                while queue and self._is_over(queue[0], now_s):
                    queue.popleft()
                if queue and (at_s := queue[0].arrived_s + BEHIND_S[queue[0].priority]) < due_s:
                    due_s = at_s
            if due_s == _NEVER_S:
                if len(self._lines) > 1:
                    del self._lines[key]
            elif due_s < first_s:
                first, first_s = line, due_s
        return first

    def _oldest_s(self) -> float:
        """When the work at the heads that came first came, whatever its priority."""
        return min((queue[0].arrived_s for line in self._lines.values() for queue in line if queue), default=_NEVER_S)

    def _is_over(self, work: Work, now_s: float) -> bool:
        """Whether queued work needs no computing any more; marks and collects what has just expired."""
        if work.state is State.CANCELLED:
            return True
        if work.deadline_s <= now_s:
            self._give_up(work)
            return True
        return False

    def _give_up(self, work: Work) -> None:
        """It will have no answer in time."""
        work.state = State.EXPIRED
        self._leave(work)
        self._expired.append(work)

    def _purge(self) -> None:
        """Let go of cancelled work: behind a long batch, clients that come and leave must not fill the memory."""
        self._cancelled = 0
        for key, line in list(self._lines.items()):
            for queue in line:
                live = [work for work in queue if work.state is not State.CANCELLED]
                queue.clear()
                queue.extend(live)
            if not any(line):
                del self._lines[key]

    def _full_line(self, now_s: float) -> _Line | None:
        """Of the lines whose live work fills a batch, so that waiting gains nothing, the one that comes first."""
        first: _Line | None = None
        first_s = _NEVER_S
        for line in self._lines.values():
            heads = (queue[0].arrived_s + BEHIND_S[queue[0].priority] for queue in line if queue)
            due_s = min(heads, default=_NEVER_S)
            if due_s < first_s:
                waiting = (work for queue in line for work in queue)
                live = (work.rows for work in waiting if work.state is State.QUEUED and work.deadline_s > now_s)
                if sum(live) >= self.max_batch_size:
                    first, first_s = line, due_s
        return first

    def _take_only(self, now_s: float) -> tuple[list[Work], int]:
        """As `_first_line` and `_take`, where all that waits is alike; nothing where it is not, or all is over."""
        if len(self._lines) == 1 and not (self._odd_rows or self.max_queue_delay_s):
            (line,) = self._lines.values()
            if not line[HIGH] and not line[LOW]:
                return self._take(line, now_s)
        return [], 0

    def _take(self, line: _Line, now_s: float) -> tuple[list[Work], int]:
        """Live work in its order, up to `max_batch_size` rows; larger work runs alone."""
        works: list[Work] = []
        rows = 0
        most_s, latest_s, most_rows = _NEVER_S, now_s + self._tight_s, self.max_batch_size
        if not self._odd_rows:
            only = line[NORMAL]
            while only:
                work = only[0]
                if work.deadline_s <= latest_s or work.state is not _QUEUED:
                    break  # to be looked at more closely, with all that follows
                more_rows = rows + work.rows
                if more_rows > most_rows and works:
                    return works, rows
                only.popleft()
                work.state = _RUNNING
                works.append(work)
                rows = more_rows
            else:
                return works, rows
        while True:
            queue, until_s = _ahead(line) if self._odd_rows else (line[NORMAL], _NEVER_S)
            if not queue:
                return works, rows
            priority = queue[0].priority
            behind_s = BEHIND_S[priority]
            while queue:
                work = queue[0]
                if work.state is State.CANCELLED or (work.deadline_s <= now_s and self._is_over(work, now_s)):
                    queue.popleft()
                    continue
                if work.arrived_s + behind_s > until_s:
                    break  # work of another priority comes before
                if works and rows + work.rows > most_rows:
                    return works, rows
                if work.deadline_s < latest_s:
                    self._learn()
                    if not works and self._holds_up(work, now_s):
                        queue.popleft()
                        self._give_up(work)
                        if len(self._lines) > 1:
                            return [], 0  # another line may come first now
                        continue
                    # Half of its time for the batch that runs when it comes, half for its own.
                    most_s = min(most_s, (work.deadline_s - work.arrived_s) / 2, work.deadline_s - now_s)
                if works and most_s < _NEVER_S and self._pace.run_s(rows + work.rows) * _MARGIN > most_s:
                    return works, rows
                queue.popleft()
                work.state = _RUNNING
                if priority != NORMAL:
                    self._rows_of[priority] -= work.rows
                    self._odd_rows -= work.rows
                works.append(work)
                rows += work.rows

    def _take_back(self, now_s: float) -> Batch | None:
        """The work given up last, if those that it was given up for are over, too: late is better than idle."""
        for index in range(len(self._expired) - 1, -1, -1):
            if self._expired[index].deadline_s > now_s:
                work = self._expired.pop(index)
                work.state = State.RUNNING
                return self._begun([work], work.rows, now_s)
        return None

    def _begun(self, works: list[Work], rows: int, now_s: float) -> Batch:
        self.running += 1
        self._begun_s, self._begun_rows = now_s, rows
        return Batch(works, rows, self._bucket(rows) if self.row_buckets else rows, now_s)

    def _holds_up(self, work: Work, now_s: float) -> bool:
        """Whether the work has so little time left that its batch would be too short for the others that wait.

        It has waited for longer than it was expected to. To run it in time, in a batch of its own, would make the next
        ones wait as long, and so on.
        """
        others = self.queued_rows - work.rows
        if not others:
            return False
        left_s = work.deadline_s - now_s
        if self._pace.run_s(work.rows) * _MARGIN > left_s:
            return True  # it would be late even alone
        wanted = self._pace.rows_within((work.deadline_s - work.arrived_s) / 2 / _MARGIN, self.max_batch_size)
        return self._pace.rows_within(left_s / _MARGIN, self.max_batch_size) < min(wanted, self.queued_rows) / 2

    def _bucket(self, rows: int) -> int:
        if not self.row_buckets or rows > self.row_buckets[-1]:
            return rows
        return self.row_buckets[bisect_left(self.row_buckets, rows)]


def _ahead(line: _Line) -> tuple[deque[Work] | None, float]:
    """Of a line's priorities the one whose head comes first, and up to when it stays ahead of the others' heads."""
    ahead: deque[Work] | None = None
    first_s = until_s = _NEVER_S
    for queue, behind_s in zip(line, BEHIND_S, strict=True):
        if queue:
            due_s = queue[0].arrived_s + behind_s
            if due_s < first_s:
                ahead, first_s, until_s = queue, due_s, first_s
            elif due_s < until_s:
                until_s = due_s
    return ahead, until_s


def length_bucket(length: int) -> int:
    """The upper bound of the length bucket that `length` falls into; beyond the last bound, the length itself."""
    index = bisect_left(LENGTH_BUCKETS, length)
    return LENGTH_BUCKETS[index] if index < len(LENGTH_BUCKETS) else length
