"""Values from an engine that pushes them, in a thread of its own, to one reader that pulls them: bounded both ways.

A reader that is slow holds the engine's thread up; one that is gone, or has cancelled, ends it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from onward.types import CancelToken

T = TypeVar("T")
MOST_WAITING = 64


class Channel(Generic[T]):
    """One writer, one reader: its iteration ends where the writer has ended, or raises what it failed with."""

    def __init__(self, cancel: CancelToken) -> None:
        self._cancel = cancel
        self._waiting: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._left = False
        self._error: Exception | None = None

    def put(self, value: T) -> bool:
        """Hand a value over, waiting where the reader is behind; True: nobody wants more."""
        if self._left or self._cancel.cancelled:
            return True
        with self._changed:
            self._waiting.append(value)
            self._changed.notify_all()
            while len(self._waiting) > MOST_WAITING and not self._left and not self._cancel.cancelled:
                self._changed.wait(0.1)  # nobody tells us when a token is cancelled
            return self._left or self._cancel.cancelled

    def fail(self, error: Exception) -> None:
        """Say what went wrong; the reader gets it after what was put before."""
        self._error = error

    def end(self) -> None:
        """Nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def leave(self) -> None:
        """The reader wants no more."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._cancel.cancelled:
                    return
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    return
                value = self._waiting.popleft()
                if len(self._waiting) == MOST_WAITING:
                    self._changed.notify_all()
            yield value
