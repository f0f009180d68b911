"""One HTTP/1.1 connection of a client, and those to one place: a request's bytes out, its whole answer in.

As little work a request as can be, since the client often shares the machine with the server it measures. No redirect
is followed, and nothing is known of what the bodies hold.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

import httptools

from onward.errors import UsageError

NO_ANSWER = 0
"""The status of what was not answered: refused, cut off, or too late; the body then says which."""
_MOST_BYTES = 256 << 20
_CONNECT_S = 10.0


class Reply(NamedTuple):
    """An answer: its status, its body, and the time from sending until it was whole."""

    status: int
    body: bytes
    taken_s: float
    content_type: str = ""


Then: TypeAlias = Callable[[Reply], None]


class Place(NamedTuple):
    """Where requests go: a host and a port, with or without TLS, and a path in front of which nothing is put."""

    host: str
    port: int
    tls: bool
    path: str

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def place_of(url: str, *, where: str) -> Place:
    """Take an http:// or https:// URL apart. Raises `UsageError` naming `where` it was given."""
    expected = "http://HOST:PORT/PATH"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"not an address: {error}", where=where, expected=expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError("not an address", where=where, expected=expected, found=url[:80])
    if parts.username is not None or parts.password is not None:
        raise UsageError("a name and password in the address", where=where, expected="a header with them")
    target = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise UsageError("not a path", where=where, expected="visible ASCII characters", found=target[:80])
    tls = parts.scheme == "https"
    return Place(host=parts.hostname, port=port or (443 if tls else 80), tls=tls, path=target)


def message(place: Place, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A request as bytes. Raises `UsageError` for a header that would become two."""
    lines = [f"{method} {path or '/'} HTTP/1.1", f"Host: {place.authority}", f"Content-Length: {len(body)}"]
    for name, value in headers.items():
        if not f"{name}{value}".isprintable() or not name or ":" in name:
            raise UsageError("not a header", where=name[:80], expected="one line of printable characters")
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection, with one request at a time on it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._then: Then | None = None
        self._sent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.used = False
        self.closed = False
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._content_type = ""
        self._received = self._headed = self._framed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is written to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes, then: Then, *, timeout_s: float) -> None:
        """Send a request; `then` is called with its answer, or with what went wrong, exactly once."""
        self._then = then
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self._give_up, timeout_s)
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        self._received = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser found a header."""
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        """The parser has all headers."""
        self._headed = True

    def on_body(self, data: bytes) -> None:
        """The parser found a piece of the body."""
        self._body.append(data)
        self._size += len(data)
        if self._size > _MOST_BYTES:
            self._break(f"an answer of more than {_MOST_BYTES} bytes")

    def on_message_complete(self) -> None:
        """The answer is whole."""
        status = self._parser.get_status_code()
        if status < 200:  # informational: the answer itself is still to come
            self._body, self._headed = [], False
            return
        reply = Reply(status, b"".join(self._body), time.perf_counter() - self._sent_s, self._content_type)
        if self._parser.should_keep_alive():
            self._begin()
            self.used = True
        else:
            self.closed = True
            self._transport.close()
        self._answer(reply)

    def connection_lost(self, error: Exception | None) -> None:
        """The other side ended it: perhaps that was how the answer ends."""
        self.closed = True
        if self._then is None:
            self._client.forget(self)
        elif self._headed and not self._framed and error is None:
            taken_s = time.perf_counter() - self._sent_s
            self._answer(Reply(self._parser.get_status_code(), b"".join(self._body), taken_s, self._content_type))
        else:
            stale = self.used and not self._received
            self._fail(STALE if stale else f"the connection was cut{f': {error}' if error else ''}")

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self._transport.close()

    def _give_up(self, timeout_s: float) -> None:
        self._timer = None
        self._break(f"no answer within {timeout_s:g} s")

    def _break(self, reason: str) -> None:
        self.closed = True
        self._transport.abort()
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        self._answer(Reply(NO_ANSWER, reason.encode(), time.perf_counter() - self._sent_s))

    def _answer(self, reply: Reply) -> None:
        then, self._then = self._then, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if then is not None:
            then(reply)
            self._client.take_back(self)


STALE = "the connection had been closed"


class Client:
    """Connections to one place, kept and used again."""

    def __init__(self, place: Place, *, timeout_s: float) -> None:
        self.place = place
        self.timeout_s = timeout_s
        self.free: list[Connection] = []
        self._tls = ssl.create_default_context() if place.tls else None

    async def connect(self) -> Connection:
        """A new connection. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECT_S):
            _, made = await loop.create_connection(
                lambda: Connection(self), self.place.host, self.place.port, ssl=self._tls
            )
        return made

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for its answer; where there is none, that is the answer (`NO_ANSWER`)."""
        while True:
            reply, reused = await self._ask_once(request)
            # A server may close a connection that is idle, at the very moment that something is sent on it.
            if not (reused and reply.status == NO_ANSWER and reply.body == STALE.encode()):
                return reply

    async def _ask_once(self, request: bytes) -> tuple[Reply, bool]:
        reused = bool(self.free)
        try:
            connection = self.free.pop() if reused else await self.connect()
        except (OSError, TimeoutError) as error:
            return Reply(NO_ANSWER, f"no connection: {error or type(error).__name__}".encode(), 0.0), False
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def then(reply: Reply) -> None:
            if not answered.done():  # else the one who waited was cancelled
                answered.set_result(reply)

        connection.ask(request, then, timeout_s=self.timeout_s)
        return await answered, reused

    def take_back(self, connection: Connection) -> None:
        """A connection has nothing to do."""
        if not connection.closed:
            self.free.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection that waited was closed."""
        if connection in self.free:
            self.free.remove(connection)

    def close(self) -> None:
        """End all connections that wait."""
        for connection in self.free:
            connection.close()
        self.free.clear()
