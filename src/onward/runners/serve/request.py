"""What waits in a lane: a request with its tensors, and what is done with the outcome. Knows no queue and no HTTP."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

from onward.errors import ExecutionError, OnwardError
from onward.execute.batch import Column
from onward.execute.scheduler import NORMAL, UNKNOWN, State, Work
from onward.types import Array

_log = logging.getLogger("onward.serve")


class Unprepared(dict[str, Column]):
    """Columns that are still to be made, on the instance's thread: `prepare` makes them, from `size` bytes."""

    __slots__ = ("prepare", "size")

    def __init__(self, prepare: Callable[[], Mapping[str, Column]], size: int) -> None:
        super().__init__()
        self.prepare = prepare
        self.size = size


NO_FAILURES: Mapping[Any, Exception] = MappingProxyType({})
_QUEUED = State.QUEUED  # looked up at its enum it costs 45 ns, at every request


class Outputs:
    """The outputs of one batch: arrays, and as nested lists made once for all requests that answer in JSON.

    `failed` names the requests that could not be prepared: they have no rows here. `elements` are the positions
    (rows, where shapes are fixed) of requests that were computed, `padding` those that only filled up.
    """

    __slots__ = ("_lists", "arrays", "elements", "failed", "finished_s", "names", "padding", "prepare_s")

    def __init__(
        self, names: tuple[str, ...], arrays: list[Array], failed: Mapping[Request, Exception] = NO_FAILURES
    ) -> None:
        self.names = names
        self.arrays = arrays
        self.failed = failed
        self.finished_s = time.monotonic()
        self.elements = self.padding = 0
        self.prepare_s = 0.0  # where the batch's requests were prepared on the instance's thread
        self._lists: list[list[Any] | None] = [None] * len(arrays)

    def rows(self, index: int) -> list[Any]:
        """Output `index` as one flat list a row."""
        lists = self._lists[index]
        if lists is None:
            array = self.arrays[index]
            lists = self._lists[index] = array.reshape(len(array), -1).tolist()
        return lists

    def slice(self, start: int, rows: int) -> dict[str, Array]:
        """The rows of one request: {output: (rows, …)}."""
        return {name: array[start : start + rows] for name, array in zip(self.names, self.arrays, strict=True)}


class Request(Work):
    """Work with its tensors, and what to do with the outcome. Every request gets exactly one of both calls."""

    __slots__ = ("columns", "fetches", "queued_s", "request_id")

    def __init__(
        self,
        columns: Mapping[str, Column],
        fetches: tuple[str, ...],
        rows: int,
        length: int,
        key: Hashable,
        deadline_s: float,
        priority: int = NORMAL,
    ) -> None:
        # Not through Work.__init__: this runs once a request, and a call costs as much as what it does.
        self.rows = rows
        self.key = key
        self.length = length
        self.deadline_s = deadline_s
        self.priority = priority
        self.standing = UNKNOWN
        self.state = _QUEUED
        self.columns = columns
        self.fetches = fetches
        self.request_id = b""
        self.queued_s = 0.0

    def resolve(self, outputs: Outputs, start: int) -> None:
        """The batch has been computed; this request's rows begin at `start`."""
        raise AssertionError("a request must say what to do with its answer")

    def reject(self, error: OnwardError) -> None:
        """There will be no answer."""
        raise AssertionError("a request must say what to do with an error")

    def crash(self, error: Exception) -> None:
        """Its answer could not be given, by a fault of ours: nobody else's may be lost with it."""
        _log.error("an answer failed", exc_info=error)
        self.reject(ExecutionError(type(error).__name__))

    def is_wanted(self) -> bool:
        """Whether somebody still waits for the outcome."""
        return True

    def forget(self) -> None:
        """It will never be computed: let go of its tensors, though the queue may hold it a while."""
        self.columns = {}


class Waiting(Request):
    """A request whose outcome an asyncio future waits for."""

    __slots__ = ("future",)

    future: asyncio.Future[dict[str, Array]]

    def resolve(self, outputs: Outputs, start: int) -> None:
        """Hand the rows over."""
        if not self.future.done():
            self.future.set_result(outputs.slice(start, self.rows))

    def reject(self, error: OnwardError) -> None:
        """Hand the error over."""
        if not self.future.done():
            self.future.set_exception(error)

    def is_wanted(self) -> bool:
        """Whether the future is still waited for."""
        return not self.future.done()
