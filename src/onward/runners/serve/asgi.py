"""An exchange on ASGI's way: its answer becomes a Starlette response, and a client that leaves is seen to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from onward.execute.work import NEW
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.sent_events import SentEvents, sent_events
from onward.types import Event


class AsgiExchange(Exchange):
    """An exchange whose answer leaves through ASGI. The request's body has been read."""

    __slots__ = ("_request", "_response")

    def __init__(self, route: Route, request: Request) -> None:
        super().__init__(None, route, dict(request.headers.raw), request.url.query.encode(), True)  # type: ignore[arg-type]
        self.standing = NEW  # the connection is not known: room that is kept for others is not for this one
        self._request = request
        self._response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def answer(self) -> Response:
        """Start, and wait for the answer for as long as the client does. Raises `ClientDisconnect`."""
        self.start()
        if not self._response.done():
            leaving = asyncio.ensure_future(self._until_left())
            try:
                await asyncio.wait((self._response, leaving), return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not self._response.done():
                    self.abandon()
        if self.disconnected:
            raise ClientDisconnect
        return self._response.result()

    async def _until_left(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        """Hand the answer over."""
        if self._response.done():
            return
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in (headers or {}).items()}
        named["x-request-id"] = self.request_id.decode()
        self._response.set_result(Response(body, status, named, content_type.decode("latin-1")))

    def stream(self, events: AsyncGenerator[Event, None]) -> None:
        """Answer with events as they come."""
        self.response_complete = True
        self._response.set_result(SentEvents(sent_events(events, self.request_id), self.request_id))
