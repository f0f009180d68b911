"""A served package of stages: each stage is asked where it is served, in its own lane, conversation or stream.

One deadline, one request id and one caller go through all of them, and who leaves is followed by everything that was
asked for him; what has been decided and done stays so. Knows served models by what they answer; not the repository.
Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from onward.errors import Cancelled, DeadlineExceeded, InputError, OnwardError, Overloaded, Unavailable, UsageError
from onward.execute.scheduler import NORMAL
from onward.flow import STAGES_MS, Flow, signature_of_stages, spoken_ms
from onward.generate.answer import readable
from onward.package.package import Package
from onward.package.stages import fields_of, pin_of, read_pins
from onward.runners.serve import plain
from onward.runners.serve.caller import Caller, caller_of
from onward.runners.serve.exchange import Exchange, priority_of, timeout_s
from onward.runners.serve.sent_events import is_asked_for
from onward.runners.serve.served import ServedModel
from onward.runners.serve.stage_call import Asked, ask, events
from onward.runners.serve.traces import TRACES
from onward.telemetry import ModelMetrics
from onward.types import Event, Item, Result

if TYPE_CHECKING:
    from onward.decide.policy import Policy
    from onward.dialogue.dialogue import Dialogue
    from onward.runners.serve.models import AnyServed

_log = logging.getLogger("onward.serve")
_encode = msgspec.json.Encoder().encode
_WORTH_A_LINE_S = 0.1


class Served(Protocol):
    """Where stages are found: `onward.runners.serve.models.Models`."""

    def get(self, name: str, version: str = "") -> AnyServed:
        """A served model. Raises `ModelNotFound` or `Unavailable`."""
        ...


class Staging:
    """An opened package of stages as others of the server look at it: it has no model, policy or dialogue."""

    policy: Policy | None = None
    dialogue: Dialogue | None = None

    def __init__(self, package: Package) -> None:
        self.package = package
        self.manifest = package.manifest
        self.signature = signature_of_stages(package.manifest)


class StagedModel:
    """A package of stages as the server serves it. Made and used on the event loop."""

    decider = None
    entities = None
    speed = None

    def __init__(self, package: Package, models: Served) -> None:
        """Raises `Unavailable` naming a stage that is not served, `PackageError` one that is another package."""
        manifest = package.manifest
        self.id = package.id
        self.manifest = manifest
        self.pipeline = Staging(package)
        self.signature = self.pipeline.signature
        self.metrics = ModelMetrics(self.id.name, self.id.version)
        self._models = models
        self._pins = read_pins(package.folder, manifest)
        self._stages = {stage.name: stage for stage in manifest.stages}
        opened = {name: self.stage(name).pipeline.package for name in self._stages}
        fields = {name: fields_of(one.manifest, one.folder) for name, one in opened.items()}
        self.flow = Flow(manifest, fields)
        self.decides = any(one.decides for one in fields.values())
        self._deadline_s = manifest.limits.deadline_ms / 1000
        self._running: set[asyncio.Task[None]] = set()
        self.items = 0  # on their way now
        self._tail = b',"package":%b,"version":%b,"request_id":"' % (_encode(self.id.name), _encode(self.id.version))

    def stage(self, name: str) -> AnyServed:
        """What serves a stage now. Raises `Unavailable` where nothing does, or something else than was packed."""
        stage = self._stages[name]
        try:
            served = self._models.get(stage.package, stage.version)
        except OnwardError as error:
            message = f'stage "{name}" of {self.id.name}: {stage.package} {stage.version} is not served'
            raise Unavailable(message, found=error.message) from None
        if served.id.digest != self._pins[pin_of(stage)]:
            message = (
                f'stage "{name}" of {self.id.name}: {stage.package} {stage.version} is not what it was packed with'
            )
            raise Unavailable(
                message, expected=f"digest {self._pins[pin_of(stage)][:12]}…", found=f"{served.id.digest[:12]}…"
            )
        return served

    def check(self) -> None:
        """Raise `Unavailable` naming a stage that cannot be asked now, whatever deep down."""
        for name in self._stages:
            served = self.stage(name)
            if isinstance(served, StagedModel):
                served.check()

    # --- HTTP ---

    def handle_infer(self, exchange: Exchange) -> None:
        """`POST /v2/models/…/infer`: there are no tensors to infer on."""
        self.metrics.fail(UsageError.code)
        raise UsageError("a package of stages has no tensors", expected=f"POST /models/{self.id.name}")

    def handle_plain(self, exchange: Exchange) -> None:
        """Answer `POST /models/…`."""
        try:
            content_type = exchange.headers.get(b"content-type", b"application/json").decode("latin-1")
            items, many = plain.read_items(
                content_type, exchange.body, self.signature.inputs, max_rows=self.manifest.limits.rows
            )
            self._start(exchange, items, many)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise

    def handle_form(self, exchange: Exchange, item: Item) -> None:
        """Answer an item that came as a form."""
        try:
            self._start(exchange, [item], False)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise

    def _start(self, exchange: Exchange, items: Sequence[Item], many: bool) -> None:
        call = plain.Call(items=items, many=many, outputs=plain.requested_outputs(exchange.query))
        self.flow.check_outputs(call.outputs)
        asked = self.asked(exchange)
        if exchange.disconnected:
            self.metrics.drop("cancelled")
            return
        if is_asked_for(exchange.headers):
            self._stream(exchange, call, asked)
            return
        task = asyncio.get_running_loop().create_task(self._respond(exchange, call, asked))
        exchange.work = _Leaving(task)
        exchange.body = b""
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _stream(self, exchange: Exchange, call: plain.Call, asked: Asked) -> None:
        """Answer with events as they come. What can be wrong with the request is told before the first."""
        if call.many:
            raise InputError("events are of one item", expected="an object", found="a list")
        self.flow.begin(call.items[0])
        exchange.stream(self.events(call.items[0], asked))

    def asked(self, exchange: Exchange) -> Asked:
        """On whose behalf the stages are asked for this request, and until when. Raises `MalformedBody`."""
        given = exchange.headers.get(b"x-onward-timeout-ms")
        within_s = self._deadline_s if given is None else timeout_s(given, self._deadline_s)
        urgency = exchange.headers.get(b"x-onward-priority")
        return Asked(
            request_id=exchange.request_id, deadline_s=exchange.arrived_s + within_s,
            caller=caller_of(exchange.headers), priority=NORMAL if urgency is None else priority_of(urgency),
        )  # fmt: skip

    async def _respond(self, exchange: Exchange, call: plain.Call, asked: Asked) -> None:
        try:
            walks = await self.walk(call.items, call.outputs, asked)
        except (asyncio.CancelledError, Cancelled):
            self.metrics.drop("cancelled")
        except OnwardError as error:
            self.metrics.fail(error.code)
            exchange.fail(error)
        except Exception as error:  # a fault of ours; nobody else would answer
            self.metrics.fail(OnwardError.code)
            exchange.crash(error)
        else:
            answers = [readable(walk.result) for walk in walks]
            body = b'{"answers":' + _encode(answers) if call.many else b'{"answer":' + _encode(answers[0])
            timing = ", ".join(f"{name};dur={took:.1f}" for name, took in walks[0].stages_ms.items())
            headers = {b"server-timing": timing.encode()} if timing and not call.many else None
            exchange.respond(b"".join([body, self._tail, exchange.request_id, b'"}']), headers=headers)
            TRACES.staged(exchange.request_id, self.id, exchange.arrived_s, walks[0].stages_ms)
            self.metrics.request_s.observe(time.monotonic() - exchange.arrived_s)

    # --- From coroutines ---

    async def answer(
        self, items: Sequence[Item], outputs: Sequence[str] = (), *, asked: Asked | None = None
    ) -> list[Result]:
        """Answer items, each going through the stages on its own: where stages are batched, together with the others.

        Raises what went wrong with the first that failed; the others are given up then.
        """
        return [walk.result for walk in await self.walk(items, outputs, asked or self.anyone())]

    def anyone(self) -> Asked:
        """For who brings no deadline, id or caller."""
        return Asked(request_id=b"-", deadline_s=time.monotonic() + self._deadline_s, caller=Caller("default", ""))

    async def walk(self, items: Sequence[Item], outputs: Sequence[str], asked: Asked) -> list[Walk]:
        """The answers with what each stage took."""
        limit = self.manifest.limits.queue_rows
        if self.items + len(items) > limit:
            raise Overloaded("too many requests go through the stages", expected=f"at most {limit}")
        self.items += len(items)
        try:
            walks = await _together([self._walk(item, outputs, asked) for item in items])
        finally:
            self.items -= len(items)
        self.metrics.rows += len(items)
        return walks

    async def _walk(self, item: Item, outputs: Sequence[str], asked: Asked) -> Walk:
        values = self.flow.begin(item)
        stages_ms: dict[str, float] = {}
        started_s = time.monotonic()
        try:
            for stage in self.flow.stages:
                if not self.flow.runs(stage, values):
                    continue
                begun_s = time.monotonic()
                answer = await self.ask(stage.name, self.flow.feed(stage, values), asked)
                self.flow.take(stage, values, answer)
                took_s = time.monotonic() - begun_s
                self.metrics.stage(stage.name, took_s)
                stages_ms[stage.name] = took_s * 1e3
        finally:
            slow = time.monotonic() - started_s > _WORTH_A_LINE_S
            _log.log(
                logging.INFO if slow else logging.DEBUG, "request %s: %s: %s",
                asked.request_id.decode(), self.id.name, spoken_ms(stages_ms),
            )  # fmt: skip
        answer = self.flow.answer(values, outputs, stages_ms)
        return Walk(result=Result(answer=answer, tensors={}, package=self.id), stages_ms=stages_ms)

    async def ask(self, name: str, item: Item, asked: Asked) -> Mapping[str, Any]:
        """What a stage gives for an item of its own. Raises its errors, which name the stage.

        Cancelling the task gives up what was asked; what has been decided stays so.
        """
        stage = self._stages[name]
        if time.monotonic() >= asked.deadline_s:
            self.metrics.drop("expired")
            raise DeadlineExceeded(where=stage.name)
        try:
            served = self.stage(stage.name)
            if isinstance(served, StagedModel):
                inner = (await served.walk([item], self.flow.asked[stage.name], asked))[0]
                return inner.result.answer
            return await ask(served, item, self.flow.asked[stage.name], asked.at(stage.name))
        except OnwardError as error:
            raise self.flow.told(stage, error) from None

    async def events(self, item: Item, asked: Asked) -> AsyncGenerator[Event, None]:
        """An item's whole way as events: the stages' own, each with its `stage`, and the answer at the end.

        Closing the generator gives up what was asked.
        """
        values = self.flow.begin(item)
        stages_ms: dict[str, float] = {}
        self.items += 1
        try:
            for stage in self.flow.stages:
                if not self.flow.runs(stage, values):
                    continue
                begun_s = time.monotonic()
                async with aclosing(self.stage_events(stage.name, self.flow.feed(stage, values), asked)) as stream:
                    async for event in stream:
                        if event.kind != "end":
                            yield replace(event, attributes={**event.attributes, "stage": stage.name})
                        elif event.result is not None:
                            self.flow.take(stage, values, event.result.answer)
                took_s = time.monotonic() - begun_s
                self.metrics.stage(stage.name, took_s)
                stages_ms[stage.name] = took_s * 1e3
            self.metrics.rows += 1
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise
        finally:
            self.items -= 1
        result = Result(answer=self.flow.answer(values, (), stages_ms), tensors={}, package=self.id)
        yield Event(kind="end", attributes={STAGES_MS: stages_ms}, result=result)

    async def stage_events(self, name: str, item: Item, asked: Asked) -> AsyncGenerator[Event, None]:
        """What one stage gives for an item of its own, piece by piece; see `ask`."""
        stage, served = self._stages[name], self.stage(name)
        if not isinstance(served, ServedModel) and not isinstance(served, StagedModel):
            try:
                async with aclosing(events(served, item, asked)) as stream:
                    async for event in stream:
                        yield event
            except OnwardError as error:
                raise self.flow.told(stage, error) from None
            return
        answer = await self.ask(name, item, asked)
        yield Event(kind="end", result=Result(answer=answer, tensors={}, package=served.id))

    async def close(self) -> None:
        """Finish what is on its way. The stages are not this model's to close."""
        while self._running or self.items:
            await asyncio.sleep(0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One item's way: the answer, and how long each stage took, in milliseconds, by its name."""

    result: Result
    stages_ms: Mapping[str, float]


class _Leaving:
    """Gives a request up when its client leaves; see `Abandonable`."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._task.cancel()


async def _together(walks: Sequence[Coroutine[Any, Any, Walk]]) -> list[Walk]:
    """Run them at the same time; where one fails, end the others and raise its error, with the item's place in it."""
    if len(walks) == 1:
        return [await walks[0]]
    tasks = [asyncio.ensure_future(walk) for walk in walks]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException as error:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        failed = [at for at, task in enumerate(tasks) if not task.cancelled() and task.exception() is error]
        if failed and isinstance(error, OnwardError):
            error.where = f"[{failed[0]}] {error.where}".rstrip()
        raise
