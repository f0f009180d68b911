"""The relay: takes due actions out of the outbox, has them carried out, and writes down what became of them.

lease → begin (EXECUTING is committed before anything is sent) → execute → finish. A relay that dies in between leaves
a lease that runs out: what it had not begun is done by another, what it may have sent becomes UNKNOWN and is asked
about, never sent again on a guess. Any number of relays can work on one store.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from onward.act import crash
from onward.act.executor import Executor, Order, Outcome, Verdict, unknown
from onward.act.kill import stopped
from onward.act.lanes import Lane, Lanes
from onward.act.ledger import Ledger, audit_ledger
from onward.act.outbox import Keys
from onward.act.progress import Progress
from onward.act.reconciliation import Reconciliation
from onward.act.targets import Targets
from onward.store.records import Action, ActionState
from onward.store.store import Conflict, Store, Transaction
from onward.store.writer import Writer

_log = logging.getLogger(__name__)
_ResultT = TypeVar("_ResultT")
_MAX_THREADS = 64
_BUSY_WAIT_S = 1.0


class Commits(Protocol):
    """Group commit: `onward.store.writer.Writer`."""

    def submit(self, fn: Callable[[Transaction], _ResultT], /) -> Pending[_ResultT]:
        """Run `fn` in a transaction shared with others; the future resolves once it is durable."""
        ...


_ResultT_co = TypeVar("_ResultT_co", covariant=True)


class Pending(Protocol[_ResultT_co]):
    """A future."""

    def result(self) -> _ResultT_co:
        """Wait for the result."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """How a relay works. `lease_margin_s` is what a lease has over the target's timeout."""

    poll_s: float = 0.5
    lease_margin_s: float = 30.0
    housekeeping_s: float = 1.0
    dry_run: bool = False
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A leased action, its place in a lane if it has one already, and when leasing began on our own clock."""

    action: Action
    lane: Lane | None
    begun_s: float


class Relay:
    """Empties the outbox of a store into the targets.

    `executors`, by action, take the place of what the target's kind gives; message queues need one. With `writer`,
    its commits are shared with everybody else's; else `start` makes one of its own.
    """

    def __init__(
        self,
        store: Store,
        targets: Targets,
        *,
        keys: Keys | None = None,
        owner: str = "",
        writer: Commits | None = None,
        ledger: Ledger | None = None,
        executors: Mapping[str, Executor] | None = None,
        options: RelayOptions | None = None,
    ) -> None:
        self.owner = owner or f"{socket.gethostname()}:{os.getpid()}"
        self.options = options or RelayOptions()
        self.lanes = Lanes(targets, executors=executors)
        self._store = store
        self._writer = writer
        self._own_writer: Writer | None = None
        self._progress = Progress(
            targets=targets, keys=keys, ledger=ledger or audit_ledger(), chance=random.Random(self.options.seed)
        )
        self._reconciliation = Reconciliation(self._store, self.lanes, self._progress, self._commit)
        self._wakeup = threading.Event()
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []
        self._pool: ThreadPoolExecutor | None = None
        self._in_flight = 0
        self._counting = threading.Lock()

    def run_once(self, now_s: float, *, limit: int = 1000) -> int:
        """One pass at this time, in this thread: settle, reconcile, then carry out what is due, one after the other.

        Returns how many actions were begun or put back.
        """
        self._settle(now_s)
        self._reconciliation.run(now_s)
        count = 0
        while count < limit:
            leased = self._lease(now_s, limit=1)
            if not leased:
                break
            for lease in leased:
                self._perform(lease, lambda: now_s)
                count += 1
        return count

    def start(self) -> None:
        """Work in threads of its own until `stop`."""
        if self._threads:
            raise RuntimeError("the relay works already")
        self._ending.clear()
        if self._writer is None:
            self._writer = self._own_writer = Writer(self._store)
        self._pool = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="relay")
        self._threads = [
            threading.Thread(target=self._loop, args=(self._dispatch,), name="relay-dispatch", daemon=True),
            threading.Thread(target=self._loop, args=(self._keep_house,), name="relay-housekeeping", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """Look at the outbox now: something has been reserved."""
        self._wakeup.set()

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Lease nothing more and wait for what is under way; whether all of it ended in time. Idempotent."""
        self._ending.set()
        self._wakeup.set()
        until_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))
        while self._in_flight and time.monotonic() < until_s:
            time.sleep(0.01)
        ended = not self._in_flight and not any(thread.is_alive() for thread in self._threads)
        if self._pool is not None:
            self._pool.shutdown(wait=ended, cancel_futures=True)
            self._pool = None
        self._threads = []
        if self._own_writer is not None:
            self._own_writer.close()
            self._writer = self._own_writer = None
        if ended:
            self.lanes.close()
        return ended

    def _loop(self, work: Callable[[], float]) -> None:
        """Call `work` until the end; it says how long to wait. A store that is away is asked ever more rarely."""
        failures = 0
        while not self._ending.is_set():
            try:
                wait_s = work()
                failures = 0
            except Exception:
                failures += 1
                wait_s = min(0.1 * 2.0 ** min(failures, 10), 5.0)
                _log.exception("the relay could not work; it tries again in %.1f s", wait_s)
            if work == self._dispatch:
                self._wakeup.wait(wait_s)
                self._wakeup.clear()
            else:
                self._ending.wait(wait_s)

    def _dispatch(self) -> float:
        pool = self._pool
        with self._counting:
            free = min(self.lanes.places, _MAX_THREADS) - self._in_flight
        if free <= 0 or pool is None:
            return self.options.poll_s
        for lease in self._lease(time.time(), limit=free):
            with self._counting:
                self._in_flight += 1
            pool.submit(self._work, lease)
        return self.options.poll_s

    def _work(self, lease: Lease) -> None:
        try:
            self._perform(lease, time.time)
        except Exception:
            # The lease runs out, and what is known then decides.
            _log.exception("action %s could not be carried on", lease.action.draft.action_id)
        finally:
            with self._counting:
                self._in_flight -= 1
            self._wakeup.set()

    def _keep_house(self) -> float:
        self._settle(time.time())
        self._reconciliation.run(time.time())
        return self.options.housekeeping_s

    def _settle(self, now_s: float) -> None:
        if self._commit(lambda tx: self._progress.settle(tx, now_s)):
            crash.point("relay.settled")

    def _lease(self, now_s: float, *, limit: int) -> list[Lease]:
        """Take what is due and has room, longest due first within each name; all of it in one transaction."""
        begun_s = time.monotonic()

        def lease(tx: Transaction) -> list[Action]:
            off = stopped(tx)
            room = {} if off.everything else self.lanes.room(now_s)
            taken: list[Action] = []
            for name, free in room.items():
                if name in off.actions or len(taken) >= limit:
                    continue
                lease_s = self.lanes.lease_s(name, self.options.lease_margin_s)
                count = min(free, limit - len(taken))
                taken += tx.lease_actions(self.owner, now_s=now_s, lease_s=lease_s, limit=count, names=(name,))
            for action in taken:
                self._progress.ledger.note_action(tx, action, at_s=now_s)
            if taken:
                crash.point("relay.leasing")
            return taken

        leased = self._commit(lease)
        if leased:
            crash.point("relay.leased")
        return [Lease(action=action, lane=self._place(action, now_s), begun_s=begun_s) for action in leased]

    def _place(self, action: Action, now_s: float) -> Lane | None:
        """A place for a leased action, where its name alone says in which lane. Taken now, so that nobody else does."""
        lane = self.lanes.only(action.draft.name)
        return lane if lane is not None and lane.enter(now_s) else None

    def _perform(self, lease: Lease, clock: Callable[[], float]) -> None:
        """Carry out one leased action."""
        action, lane = lease.action, lease.lane
        outcome: Outcome | None = None
        try:
            order = self._begin(action, clock)
            if order is None:
                return
            if lane is None:  # which of the action's lanes it is, only its payload says
                found = self.lanes.find(order.name, order.package)
                lane = found if found is not None and found.enter(clock()) else None
            if lane is not None:
                crash.point("relay.executing")
                outcome = self._execute(lane, order, lease.begun_s)
                crash.point("relay.answered")
        finally:
            if lane is not None:
                lane.leave(outcome, clock())
        self._write(action, lane, outcome, clock)

    def _begin(self, action: Action, clock: Callable[[], float]) -> Order | None:
        try:
            return self._commit_patiently(lambda tx: self._progress.begin(tx, action, clock()))
        except Conflict:
            _log.info("the lease on %s was lost before it began", action.draft.action_id)
            return None

    def _execute(self, lane: Lane, order: Order, leased_at_s: float) -> Outcome | None:
        """One try; None where it is too late for one."""
        if time.monotonic() - leased_at_s > self.options.lease_margin_s:
            # This process was held up. By the end of the try, others would take the action for lost.
            return None
        if self.options.dry_run or lane.target.dry_run:
            return Outcome(verdict=Verdict.DONE, receipt=b'{"dry_run":true}', error="DRY_RUN")
        try:
            return lane.call(order)
        except Exception as error:
            _log.exception("the executor of %s failed", order.name)
            return unknown(f"EXECUTOR_{type(error).__name__}")

    def _write(self, action: Action, lane: Lane | None, outcome: Outcome | None, clock: Callable[[], float]) -> None:
        """Commit an outcome. It is known nowhere else, so a store that is away is tried for as long as the lease."""

        def write(tx: Transaction) -> Action:
            if lane is None or outcome is None:
                error = "BUSY" if lane is None else "LEASE_TOO_OLD"
                return self._progress.put_back(tx, action, clock(), wait_s=_BUSY_WAIT_S, error=error)
            return self._progress.finish(tx, action, lane.target, outcome, clock())

        try:
            finished = self._commit_patiently(write)
        except Conflict as conflict:
            _log.info("the outcome of %s was written by another: %s", action.draft.action_id, conflict)
            return
        crash.point(_POINT_OF[finished.state])

    def _commit_patiently(self, fn: Callable[[Transaction], _ResultT]) -> _ResultT:
        """Commit, and where the store is away or has too much to do, try again for as long as a lease lasts."""
        until_s, pause_s = time.monotonic() + self.options.lease_margin_s, 0.05
        while True:
            try:
                return self._commit(fn)
            except Conflict:
                raise
            except Exception:
                if time.monotonic() > until_s or self._ending.wait(pause_s):
                    raise
                pause_s = min(pause_s * 2.0, 2.0)

    def _commit(self, fn: Callable[[Transaction], _ResultT]) -> _ResultT:
        if self._writer is not None:
            return self._writer.submit(fn).result()
        with self._store.transaction() as tx:
            return fn(tx)


_POINT_OF = {
    ActionState.DONE: "relay.done",
    ActionState.PENDING: "relay.retrying",
    ActionState.DEAD: "relay.dead",
    ActionState.UNKNOWN: "relay.unknown",
}
