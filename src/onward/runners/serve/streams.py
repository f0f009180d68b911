"""A served package that streams: what is admitted, who runs and who waits, and what all of them cost in tokens.

Of each request the tokens are counted that it reads and, at most, writes. Where those of all requests together are more
than the manifest's `queue_tokens`, the next one is refused. As many run as the engine has slots; the others wait in
their order. Lives on the event loop; the engine is driven by one thread a stream.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeAlias

import msgspec

from onward.errors import Cancelled, DeadlineExceeded, ExecutionError, InputError, OnwardError, Overloaded, UsageError
from onward.execute.backend import Admission
from onward.generate.answer import readable
from onward.prepare.transcription import TOKENS_A_SECOND, Sound
from onward.runners.serve import plain
from onward.runners.serve.exchange import Exchange, timeout_s
from onward.runners.serve.running import Running, Wakes
from onward.runners.serve.sent_events import is_asked_for
from onward.streaming import StreamingPipeline, Work
from onward.telemetry import ModelMetrics, StreamMetrics
from onward.types import Event, Item, Prompt, Result

Asked: TypeAlias = Any
"""What a pipeline admits: `Work`, or a `Prompt` or `Speech` for the engine itself."""
_encode = msgspec.json.Encoder().encode
_CHARACTERS_A_TOKEN = 4
_RETRY_AFTER_S = 1.0


class StreamedModel:
    """A package that streams, as the server serves it. Made and used on the event loop."""

    decider = None
    entities = None
    speed = None

    def __init__(self, pipeline: StreamingPipeline, pool: Executor) -> None:
        """Items are prepared and counted on `pool`."""
        self.id = pipeline.package.id
        self.pipeline = pipeline
        self.manifest = pipeline.manifest
        self.signature = pipeline.signature
        self.metrics = ModelMetrics(self.id.name, self.id.version)
        self.stream_metrics = StreamMetrics(self.id.name, self.id.version)
        self._pool = pool
        self._slots = ThreadPoolExecutor(self.manifest.execute.slots, thread_name_prefix=f"onward-{self.id.name}")
        self._wakes = Wakes()
        self._streams: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Task[None]] = set()
        self._deadline_s = self.manifest.limits.deadline_ms / 1000
        self._tail = b',"package":%b,"version":%b,"request_id":"' % (_encode(self.id.name), _encode(self.id.version))

    def admit(self, prepared: Asked, *, deadline_s: float) -> Running:
        """Begin a stream. Raises `Overloaded`; what is wrong with the request itself the stream raises first of all."""
        tokens = _estimate(prepared)
        limit = self.manifest.limits.queue_tokens
        if self.stream_metrics.queued_tokens + tokens > limit and self._streams:
            self.metrics.drop("queue_full")
            raise Overloaded(
                "too many tokens wait to be read and written", where=self.id.name, expected=f"at most {limit}",
                found=f"{self.stream_metrics.queued_tokens} and {tokens} of this request",
                retry_after_s=_RETRY_AFTER_S,
            )  # fmt: skip
        timing = _Timing(self.stream_metrics)
        running = Running(deadline_s, timing.read, self._wakes)
        timing.arrived_s = running.arrived_s
        self.stream_metrics.queued_tokens += tokens
        task = asyncio.get_running_loop().create_task(self._run(running, prepared, tokens))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)
        return running

    async def _run(self, running: Running, prepared: Asked, tokens: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            try:
                admission = await loop.run_in_executor(self._pool, self.pipeline.admit, prepared)
            except Exception as error:
                running.end(error)
                return
            exact = _tokens(admission)
            self.stream_metrics.queued_tokens += exact - tokens
            tokens = exact
            running.admit()
            slot = self._slots.submit(self._drive, running, prepared, loop)
            await running.finished.wait()
            slot.cancel()
        finally:
            self.stream_metrics.queued_tokens -= tokens

    def _drive(self, running: Running, prepared: Asked, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread of a slot."""
        loop.call_soon_threadsafe(self._count, 1)
        try:
            running.drive(lambda token, tell: self.pipeline.drive(prepared, token, tell))
        finally:
            loop.call_soon_threadsafe(self._count, -1)

    def _count(self, more: int) -> None:
        self.stream_metrics.running += more

    # --- HTTP ---

    def handle_infer(self, exchange: Exchange) -> None:
        """`POST /v2/models/…/infer`: there are no tensors to infer on."""
        self.metrics.fail(UsageError.code)
        raise UsageError("a package that streams has no tensors", expected=f"POST /models/{self.id.name}")

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
        streams = is_asked_for(exchange.headers)
        if streams and many:
            raise InputError("events are of one item", expected="an object", found="a list")
        given = exchange.headers.get(b"x-onward-timeout-ms")
        within_s = self._deadline_s if given is None else timeout_s(given, self._deadline_s)
        deadline_s = exchange.arrived_s + within_s
        if exchange.disconnected:
            self.metrics.drop("cancelled")
            return
        respond = self._stream if streams else self._respond
        task = asyncio.get_running_loop().create_task(self._answered(exchange, respond(exchange, call, deadline_s)))
        exchange.work = _Leaving(task)
        exchange.body = b""
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _answered(self, exchange: Exchange, response: Any) -> None:
        try:
            await response
        except (asyncio.CancelledError, Cancelled):
            self.metrics.drop("cancelled")
        except DeadlineExceeded as error:
            self.metrics.drop("expired")
            exchange.fail(error)
        except OnwardError as error:
            self.metrics.fail(error.code)
            exchange.fail(error)
        except Exception as error:  # a fault of ours; nobody else would answer
            self.metrics.fail(OnwardError.code)
            exchange.crash(error)

    async def _respond(self, exchange: Exchange, call: plain.Call, deadline_s: float) -> None:
        results = await self.answer(call.items, call.outputs, deadline_s=deadline_s)
        answers = [readable(result) for result in results]
        body = b'{"answers":' + _encode(answers) if call.many else b'{"answer":' + _encode(answers[0])
        exchange.respond(b"".join([body, self._tail, exchange.request_id, b'"}']))
        self.metrics.request_s.observe(time.monotonic() - exchange.arrived_s)

    async def _stream(self, exchange: Exchange, call: plain.Call, deadline_s: float) -> None:
        """Answer with events. What is wrong with the request is told before the first: as a status."""
        work = await self._prepared(call.items[0], call.outputs)
        running = self.admit(work, deadline_s=deadline_s)
        try:
            await running.admitted()
        except BaseException:
            running.cancel()
            raise
        exchange.stream(self._events(exchange, running))

    async def _events(self, exchange: Exchange, running: Running) -> AsyncGenerator[Event, None]:
        try:
            async for event in running:
                yield event
            self.metrics.rows += 1
            self.metrics.request_s.observe(time.monotonic() - exchange.arrived_s)
        except OnwardError as error:
            self.metrics.fail(error.code)
            raise
        finally:
            running.cancel()

    # --- From coroutines ---

    async def answer(
        self, items: Sequence[Item], outputs: Sequence[str] = (), *, deadline_s: float | None = None
    ) -> list[Result]:
        """Answer items, whole, side by side. Raises what went wrong with the first that failed; the others end then.

        `deadline_s` is a time of the monotonic clock.
        """
        until_s = time.monotonic() + self._deadline_s if deadline_s is None else deadline_s
        work = [await self._prepared(item, outputs, at if len(items) > 1 else None) for at, item in enumerate(items)]
        streams: list[Running] = []
        try:
            for one in work:
                streams.append(self.admit(one, deadline_s=until_s))
            results = [await _whole(running) for running in streams]
        finally:
            for running in streams:
                running.cancel()
        self.metrics.rows += len(items)
        return results

    async def _prepared(self, item: Item, outputs: Sequence[str], at: int | None = None) -> Work:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self.pipeline.prepare, item, outputs)
        except OnwardError as error:
            if at is not None:
                error.where = f"[{at}] {error.where}".rstrip()
            raise

    async def close(self) -> None:
        """Finish what is under way, then free the engine."""
        while self._streams or self._requests:
            await asyncio.sleep(0.005)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._slots.shutdown)
        await loop.run_in_executor(None, self.pipeline.close)


