"""Asking one served model on behalf of a request that goes through several: in the way in which that model answers.

A batched model in its lane, together with everybody else's requests; one that decides or talks as a request of its own,
recorded as any other; one that streams as a stream, taken whole. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from onward.errors import OnwardError
from onward.runners.serve.caller import Caller
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.served import ServedModel
from onward.types import Item

if TYPE_CHECKING:
    from onward.runners.serve.models import AnyServed

_decode = msgspec.json.Decoder().decode
_MOST_KEY_BYTES = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """On whose behalf a model is asked, and until when: `deadline_s` is a time of the monotonic clock."""

    request_id: bytes
    deadline_s: float
    caller: Caller

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
        if self.caller.idempotency_key:
            headers[b"idempotency-key"] = self.caller.idempotency_key.encode()
        return headers


async def ask(served: AnyServed, item: Item, outputs: Sequence[str], asked: Asked) -> Mapping[str, Any]:
    """What a served model gives for an item, as a stage gives it: see `onward.package.stages.fields_of`.

    Raises its errors. Cancelling the task gives the request up; what was decided stays so.
    """
    if isinstance(served, ServedModel):
        if served.decider is not None or served.entities is not None:
            return await _decided(served, item, outputs, asked)
        return (await served.answer([item], outputs, deadline_s=asked.deadline_s))[0].answer
    raise NotImplementedError


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
