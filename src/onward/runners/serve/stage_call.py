"""Asking one served model on behalf of a request that goes through several: in the way in which that model answers.

A batched model in its lane, together with everybody else's requests; one that decides or talks as a request of its own,
recorded as any other; one that streams as a stream, taken whole. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from onward.errors import ExecutionError, OnwardError
from onward.execute.scheduler import HIGH, LOW, NORMAL
from onward.runners.serve.caller import Caller
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.served import ServedModel
from onward.types import Event, Item, Result

if TYPE_CHECKING:
    from onward.runners.serve.models import AnyServed

_decode = msgspec.json.Decoder().decode
_MOST_KEY_BYTES = 255


class Running(Protocol):
    """A stream under way."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Its events."""
        ...

    def cancel(self) -> None:
        """End it; idempotent."""
        ...


class Prepares(Protocol):
    """A streaming package's pipeline."""

    def prepare(self, item: Item) -> Any:
        """The item in the engine's form. Raises `InputError`."""
        ...


class Streams(Protocol):
    """A served model that streams."""

    @property
    def pipeline(self) -> Prepares:
        """Its package's pipeline."""
        ...

    def admit(self, prepared: Any, *, deadline_s: float) -> Running:
        """Begin a stream. Raises `Overloaded`, `TooLarge` or `InputError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """On whose behalf a model is asked, and until when: `deadline_s` is a time of the monotonic clock."""

    request_id: bytes
    deadline_s: float
    caller: Caller
    priority: int = NORMAL

    def at(self, stage: str) -> Asked:
        """The same for one stage: an idempotency key stands for one request of one model."""
        key = self.caller.idempotency_key
        if not key:
            return self
        key = f"{key}:{stage}"
        if len(key.encode()) > _MOST_KEY_BYTES or not key.isascii() or " " in key:
            key = hashlib.sha256(key.encode()).hexdigest()
        return replace(self, caller=self.caller._replace(idempotency_key=key))

    def headers(self) -> Headers:
        """What the request of a model would have brought."""
        left_ms = max((self.deadline_s - time.monotonic()) * 1e3, 1e-3)
        headers = {b"x-onward-tenant": self.caller.tenant.encode(), b"x-onward-timeout-ms": b"%f" % left_ms}
        if self.priority != NORMAL:
            headers[b"x-onward-priority"] = {HIGH: b"high", LOW: b"low"}[self.priority]
        if self.caller.idempotency_key:
            headers[b"idempotency-key"] = self.caller.idempotency_key.encode()
        return headers


async def ask(served: AnyServed, item: Item, outputs: Sequence[str], asked: Asked) -> Mapping[str, Any]:
    """What a served model gives for an item, as a stage gives it: see `onward.package.stages.fields_of`.

    Raises its errors. Cancelling the task gives the request up; what was decided stays so.
    """
    if not isinstance(served, ServedModel):
        async with aclosing(events(served, item, asked)) as stream:
            async for event in stream:
                if event.kind == "end" and event.result is not None:
                    return event.result.answer
        raise ExecutionError("the stream ended without an answer")
    if served.decider is not None or served.entities is not None:
        return await _decided(served, item, outputs, asked)
    results = await served.answer([item], outputs, deadline_s=asked.deadline_s, priority=asked.priority)
    return results[0].answer


async def events(served: AnyServed, item: Item, asked: Asked) -> AsyncGenerator[Event, None]:
    """What a served model gives for an item, piece by piece, and the whole at the end.

    A model that does not stream has only the end. Closing the generator ends the work behind it.
    """
    if isinstance(served, ServedModel):
        answer = await ask(served, item, (), asked)
        yield Event(kind="end", result=Result(answer=answer, tensors={}, package=served.id))
        return
    streamed = cast(Streams, served)
    prepared = await asyncio.to_thread(streamed.pipeline.prepare, item)
    running = streamed.admit(prepared, deadline_s=asked.deadline_s)
    try:
        async for event in running:
            yield event
    finally:
        running.cancel()


async def _decided(served: ServedModel, item: Item, outputs: Sequence[str], asked: Asked) -> Mapping[str, Any]:
    """As a request of its own: profile, model, decision and reply as everybody else's."""
    exchange = StageExchange(served, item, outputs, asked)
    body = await exchange.told()
    decision = body.get("decision") or {}
    decided = {name: decision[name] for name in ("outcome", "decision_id") if name in decision}
    return {**(body.get("answer") or body), **decided}


class StageExchange(Exchange):
    """An exchange without a connection: its answer goes to the request that asks."""

    __slots__ = ("_answered", "_error")

    def __init__(self, served: ServedModel, item: Item, outputs: Sequence[str], asked: Asked) -> None:
        route = Route(lambda exchange: served.handle_form(exchange, item), max_body_bytes=1)
        query = f"outputs={','.join(outputs)}".encode() if outputs else b""
        super().__init__(None, route, asked.headers(), query, True)  # type: ignore[arg-type]
        self.request_id = asked.request_id
        self.body = max((value for value in item.values() if isinstance(value, bytes)), key=len, default=b"")
        self._answered: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._error: OnwardError | None = None

    async def told(self) -> dict[str, Any]:
        """The answer. Raises the error that there is instead."""
        self.start()
        try:
            return await self._answered
        except asyncio.CancelledError:
            self.abandon()
            raise

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        """Hand the answer over."""
        if self.response_complete or self.disconnected or self._answered.done():
            return
        self.response_complete = True
        self.work = None
        if self._error is not None and status >= 400:
            self._answered.set_exception(self._error)
        else:
            self._answered.set_result(_decode(body))

    def fail(self, error: OnwardError) -> None:
        """Hand the error over, unless a policy decides without an answer."""
        self._error = error
        super().fail(error)
