"""One stream under way: driven by a thread of its model's, read on the event loop.

The thread stops making events while the reader has too many to read yet; a reader that leaves, or whose deadline
passes, stops it within a step. Knows no HTTP and no budget.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from onward.errors import Cancelled, DeadlineExceeded
from onward.execute.backend import Tell
from onward.types import CancelToken, Event

MOST_UNREAD = 64
_LOOK_S = 0.05


class Wakes:
    """Wakes the readers of one model's streams; tokens that come while the loop is being woken need no call of theirs.

    An engine gives all its streams a token in one step, and waking the loop costs more than handing a token over.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Running] = deque()
        self._due = False

    def wake(self, running: Running) -> None:
        """From any thread: have a reader look at what there is."""
        self._waiting.append(running)
        if not self._due:
            self._due = True
            self._loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        self._due = False  # first: who comes from now on is to call again
        while self._waiting:
            self._waiting.popleft().wake()


class Running:
    """The events of one stream, for one reader: iterate once. `cancel` ends it; so does the deadline."""

    def __init__(self, deadline_s: float, told: Callable[[Event, float], None], wakes: Wakes) -> None:
        """`deadline_s` is on the monotonic clock; `told` gets each event as it is read, with when it was made."""
        self.arrived_s = time.monotonic()
        self.token = CancelToken()
        self.finished = asyncio.Event()
        self._admitted = asyncio.Event()
        self._driven = self._woken = False
        self._loop = asyncio.get_running_loop()
        self._told = told
        self._wakes = wakes
        self._unread: deque[tuple[Event, float]] = deque()
        self._room = threading.Semaphore(MOST_UNREAD)
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._over = False
        left_s = deadline_s - time.monotonic()
        self._timer = self._loop.call_later(max(0.0, left_s), self.expire)

    # --- On the event loop ---

    def __aiter__(self) -> Running:
        return self

    async def __anext__(self) -> Event:
        while True:
            if self._error is not None and (self.token.cancelled or not self._unread):
                error, self._error = self._error, None
                self._unread.clear()
                self._over = True
                raise error
            if self._unread:
                event, made_s = self._unread.popleft()
                self._room.release()
                self._told(event, made_s)
                return event
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()

    async def admitted(self) -> None:
        """Wait until the engine has taken it in; raises what is wrong with it instead."""
        await self._admitted.wait()
        if self._error is not None:
            self._over = True
            raise self._error

    def admit(self) -> None:
        """The engine has looked at it and takes it."""
        self._admitted.set()

    def cancel(self) -> None:
        """Nobody waits for it any more; idempotent."""
        if not self._over:
            self.stop(Cancelled("the stream was given up"))

    def expire(self) -> None:
        """Its deadline has passed."""
        if not self._over:
            self.stop(DeadlineExceeded("the deadline passed before the answer was whole"))

    def stop(self, error: BaseException) -> None:
        """End it with an error, whatever it still makes."""
        self._timer.cancel()
        self._over = True
        self._error = self._error or error
        self.token.cancel()
        self._admitted.set()
        self._changed.set()
        if not self._driven:  # it waits for a place, which it does not need any more
            self.finished.set()

    def wake(self) -> None:
        """Look at what there is."""
        self._woken = False
        self._changed.set()

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes: it has ended, or failed."""
        self._timer.cancel()
        self._error = self._error or error
        self._over = True
        self._admitted.set()
        self._changed.set()
        self.finished.set()

    # --- On its thread ---

    def drive(self, make: Callable[[CancelToken, Tell], None]) -> None:
        """Make the events, as fast as they are read."""
        self._driven = True
        error: BaseException | None = None
        try:
            if not self.token.cancelled:
                make(self.token, self._tell)
        except Exception as failed:
            error = failed
        finally:
            self._loop.call_soon_threadsafe(self.end, error)

    def _tell(self, event: Event) -> bool:
        made_s = time.monotonic()
        while not self._room.acquire(timeout=_LOOK_S):
            if self.token.cancelled:
                return True
        if self.token.cancelled:
            return True
        self._unread.append((event, made_s))
        if not self._woken:  # the reader takes all that there is: one call for many events is enough
            self._woken = True
            self._wakes.wake(self)
        return False
