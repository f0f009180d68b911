"""The decisions of one server: the store, its writer, the desk and the relay, opened when the first policy is loaded.

A store that cannot be reached keeps nobody from serving: what needs it is refused until it can be. The loop calls
`record` and is called back; whatever may wait is done on other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from onward.act.desk import Case, Desk, Recorded, Ruling
from onward.act.relay import Relay
from onward.act.targets import Targets, load_targets
from onward.decide.audit import note_erasure
from onward.decide.rules import Rules
from onward.errors import MalformedBody, OnwardError
from onward.pipeline import Pipeline
from onward.prepare.profile import Features
from onward.runners.installation import open_keys
from onward.runners.serve import statements
from onward.runners.serve.caller import Caller, caller_of
from onward.runners.serve.decider import Decider
from onward.runners.serve.entities import Entities
from onward.runners.serve.exchange import Headers
from onward.runners.serve.policies import DecisionOptions
from onward.store.keys import Keys
from onward.store.profiles import Profiles
from onward.store.sql import open_store
from onward.store.store import Reader, Store, StoreUnavailable, Transaction
from onward.store.writer import Writer
from onward.telemetry import Backlog, DecisionMetrics, ModelMetrics
from onward.types import PackageId

if TYPE_CHECKING:  # only where people talk with a package
    from onward.dialogue.conversations import Conversations
    from onward.dialogue.dialogue import Dialogue
    from onward.runners.serve.talker import Talker

_log = logging.getLogger("onward.serve")
_RETRY_S = 1.0
_BACKLOG_FRESH_S = 1.0
_FRESH_S = 1.0
_READERS = 4
_TALKS = 32  # each may wait a while for what its reply depends on
_PURGE_S = 600.0
_LONGEST_WAIT_S = 30.0
_FIRST_LOOK_S = 0.01
_LATER_LOOK_S = 0.25
_RELAY_STOP_S = 20.0
T = TypeVar("T")
Then: TypeAlias = Callable[[Future[list[Recorded]]], None]


class _Opened(NamedTuple):
    store: Store
    keys: Keys
    writer: Writer
    desk: Desk
    profiles: Profiles
    relay: Relay | None


class Decisions:
    """Records decisions for every served version, and tells what became of them. Used on the event loop."""

    def __init__(self, options: DecisionOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._options = options
        self._loop = loop
        self.targets = load_targets(options.actions) if options.actions else Targets.none()
        self.threads = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="onward-pool-store")
        self._opening = threading.Lock()
        self._opened: _Opened | None = None
        self._next_try_s = 0.0
        self._closed = False
        self._finished: deque[tuple[Then, Future[list[Recorded]]]] = deque()
        self._deliver_scheduled = False
        self.talking = ThreadPoolExecutor(max_workers=_TALKS, thread_name_prefix="onward-pool-talk")
        self._features: dict[str, Features] = {}
        self._counters: dict[tuple[str, str], DecisionMetrics] = {}
        self._backlog: Backlog | None = None
        self._backlog_s = 0.0

    def open(self) -> None:
        """Open the store, unless it is open; where it cannot be reached, that is logged. Takes its time."""
        with self._opening:
            if self._opened is not None or self._closed:
                return
            try:
                self._opened = self._open()
            except StoreUnavailable as error:
                _log.error("the store cannot be opened; decisions are refused until it can be: %s", error)
            else:
                relay = "" if self._opened.relay else "; actions are left to another relay"
                _log.info("decisions are recorded%s", relay)

    def _open_again(self) -> None:
        try:
            self.open()
        except Exception as error:  # it is tried again with the next request
            _log.error("the store was not opened: %s: %s", type(error).__name__, error)

    def _open(self) -> _Opened:
        siblings = self._options.siblings
        if siblings is not None:
            siblings.open_first()
        store = open_store(self._options.store)
        try:
            keys = open_keys(self._options.store, self._options.key_file)
            writer = Writer(store)
        except BaseException:
            store.close()
            raise
        relay = None
        if self._options.relay:
            relay = Relay(store, self.targets, keys=keys, writer=writer)
            relay.start()
        # What another worker has just written counts at once, as if it had been this one.
        freshness_s = _FRESH_S if siblings is None else 0.0
        profiles = Profiles(store, writer, note_erasure=note_erasure, freshness_s=freshness_s)
        return _Opened(store, keys, writer, Desk(writer, keys, self.targets), profiles, relay)

    @property
    def keys(self) -> Keys:
        """What opens private values. Raises `StoreUnavailable`."""
        return self._need().keys

    def decider(self, pipeline: Pipeline, metrics: ModelMetrics) -> Decider:
        """The decider of a served version."""
        return Decider(pipeline, _ruling(pipeline), self, metrics, self._counter(pipeline.package.id))

    def talker(self, pipeline: Pipeline, metrics: ModelMetrics) -> Talker:
        """The same for a version that people talk with."""
        from onward.runners.serve.talker import Talker

        assert pipeline.dialogue is not None
        counter = self._counter(pipeline.package.id)
        return Talker(pipeline, pipeline.dialogue, _ruling(pipeline), self, metrics, counter)

    def _counter(self, package: PackageId) -> DecisionMetrics:
        """What counts a version's decisions; the same after it has been loaded anew."""
        made = DecisionMetrics(package.name, package.version)
        return self._counters.setdefault((package.name, package.version), made)

    def conversations(self, dialogue: Dialogue, ruling: Ruling) -> Conversations:
        """The conversations with a package. Raises `StoreUnavailable`."""
        from onward.dialogue.conversations import Conversations

        opened, siblings = self._need(), self._options.siblings
        conversations = partial(
            Conversations, dialogue, ruling, opened.desk, opened.store, opened.writer, keys=opened.keys,
            wake=self.wake_relay,
        )  # fmt: skip
        return conversations() if siblings is None else conversations(secret=siblings.secret, turn=siblings.turn)

    def entities(self, features: Features, metrics: ModelMetrics) -> Entities:
        """What is known of the entities of a served version's items."""
        if not self._features:
            self._loop.call_later(_PURGE_S, self._purge)
        self._features[features.key] = features
        return Entities(features, self, metrics)

    def _purge(self) -> None:
        """Have events deleted that no package looks at any more, now and then."""
        if not self._closed:
            self.threads.submit(self._purge_now)
            self._loop.call_later(_PURGE_S, self._purge)

    def _purge_now(self) -> None:
        try:
            deleted = self._need().profiles.purge(list(self._features.values()))
        except Exception as error:  # there is a next time
            _log.warning("old events were not deleted: %s: %s", type(error).__name__, error)
        else:
            if deleted:
                _log.info("%d events were too old for every package, and are deleted", deleted)

    @property
    def profiles(self) -> Profiles:
        """The store's profiles. Raises `StoreUnavailable`."""
        return self._need().profiles

    def record(self, ruling: Ruling, cases: Sequence[Case], caller: Caller, then: Then) -> None:
        """Decide and write; `then` is called on the loop, with a future that is done."""
        try:
            desk = self._need().desk
            future = desk.record(ruling, cases, tenant=caller.tenant, idempotency_key=caller.idempotency_key)
        except OnwardError as error:
            future = Future()
            future.set_exception(error)
            then(future)
        else:
            future.add_done_callback(lambda done: self._finish(then, done))

    def _finish(self, then: Then, future: Future[list[Recorded]]) -> None:
        """A commit is over (on the writer's thread): wake the loop once for all that it decided."""
        self._finished.append((then, future))
        if not self._deliver_scheduled:
            self._deliver_scheduled = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._deliver_scheduled = False  # first: what is finished from here on wakes the loop again
        acts = False
        while self._finished:
            then, future = self._finished.popleft()
            acts = acts or (future.exception() is None and any(one.actions for one in future.result()))
            then(future)
        if acts:
            self.wake_relay()

    def wake_relay(self) -> None:
        """There may be something to do."""
        if self._options.siblings is not None:
            self._options.siblings.wake()
        elif self._opened is not None and self._opened.relay is not None:
            self._opened.relay.wake()

    async def read(self, call: Callable[[Reader], T]) -> T:
        """What `call` reads of the store, off the loop. Raises `StoreUnavailable`."""
        store = self._need().store

        def work() -> T:
            with store.snapshot() as reader:
                return call(reader)

        return await self._loop.run_in_executor(self.threads, work)

    async def write(self, call: Callable[[Transaction], T]) -> T:
        """What `call` gives, once what it wrote is durable. Raises what it raises."""
        return await asyncio.wrap_future(self._need().writer.submit(call))

    async def told(self, decision_id: str, headers: Headers, wait_s: str) -> dict[str, Any]:
        """A caller's decision and its actions, as JSON can hold it; with `wait_s`, once they are settled or time is up.

        Raises `NotFound`, `MalformedBody` or `StoreUnavailable`.
        """
        tenant, keys = caller_of(headers).tenant, self.keys
        until_s = time.monotonic() + _wait(wait_s)
        pause_s = _FIRST_LOOK_S
        while True:
            told = await self.read(lambda reader: statements.decision(reader, keys, tenant, decision_id))
            if told["settled"] or time.monotonic() >= until_s or self._closed:
                return told
            await asyncio.sleep(min(pause_s, max(until_s - time.monotonic(), 0.0)))
            pause_s = min(pause_s * 1.5, _LATER_LOOK_S)

    def _need(self) -> _Opened:
        if self._opened is None:
            now_s = time.monotonic()
            if now_s >= self._next_try_s and not self._closed:
                self._next_try_s = now_s + _RETRY_S
                self.threads.submit(self._open_again)
            raise StoreUnavailable("the store is not open")
        return self._opened

    def metrics(self) -> Iterable[DecisionMetrics]:
        """The counters of every version that has decided since the start."""
        return self._counters.values()

    def backlog(self) -> Backlog | None:
        """The outbox as it was last looked at; None where it could not be."""
        return self._backlog

    async def refresh_backlog(self) -> None:
        """Look at the outbox, at most once a second."""
        if time.monotonic() - self._backlog_s < _BACKLOG_FRESH_S:
            return
        self._backlog_s = time.monotonic()
        try:
            self._backlog = await self.read(statements.backlog)
        except OnwardError as error:
            self._backlog = None
            _log.warning("the outbox cannot be looked at: %s", error)

    async def close(self) -> None:
        """Stop the relay, finish the commits, then release the store."""
        self._closed = True
        await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            if opened.relay is not None:
                opened.relay.stop(_RELAY_STOP_S)
            opened.writer.close()
            opened.store.close()
        for executor in (self.threads, self.talking):
            executor.shutdown(wait=False, cancel_futures=True)


def _ruling(pipeline: Pipeline) -> Ruling:
    rules = pipeline.policy
    assert isinstance(rules, Rules)
    inputs, outputs = pipeline.signature.inputs, pipeline.signature.outputs
    return Ruling(
        package=pipeline.package.id,
        rules=rules,
        private=frozenset(field.name for field in (*inputs, *outputs) if field.private),
        fields=frozenset(field.name for field in inputs),
    )


def _wait(text: str) -> float:
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0.0 <= wait_s <= _LONGEST_WAIT_S:
        raise MalformedBody(where="wait_s", expected=f"seconds from 0 to {_LONGEST_WAIT_S:g}", found=text[:40])
    return wait_s
