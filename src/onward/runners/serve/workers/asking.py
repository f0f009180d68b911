"""A request of the admin port that another process answers: as frames on the way, as ASGI at both ends."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onward.errors import OnwardError, TooLarge
from onward.runners.serve.app import error_response
from onward.runners.serve.workers.frames import Ask, Measure, Told

STATISTICS = re.compile(r"/v2/models/(?:[^/]+/(?:versions/[^/]+/)?)?stats")
_BODY_BYTES = 1 << 20
_OF_A_CONNECTION = frozenset({b"connection", b"transfer-encoding", b"content-length", b"date"})


async def ask_of(request: Request) -> Ask:
    """A request as a frame. Raises `TooLarge`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            raise TooLarge(where="body", expected=f"at most {_BODY_BYTES} bytes", found="more")
    return Ask(
        method=request.method, path=request.url.path, query=request.url.query.encode(),
        headers=tuple(request.headers.raw), body=bytes(body),
    )  # fmt: skip


def response_of(told: Told) -> Response:
    """An answer out of its frame."""
    response = Response(told.body, told.status)
    own = [(name, value) for name, value in response.raw_headers if name == b"content-length"]
    response.raw_headers = [*told.headers, *own]
    return response


async def answer(app: ASGIApp, ask: Ask) -> Told:
    """What an application answers to a request that came as a frame."""
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": ask.method, "scheme": "http",
        "path": ask.path, "raw_path": ask.path.encode(), "query_string": ask.query, "root_path": "",
        "headers": list(ask.headers), "client": None, "server": None,
    }  # fmt: skip
    status, body = 500, bytearray()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    unread = True

    async def receive() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": ask.body, "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = tuple((name, value) for name, value in message["headers"] if name not in _OF_A_CONNECTION)
        elif message["type"] == "http.response.body":
            body.extend(message.get("body", b""))

    await app(scope, receive, send)
    return Told(status=status, headers=headers, body=bytes(body))


class Together:
    """A worker's application, but for what is counted: that is of all workers, whichever of them is asked."""

    def __init__(self, app: ASGIApp, ask_all: Callable[[Ask | Measure], Awaitable[Told]]) -> None:
        self._app = app
        self._ask_all = ask_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        asked: Ask | Measure | None = None
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            if scope["path"] == "/metrics":
                asked = Measure()
            elif STATISTICS.fullmatch(scope["path"]):
                asked = Ask(method="GET", path=scope["path"], query=b"", headers=((b"host", b"localhost"),), body=b"")
        if asked is None:
            await self._app(scope, receive, send)
            return
        try:
            response = response_of(await self._ask_all(asked))
        except OnwardError as error:
            response = error_response(error)
        await response(scope, receive, send)
