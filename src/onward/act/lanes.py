"""One lane for each target: its executor, how many of its actions may run at once, and its circuit breaker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from onward.act.breaker import Breaker, Circuit
from onward.act.command import Command, CommandExecutor
from onward.act.entry import Entry, EntryExecutor
from onward.act.executor import Executor, Order, Outcome, Verdict
from onward.act.sql import Sql, SqlExecutor
from onward.act.targets import How, Target, Targets
from onward.act.webhook import Webhook, WebhookExecutor
from onward.errors import OnwardError

_AHEAD = 8
_QUICK_S = 0.05
"""While a target answers faster, commits take most of an action's time: more are begun than are called at once."""


class NoExecutor(OnwardError):
    """A target's kind has no executor here."""

    code = "NO_EXECUTOR"
    status = 500
    exit_code = 69


def executor_of(target: Target) -> Executor:
    """What carries out a target's actions. Raises `NoExecutor` for message queues."""
    how: How = target.how
    match how:
        case Webhook():
            return WebhookExecutor(how)
        case Sql():
            return SqlExecutor(how, connections=target.concurrency)
        case Command():
            return CommandExecutor(how)
        case Entry():
            return EntryExecutor(how)
    raise NoExecutor(where=target.action, expected="an executor passed to the relay", found=f'kind = "{target.kind}"')


class Lane:
    """A target and what is under way to it. Thread-safe."""

    def __init__(self, target: Target, executor: Executor) -> None:
        self.target = target
        self.executor = executor
        self._breaker = Breaker(failures=target.breaker_failures, rest_s=target.breaker_rest_s)
        self._running = 0
        self._usual_s = _QUICK_S
        self._lock = threading.Lock()
        self._calls = threading.Semaphore(target.concurrency)

    def room(self, now_s: float) -> int:
        """How many actions may begin now."""
        with self._lock:
            return self._room(now_s)

    def _room(self, now_s: float) -> int:
        return self._breaker.room(now_s, self.places - self._running)

    @property
    def places(self) -> int:
        """How many actions may be between their lease and their outcome; no more than `concurrency` are called."""
        return self.target.concurrency * (_AHEAD if self._usual_s < _QUICK_S else 1)

    def call(self, order: Order) -> Outcome | None:
        """Execute the order as soon as fewer than `concurrency` are; None where the target has to rest by then."""
        with self._calls:
            if self.circuit(time.time()) is Circuit.OPEN:
                return None
            begun_s = time.monotonic()
            try:
                return self.executor.execute(order)
            finally:
                with self._lock:
                    self._usual_s += 0.2 * (time.monotonic() - begun_s - self._usual_s)

    def enter(self, now_s: float) -> bool:
        """Take a place, if there is one."""
        with self._lock:
            if self._room(now_s) < 1:
                return False
            self._running += 1
            self._breaker.begin(now_s)
            return True

    def leave(self, outcome: Outcome | None, now_s: float) -> None:
        """Give the place back; the outcome (None: nothing was tried) says how the target is."""
        with self._lock:
            self._running -= 1
            if outcome is None:
                self._breaker.abandon()
            elif outcome.verdict in (Verdict.DONE, Verdict.FAILED):
                self._breaker.succeeded()
            else:
                self._breaker.failed(now_s)

    def circuit(self, now_s: float) -> Circuit:
        """The breaker's state."""
        with self._lock:
            return self._breaker.circuit(now_s)


class Lanes:
    """The lanes of all targets."""

    def __init__(
        self,
        targets: Targets,
        *,
        executors: Mapping[str, Executor] | None = None,
        make: Callable[[Target], Executor] = executor_of,
    ) -> None:
        """`executors`: by action, instead of what `make` gives; for message queues there must be one."""
        given = executors or {}
        self.targets = targets
        self._lanes = [Lane(target, given.get(target.action) or make(target)) for target in targets.targets]

    def find(self, action: str, package: str) -> Lane | None:
        """The lane of an action for a package."""
        for lane in self._lanes:
            if lane.target.action == action and package in lane.target.packages:
                return lane
        return None

    def only(self, action: str) -> Lane | None:
        """The lane of an action that has a single one."""
        lanes = self.called(action)
        return lanes[0] if len(lanes) == 1 else None

    def called(self, action: str) -> list[Lane]:
        """The lanes of an action, for whatever package."""
        return [lane for lane in self._lanes if lane.target.action == action]

    def room(self, now_s: float) -> dict[str, int]:
        """How many actions of each name may begin now; names without room are left out."""
        room: dict[str, int] = {}
        for lane in self._lanes:
            free = lane.room(now_s)
            if free > 0:
                room[lane.target.action] = room.get(lane.target.action, 0) + free
        return room

    def lease_s(self, action: str, margin_s: float) -> float:
        """How long a lease on an action has to last: one try, and what happens around it."""
        return margin_s + max(lane.target.timeout_s for lane in self.called(action))

    @property
    def places(self) -> int:
        """How many actions may be under way in all lanes together."""
        return sum(lane.places for lane in self._lanes)

    def circuits(self, now_s: float) -> dict[str, str]:
        """The breaker's state of each action's targets; the worst where there are several."""
        order = (Circuit.CLOSED, Circuit.HALF_OPEN, Circuit.OPEN)
        worst: dict[str, Circuit] = {}
        for lane in self._lanes:
            found = lane.circuit(now_s)
            worst[lane.target.action] = max(worst.get(lane.target.action, found), found, key=order.index)
        return {action: circuit.value for action, circuit in worst.items()}

    def close(self) -> None:
        """Close the executors."""
        for lane in self._lanes:
            lane.executor.close()
