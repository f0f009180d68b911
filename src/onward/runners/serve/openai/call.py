"""One request to the OpenAI API and its answer over plain ASGI: a body in one piece, or a stream as it comes.

Below Starlette's responses, whose streams cost more a token than some models take for it. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from onward.errors import OnwardError
from onward.execute.scheduler import NORMAL
from onward.runners.serve.body import read_body
from onward.runners.serve.exchange import new_request_id, priority_of, timeout_s
from onward.runners.serve.openai.errors import tell

_JSON = b"application/json"


class Call:
    """A request that is being answered. Once `begun`, its status has been sent, and an error can only be an event."""

    __slots__ = ("_receive", "_send", "arrived_s", "begun", "ended", "gone", "request", "request_id")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.request = Request(scope, receive)
        self._receive = receive
        self._send = send
        self.request_id = new_request_id().decode()
        self.arrived_s = time.monotonic()
        self.begun = self.ended = self.gone = False

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises `TooLarge` or `MalformedBody`."""
        return await read_body(self.request, limit)

    def deadline_s(self, limit_s: float) -> float:
        """When the answer is of no use any more, on the monotonic clock: as the caller says, within the package's."""
        value = self.request.headers.get("x-onward-timeout-ms")
        return self.arrived_s + (limit_s if value is None else timeout_s(value.encode("latin-1"), limit_s))

    def priority(self) -> int:
        """Which of the waiting requests it goes before. Raises `MalformedBody`."""
        value = self.request.headers.get("x-onward-priority")
        return NORMAL if value is None else priority_of(value.encode("latin-1"))

    async def respond(
        self, body: bytes, content_type: bytes = _JSON, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send the whole answer."""
        await self._start(content_type, status, {"content-length": str(len(body))} | dict(headers or {}))
        self.ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, error: OnwardError) -> None:
        """Send an error as the answer."""
        status, body, headers = tell(error)
        await self.respond(body, status=status, headers=headers)

    async def begin(self, content_type: bytes) -> None:
        """Begin a stream."""
        await self._start(content_type, 200, {"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def write(self, data: bytes) -> None:
        """Send a piece of the stream; waits where the client is slow to read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """End the stream, with a last piece."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": data})

    def abort(self) -> None:
        """Leave the stream without its end, which the client takes for what it is: a connection that broke."""
        self.ended = True

    async def _start(self, content_type: bytes, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        pairs = [(b"content-type", content_type), (b"x-request-id", self.request_id.encode())]
        pairs += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    @contextlib.asynccontextmanager
    async def attended(self) -> AsyncIterator[None]:
        """Work for a client that is there: should it leave, the task is cancelled, and `gone` says why.

        To be entered once the body has been read.
        """
        task = asyncio.current_task()
        assert task is not None

        async def watch() -> None:
            message = await self._receive()
            while message["type"] != "http.disconnect":
                message = await self._receive()
            if not self.ended:
                self.gone = True
                task.cancel()

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
