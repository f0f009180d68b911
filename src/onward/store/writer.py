"""One thread that writes for all: what many callers want to change shares one commit, and each learns when it is done.

While a commit waits for the disk, the next group gathers; nobody waits for company when there is none. Each function
runs behind a savepoint, so that one that raises loses its own changes only. In a database that savepoint is made when
the function first writes something that cannot wait (see `store/sql/transaction.py`): appending to the audit log and
reserving actions is undone without one. Knows nothing of what is written.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from onward.errors import Overloaded
from onward.store.store import Store, StoreUnavailable, Transaction

_log = logging.getLogger(__name__)
ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Wish(Generic[ResultT]):
    change: Callable[[Transaction], ResultT]
    future: Future[ResultT]
    result: ResultT | None = None
    error: BaseException | None = None


class Writer:
    """The writer thread of a store. `submit` from any thread; `close` before the store's.

    A commit that fails fails everything that was in it with `StoreUnavailable`; the writer then goes on with the next.
    """

    def __init__(self, store: Store, *, max_queue: int = 4096, max_group: int = 256) -> None:
        self._store = store
        self._max_queue = max_queue
        self._max_group = max_group
        self._waiting: deque[_Wish[Any]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._idle = False
        self._closed = False
        self._rate_per_s = 1000.0
        self.commits = 0
        self.changes = 0
        self._thread = threading.Thread(target=self._run, name="onward-writer", daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many changes wait."""
        return len(self._waiting)

    def submit(self, change: Callable[[Transaction], ResultT]) -> Future[ResultT]:
        """Have the change made; the future has what it returned or raised, once the commit is durable.

        `change` runs on the writer's thread and does nothing slow: everybody waits for it. `Overloaded` where too many
        wait already, `StoreUnavailable` after `close`.
        """
        wish = _Wish(change, Future[ResultT]())
        with self._changed:
            if self._closed:
                raise StoreUnavailable("the store is being closed")
            if len(self._waiting) >= self._max_queue:
                raise Overloaded("too much waits to be written", retry_after_s=self._max_queue / self._rate_per_s)
            self._waiting.append(wish)
            if self._idle:
                self._changed.notify()
        return wish.future

    def close(self) -> None:
        """Take nothing more, write what waits, end the thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            begun_s = time.monotonic()
            failed = self._write(group)
            for wish in group:
                if failed is not None:
                    # Each its own: an error that many threads raise gathers the tracebacks of all of them.
                    wish.future.set_exception(StoreUnavailable(failed.message, found=failed.found))
                elif wish.error is not None:
                    wish.future.set_exception(wish.error)
                else:
                    wish.future.set_result(wish.result)
            took_s = max(time.monotonic() - begun_s, 1e-6)
            self._rate_per_s += 0.1 * (len(group) / took_s - self._rate_per_s)

    def _next_group(self) -> list[_Wish[Any]]:
        """What is to share the next commit; nothing once the writer is closed and has written all."""
        group: list[_Wish[Any]] = []
        while not group:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return []
                    self._idle = True
                    self._changed.wait()
                    self._idle = False
                taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
            # Whoever gave up while waiting is left out.
            group = [wish for wish in taken if wish.future.set_running_or_notify_cancel()]
        return group

    def _write(self, group: list[_Wish[Any]]) -> StoreUnavailable | None:
        """Make the changes and commit them; what failed all of them, if something did."""
        try:
            with self._store.transaction() as transaction:
                for wish in group:
                    try:
                        with transaction.savepoint():
                            wish.result = wish.change(transaction)
                    except StoreUnavailable:
                        raise
                    except BaseException as error:  # it is the caller's, and goes to the caller
                        wish.error = error
        except StoreUnavailable as failed:
            return failed
        except Exception as failed:  # a fault of ours: nobody's change was made, and the writer goes on
            _log.exception("a group of changes could not be written")
            return StoreUnavailable("the changes could not be written", found=repr(failed))
        self.commits += 1
        self.changes += len(group)
        return None
