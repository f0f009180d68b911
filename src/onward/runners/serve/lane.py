"""A model's lane through the server: scheduler, instances and the event loop between them.

What runs faster than a hand-over to a thread would take runs on the loop; the rest on one thread an instance, while
the loop reads the requests that form the next batch. Which of both is measured at warm-up. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from onward.errors import Cancelled, DeadlineExceeded, ExecutionError, OnwardError, TooLarge, Unavailable
from onward.execute.invariance import row_lengths
from onward.execute.onnx import cores
from onward.execute.scheduler import NEW, NORMAL, UNKNOWN, Batch, Scheduler, Work
from onward.pipeline import Pipeline
from onward.runners.serve.request import NO_FAILURES, Outputs, Request, Unprepared, Waiting
from onward.runners.serve.traces import TRACES, Source
from onward.telemetry import ModelMetrics
from onward.types import Array

_log = logging.getLogger("onward.serve")
_EXPIRY_TICK_S = 0.02
_MAX_PREPARING_BYTES = 256 << 20


class Lane:
    """Queue, batches and instances of one model version. All methods are called on the event loop."""

    def __init__(self, pipeline: Pipeline, metrics: ModelMetrics, *, inline: bool) -> None:
        manifest = pipeline.manifest
        self._pipeline = pipeline
        self._metrics = metrics
        self._pad = manifest.batching.pad
        # Else it is rows that are computed, and so many as the batch has.
        self._counts_positions = bool(self._pad) or pipeline.invariant is not None
        self._loop = asyncio.get_running_loop()
        self.inline = inline
        # Set before the first request, where it is to be traced who ran with whom.
        self.source: Source | None = None
        self.scheduler = Scheduler(
            max_batch_size=pipeline.batch_rows,
            max_queue_delay_us=manifest.batching.max_queue_delay_us,
            max_queue_rows=manifest.limits.queue_rows,
            instances=1 if inline else manifest.execute.instances,
        )
        # Instances take their next batch from the scheduler themselves. On the loop alone, nobody else is there.
        self._lock = threading.Lock()
        self._undelivered = 0
        self._work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        if not inline:
            for _ in range(manifest.execute.instances):
                self._start_thread()
        self._drive_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.preparing_rows = 0
        self._preparing_bytes = 0
        # Where the instances alone fill the cores, a preparation beside them would only take turns with them.
        self.prepares = not inline and manifest.execute.instances >= cores()

    def admit(self, rows: int, size: int, *, priority: int = NORMAL, standing: int = UNKNOWN) -> None:
        """Count rows, and the bytes they came in, into preparation; with negative numbers, out of it.

        What waits to be prepared will wait in the queue, and counts against its limit; what waits there already, yet
        unprepared, is counted without rows. Raises `Overloaded` (or `TooLarge`).
        """
        scheduler = self.scheduler
        if rows > scheduler.max_queue_rows:
            raise TooLarge(expected=f"at most {scheduler.max_queue_rows} rows", found=f"{rows} rows")
        if rows > 0 or size > 0:
            waiting = self.preparing_rows + scheduler.queued_rows
            full = self._preparing_bytes and self._preparing_bytes + size > _MAX_PREPARING_BYTES
            now = time.monotonic()
            known = standing if standing < 0 or standing >= rows else NEW  # who brings more than was promised is new
            with self._lock:
                if full or waiting + rows > scheduler.limit(priority, known, now):
                    raise scheduler.turn_away(max(rows, 1), now, waiting=waiting)
        self.preparing_rows += rows
        with self._lock:
            self._preparing_bytes += size

    def submit(self, request: Request, now_s: float) -> None:
        """Queue the request. Raises `Overloaded`, `TooLarge` or `Unavailable`; then nothing more is called."""
        if self._closing:
            raise Unavailable("this version is being unloaded")
        if self.prepares and isinstance(request.columns, Unprepared):
            self.admit(0, request.columns.size)
        request.queued_s = time.monotonic()
        if self.inline:
            self.scheduler.add(request, now_s)
        else:
            with self._lock:
                try:
                    self.scheduler.add(request, now_s)
                except OnwardError:
                    self._release([request])
                    raise
        if not self._drive_scheduled:
            self._drive_scheduled = True
            self._loop.call_soon(self._drive)

    def cancel(self, request: Request) -> None:
        """The caller left: what is not running yet is never computed."""
        with self._lock:
            cancelled = self.scheduler.cancel(request)
            if cancelled:
                self._release([request])
        if cancelled:
            self._metrics.drop("cancelled")
            request.forget()

    def _release(self, works: Iterable[Work]) -> None:
        """Work leaves the queue: the bytes it came in no longer count."""
        if self.prepares:
            for work in works:
                if isinstance(work, Request) and isinstance(work.columns, Unprepared):
                    self._preparing_bytes -= work.columns.size

    async def drain(self) -> None:
        """Take nothing more, finish what is queued, then free the instances."""
        self._closing = True
        while self._undelivered or not self.scheduler.idle:
            await asyncio.sleep(0.005)
        for _ in self._threads:
            self._work.put(None)
        if self._timer is not None:
            self._timer.cancel()

    def _start_thread(self) -> None:
        name = f"onward-{self._pipeline.manifest.package.name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run_instance, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _drive(self) -> None:
        """Start what can start now. One inline batch a turn, so that the loop reads the requests of the next one."""
        self._drive_scheduled = False  # a call that is still to come finds nothing to do
        scheduler = self.scheduler
        now = time.monotonic()
        if self.inline:
            batch = scheduler.next_batch(now)
            if batch is None:
                pass
            elif batch.rows <= scheduler.max_batch_size:
                self._finish(batch, *self._run(batch))
            else:
                # Warm-up measured full batches: a larger request could hold the loop for long.
                if not self._threads:
                    self._start_thread()
                self._work.put(batch)
        else:
            while (following := self._next(now)) is not None:
                self._work.put(following)
        self._metrics.queued_rows = scheduler.queued_rows
        if scheduler.queued_rows or scheduler.found_expired:
            self._schedule(now)

    def _next(self, now: float) -> Batch | None:
        """The batch that an instance can take now."""
        with self._lock:
            batch = self.scheduler.next_batch(now)
            if batch is not None:
                self._release(batch.works)
        return batch

    def _schedule(self, now: float) -> None:
        """Work waits: come back at once (inline), when the delay is over, or to look for passed deadlines."""
        self._reject_expired(now)
        if not self.scheduler.queued_rows:
            return
        wake_s = self.scheduler.wake_s()
        if self.inline and wake_s is None and not self.scheduler.running:
            if not self._drive_scheduled:
                self._drive_scheduled = True
                self._loop.call_soon(self._drive)
        elif self._timer is None:
            delay_s = _EXPIRY_TICK_S if wake_s is None else max(wake_s - now, 0.0)
            self._timer = self._loop.call_later(min(delay_s, _EXPIRY_TICK_S), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._drive()

    def _run(self, batch: Batch) -> tuple[Outputs | OnwardError, float]:
        """Compute one batch, on whatever thread this is."""
        works: list[Request] = batch.works  # type: ignore[assignment]
        fetches = works[0].fetches
        started = time.perf_counter()
        failed, prepare_s = NO_FAILURES, 0.0
        if self.prepares:
            failed = _prepare_all(works)
            prepare_s = time.perf_counter() - started
        try:
            outcome: Outputs | OnwardError
            if failed:
                works = [work for work in works if work not in failed]
            if works:
                feeds = self._pipeline.collate([work.columns for work in works], [work.rows for work in works],
                                               bucket=batch.bucket)  # fmt: skip
                arrays = self._pipeline.run(feeds, fetches)
                _check_rows(fetches, arrays, batch.bucket)
                outcome = Outputs(fetches, arrays, failed)
                if self._counts_positions:
                    outcome.elements, outcome.padding = self._elements(works, feeds, batch.bucket)
                else:
                    used = sum(work.rows for work in works) if failed else batch.rows
                    outcome.elements, outcome.padding = used, batch.bucket - used
            else:
                outcome = Outputs(fetches, [], failed)
            outcome.prepare_s = prepare_s
        except OnwardError as error:
            outcome = error
        except Exception as error:  # a bug of ours must not take the lane down with it
            _log.exception("batch of %d rows failed", batch.rows)
            outcome = ExecutionError(type(error).__name__)
        return outcome, time.perf_counter() - started

    def _elements(self, works: Sequence[Request], feeds: Mapping[str, Array], rows: int) -> tuple[int, int]:
        """Of a batch of so many rows the positions that are requests', and those that fill up."""
        used = sum(work.rows for work in works)
        computed = rows
        if self._pad:
            longest = feeds[next(iter(self._pad))].shape[1]
            computed = rows * longest
            if used == len(works):
                used = sum(work.length or longest for work in works)
            else:  # the rows of one request may differ in length
                used = int(row_lengths({name: feeds[name][:used] for name in self._pad}, self._pad).sum())
        if self._pipeline.invariant is not None:
            computed = self._pipeline.invariant.elements(feeds)
        return used, max(computed - used, 0)

    def _run_instance(self) -> None:
        """The life of an instance's thread. What waits is taken here: the loop may be long in coming to it."""
        batch = self._work.get()
        while batch is not None:
            outcome, run_s = self._run(batch)
            following = None
            if not self.inline:
                now = time.monotonic()
                with self._lock:
                    self.scheduler.done(batch, now)
                    self._undelivered += 1
                if self._work.empty():
                    following = self._next(now)
            try:
                self._loop.call_soon_threadsafe(self._complete, batch, outcome, run_s)
            except RuntimeError:  # the loop is closed: nobody is left to answer
                return
            batch = following or self._work.get()

    def _complete(self, batch: Batch, outcome: Outputs | OnwardError, run_s: float) -> None:
        """A thread has computed a batch: see that instances have work, and write the answers while they compute."""
        if self.inline:
            self.scheduler.done(batch, time.monotonic())
        self._drive()
        self._deliver(batch, outcome, run_s)
        if not self.inline:
            with self._lock:
                self._undelivered -= 1

    def _finish(self, batch: Batch, outcome: Outputs | OnwardError, run_s: float) -> None:
        self.scheduler.done(batch, time.monotonic())
        self._deliver(batch, outcome, run_s)

    def _deliver(self, batch: Batch, outcome: Outputs | OnwardError, run_s: float) -> None:
        """Hand each request its rows. A batch that failed for one request's sake is run again one by one."""
        works: Sequence[Request] = batch.works  # type: ignore[assignment]
        if isinstance(outcome, OnwardError):
            self._finish_failed(works, outcome)
            return
        metrics = self._metrics
        metrics.ran(batch.rows, run_s)
        metrics.queue_s.observe(batch.started_s - works[0].arrived_s)
        metrics.rows += batch.rows
        metrics.elements += outcome.elements
        metrics.padding += outcome.padding
        if not self.inline:  # on the loop nobody can leave meanwhile
            unwanted = sum(work.rows for work in works if not work.is_wanted())
            if unwanted:
                metrics.wasted_s += run_s * unwanted / batch.rows
        start = 0
        answered_s = []
        for work in works:
            if outcome.failed and (reason := outcome.failed.get(work)) is not None:
                work.reject(reason) if isinstance(reason, OnwardError) else work.crash(reason)
                answered_s.append(time.monotonic())
                continue
            try:
                work.resolve(outcome, start)
            except Exception as error:
                work.crash(error)
            start += work.rows
            answered_s.append(time.monotonic())
        if self.source is not None:
            TRACES.ran(self.source, batch, run_s, outcome, works, answered_s)

    def _finish_failed(self, works: Sequence[Request], error: OnwardError) -> None:
        if len(works) == 1:
            works[0].reject(error)
            return
        # One request's values may have failed the whole batch (a graph that checks its input): nobody else should
        # suffer for it, and a second failure is then each one's own.
        for work in works:
            now = time.monotonic()
            if not work.is_wanted():
                self._metrics.drop("cancelled")
                continue
            if work.deadline_s <= now:
                self._metrics.drop("expired")
                work.reject(DeadlineExceeded())
                continue
            with self._lock:
                alone = self.scheduler.alone(work, now)
            if self.inline:
                self._finish(alone, *self._run(alone))
            else:
                self._work.put(alone)

    def _reject_expired(self, now: float) -> None:
        with self._lock:
            expired = self.scheduler.expire(now)
            self._release(expired)
        for work in expired:
            self._metrics.drop("expired")
            if isinstance(work, Request):
                work.reject(DeadlineExceeded())


def _prepare_all(works: Sequence[Request]) -> Mapping[Request, Exception]:
    """Make the columns of those that came unprepared; what went wrong with whom."""
    failed: dict[Request, Exception] = {}
    for work in works:
        if isinstance(work.columns, Unprepared):
            try:
                work.columns = work.columns.prepare()
            except Exception as error:
                failed[work] = error
    return failed


def _check_rows(names: Sequence[str], arrays: Sequence[Array], rows: int) -> None:
    """Every output has the batch's rows: else one request would be given the rows of another."""
    for name, array in zip(names, arrays, strict=True):
        if array.shape[:1] != (rows,):
            raise ExecutionError(where=name, expected=f"{rows} rows as in the input", found=f"shape {array.shape}")


async def answer(lane: Lane, request: Waiting, arrived_s: float | None = None) -> dict[str, Array]:
    """Submit a request (that arrived then, or now) and wait for its rows; cancelling the task cancels the request."""
    request.future = asyncio.get_running_loop().create_future()
    lane.submit(request, time.monotonic() if arrived_s is None else arrived_s)
    try:
        return await request.future
    except asyncio.CancelledError:
        lane.cancel(request)
        raise Cancelled() from None