async def _whole(running: Running) -> Result:
    async for event in running:
        if event.kind == "end" and event.result is not None:
            return event.result
    raise ExecutionError("the engine ended without an answer")


def _estimate(prepared: Asked) -> int:
    """About how many tokens a request costs, known at once; they are counted exactly before it runs."""
    asked = prepared.asked if isinstance(prepared, Work) else prepared
    if isinstance(asked, Sound):
        return math.ceil(asked.audio_s * TOKENS_A_SECOND)
    if not isinstance(asked, Prompt):
        return len(asked.text)
    characters = len(asked.text) + sum(len(str(message.get("content") or "")) for message in asked.messages)
    return characters // _CHARACTERS_A_TOKEN + asked.sampling.max_tokens


def _tokens(admission: Admission) -> int:
    return admission.prompt_tokens + admission.max_new_tokens


class _Timing:
    """Measures one stream as it is read: first token, gaps, and at the end what it cost."""

    def __init__(self, metrics: StreamMetrics) -> None:
        self._metrics = metrics
        self.arrived_s = 0.0
        self._before_s = 0.0

    def read(self, event: Event, made_s: float) -> None:
        if event.kind in ("delta", "blob"):
            if self._before_s:
                self._metrics.token_s.observe(made_s - self._before_s)
            else:
                self._metrics.first_s.observe(made_s - self.arrived_s)
            self._before_s = made_s
        elif event.kind == "end":
            answer = event.attributes.get("answer", {})
            self._metrics.prompt_tokens += answer.get("prompt_tokens", 0)
            self._metrics.generated_tokens += answer.get("completion_tokens", 0)
            self._metrics.cached_tokens += answer.get("cached_tokens", 0)


class _Leaving:
    """Gives a request up when its client leaves; see `Abandonable`."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._task.cancel()
