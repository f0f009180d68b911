"""What several streams ask of one model, run together: whoever waits when the model is free goes into the next batch.

Requests of one key share a batch. Knows nothing of what is run.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Gathering(Generic[A, B]):
    """One thread that runs batches of at most `most`, oldest first; `run` answers each request, in order."""

    def __init__(self, run: Callable[[Sequence[A]], Sequence[B]], *, most: int, name: str) -> None:
        self._run = run
        self._most = most
        self._waiting: deque[tuple[Hashable, A, Future[B]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, key: Hashable, request: A) -> Future[B]:
        """Ask for an answer; cancelled before its turn, the request is left out."""
        future: Future[B] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("it has been closed")
            self._waiting.append((key, request, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Answer what waits, then end the thread; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            running = [(request, future) for request, future in batch if future.set_running_or_notify_cancel()]
            if not running:
                continue
            try:
                answers = self._run([request for request, _ in running])
                if len(answers) != len(running):  # said to those who wait, who else would wait for ever
                    raise ValueError(f"{len(running)} requests, {len(answers)} answers")
            except BaseException as error:
                for _, future in running:
                    future.set_exception(error)
            else:
                for (_, future), answer in zip(running, answers, strict=True):
                    future.set_result(answer)

    def _next(self) -> list[tuple[A, Future[B]]]:
        """The oldest request and those behind it that may share its batch; nothing once it is closed and idle."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            key = self._waiting[0][0]
            batch: list[tuple[A, Future[B]]] = []
            left: deque[tuple[Hashable, A, Future[B]]] = deque()
            for other, request, future in self._waiting:
                if other == key and len(batch) < self._most:
                    batch.append((request, future))
                else:
                    left.append((other, request, future))
            self._waiting = left
            return batch
