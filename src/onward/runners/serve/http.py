"""The fast path: uvicorn's HTTP protocol, subclassed so that inference requests skip ASGI.

uvicorn keeps the sockets, parsing, TLS, limits, keep-alive and graceful shutdown. A POST whose raw path stands in the
route table becomes an `Exchange` here instead of an ASGI cycle: its body goes to a handler, whose answer is written in
one piece. Everything else falls through to the Starlette app. Knows nothing of models.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.errors import MalformedBody, OnwardError, Overloaded, TooLarge

_log = logging.getLogger("onward.serve")
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status != 499 else 'Client Closed Request'}\r\n".encode()
    for status in (*map(int, HTTPStatus), 499)
}
_request_prefix = os.urandom(4).hex().encode()
_request_numbers = itertools.count(1)
_KEEP_ALIVE_SWEEP_S = 1.0
# How long a refused body is read and thrown away, and how long shutdown waits for a request that is on its way.
_LINGER_S = 2.0
_LAST_CALL_S = 0.1

Headers: TypeAlias = Mapping[bytes, bytes]
"""A request's headers by their lower-case names."""
Handler: TypeAlias = "Callable[[Exchange], None]"


class Route:
    """What answers the requests for one path, and the largest body it takes. `wants` may leave a request to ASGI."""

    __slots__ = ("handler", "max_body_bytes", "wants")

    def __init__(
        self, handler: Handler, *, max_body_bytes: int, wants: Callable[[Headers], bool] | None = None
    ) -> None:
        self.handler = handler
        self.max_body_bytes = max_body_bytes
        self.wants = wants

    def become(self, other: Route) -> None:
        """Answer as the other route does, from now on."""
        self.handler, self.max_body_bytes, self.wants = other.handler, other.max_body_bytes, other.wants


Routes: TypeAlias = Mapping[bytes, Route]


def new_request_id() -> bytes:
    """An id unique to this request: a random part for the process and a running number."""
    return b"%b-%x" % (_request_prefix, next(_request_numbers))


def error_body(error: OnwardError, request_id: bytes) -> bytes:
    """An error as JSON: V2 clients read `error`, everyone may rely on `code`."""
    body = dict(error.as_dict())
    message = body.pop("message")
    return msgspec.json.encode({"error": message} | body | {"request_id": request_id.decode()})


def error_headers(error: OnwardError) -> Headers | None:
    """The headers that go with an error: when to come back, if the queue was full."""
    if not isinstance(error, Overloaded):
        return None
    after_s = error.retry_after_s
    whole_s = max(1, int(after_s + 0.999))
    return {b"retry-after": b"%d" % whole_s, b"x-onward-retry-after-ms": b"%d" % max(1, round(after_s * 1000))}


class Abandonable(Protocol):
    """Work that may be given up when its client leaves."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        ...


class _Unused:
    """uvicorn wakes an ASGI cycle through an event; an exchange has no one to wake."""

    def set(self) -> None:
        """Nothing waits."""


class Exchange:
    """One request and its answer. Has the attributes of uvicorn's cycle that its protocol looks at."""

    __slots__ = (
        "arrived_s", "body", "disconnected", "expects_continue", "headers", "keep_alive", "more_body", "oversize",
        "protocol", "query", "request_id", "response_complete", "route", "started", "work",
    )  # fmt: skip
    message_event = _Unused()

    def __init__(self, protocol: FastProtocol, route: Route, headers: Headers, query: bytes, keep_alive: bool) -> None:
        self.protocol = protocol
        self.route = route
        self.headers = headers
        self.query = query
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.body: bytes | bytearray = b""
        self.oversize = 0
        self.more_body = True
        self.started = False
        self.response_complete = False
        self.disconnected = False
        self.work: Abandonable | None = None
        self.request_id = new_request_id()
        self.arrived_s = 0.0

    def receive(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self.oversize:
            return
        if not self.body:
            self.body = data
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += data
        if len(self.body) > self.route.max_body_bytes:
            self.oversize = len(self.body)
            self.body = b""
            if self.protocol.active is self:
                self.refuse()

    def refuse(self) -> None:
        """The body is too large: answer now and close, since the rest of it is not going to be kept."""
        self.keep_alive = False
        limit = self.route.max_body_bytes
        self.fail(TooLarge(where="body", expected=f"at most {limit} bytes", found=f"{self.oversize} bytes or more"))

    def start(self) -> None:
        """The whole body is here and it is this request's turn."""
        self.started = True
        self.arrived_s = time.monotonic()
        try:
            self.route.handler(self)
        except OnwardError as error:
            self.fail(error)
        except Exception as error:
            self.crash(error)

    def crash(self, error: Exception) -> None:
        """Answer that it is our fault; the log says more."""
        _log.error("request %s failed", self.request_id.decode(), exc_info=error)
        self.fail(OnwardError("internal error; the server's log has the details under this request id"))

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        """Write the answer; does nothing when the client has gone or has its answer already."""
        if self.response_complete or self.disconnected:
            return
        protocol = self.protocol
        transport = protocol.transport
        self.response_complete = True
        self.work = None
        if status == 200 and headers is None and self.keep_alive:
            transport.write(
                b"HTTP/1.1 200 OK\r\n%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
                % (protocol.common_headers(), content_type, len(body), self.request_id, body)
            )
            protocol.on_response_complete()
            return
        head = [
            _STATUS_LINES[status],
            protocol.common_headers(),
            b"content-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            % (content_type, len(body), self.request_id),
        ]
        for name, value in (headers or {}).items():
            head.append(b"%b: %b\r\n" % (name, value))
        head.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        head.append(body)
        transport.write(b"".join(head))
        if self.oversize:
            protocol.linger()
        elif not self.keep_alive:
            transport.close()
        protocol.on_response_complete()

    def fail(self, error: OnwardError) -> None:
        """Answer with an error."""
        self.respond(error_body(error, self.request_id), status=error.status, headers=error_headers(error))

    def abandon(self) -> None:
        """The client has gone: nothing computed for it any more is of use."""
        self.disconnected = True
        if self.work is not None:
            self.work.abandon()
            self.work = None


class FastProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a short way for the paths in `routes` (set on a subclass by `protocol_for`)."""

    routes: ClassVar[Routes] = {}

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._idle_since_s: float | None = time.monotonic()
        self.active: Exchange | None = None
        self._lingering = False
        self._last_call = False
        self._common_headers_of: Any = None
        self._common_headers = b""

    def connection_made(self, transport: Any) -> None:
        """uvicorn's, and one timer for the whole life of the connection instead of one a request."""
        super().connection_made(transport)
        self._sweep()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: give up what it waits for."""
        active, self.active = self.active, None
        super().connection_lost(exc)
        if active is not None and not active.response_complete:
            active.abandon()
        self.pipeline.clear()

    def _sweep(self) -> None:
        """Close the connection if it has been idle for the keep-alive time; else look again in a second."""
        if self.transport.is_closing():
            return
        idle_since_s = self._idle_since_s
        if idle_since_s is not None and time.monotonic() - idle_since_s >= self.timeout_keep_alive:
            self.transport.close()
        else:
            self.loop.call_later(_KEEP_ALIVE_SWEEP_S, self._sweep)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def on_message_begin(self) -> None:
        """Only what every request needs; the ASGI scope is made where it is needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """A hit in the table becomes an exchange; a miss goes uvicorn's way."""
        if self._lingering:
            return
        path, query = self.url, b""
        if b"?" in path:
            path, _, query = path.partition(b"?")
        route = self.routes.get(path)
        parser = self.parser
        if route is None or parser.get_method() != b"POST" or parser.should_upgrade():
            self._leave_to_asgi()
            return
        headers = dict(self.headers)
        if route.wants is not None and not route.wants(headers):
            self._leave_to_asgi()
            return
        waits = self.cycle is not None and not self.cycle.response_complete
        keep_alive = parser.should_keep_alive() and parser.get_http_version() != "1.0"
        exchange = Exchange(self, route, headers, query, keep_alive and not self._last_call)
        self.cycle: Any = exchange
        length = headers.get(b"content-length")
        if length is not None and int(length) > route.max_body_bytes:
            exchange.oversize = int(length)
        if waits:
            # Pipelined: answers leave in the order of the requests.
            exchange.expects_continue = self.expect_100_continue
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, None))  # type: ignore[arg-type]
            return
        self.active = exchange
        if exchange.oversize:
            exchange.refuse()
        elif self.expect_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _leave_to_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url = url
        self.headers.extend(headers)
        self.expect_100_continue = expects
        super().on_headers_complete()
        if self._last_call:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body of the request that is being read."""
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.receive(body)

    def on_message_complete(self) -> None:
        """The request has been read."""
        cycle = self.cycle
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            if cycle is self.active:
                cycle.start()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """The next pipelined request's turn (uvicorn calls this for both kinds)."""
        if not isinstance(cycle, Exchange):
            super()._start_asgi_task(cycle, app)
            return
        self.active = cycle
        if cycle.oversize:
            self.loop.call_soon(cycle.refuse)
        elif not cycle.more_body:
            # Through the loop: a thousand pipelined requests must not become a thousand frames.
            self.loop.call_soon(cycle.start)
        elif cycle.expects_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_response_complete(self) -> None:
        """An answer has been written, by either path."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            if not self.pipeline:  # its body may be still to come; before that, more would only pile up
                self._read_on()
            self._start_asgi_task(cycle, app)
        else:
            self._read_on()
            self.active = None
            self._idle_since_s = time.monotonic()

    def _read_on(self) -> None:
        """Read again, unless the client first has to read its answers: then `resume_writing` will."""
        if self.flow.write_paused:
            self.flow.read_paused = False
        else:
            self.flow.resume_reading()

    def linger(self) -> None:
        """The last answer is written although the client still sends. Closing now would reset the connection, and the
        answer with it: close our half, and throw away what comes for a while."""
        self._lingering = True
        transport = self.transport
        if transport.can_write_eof():
            transport.write_eof()
        self.loop.call_later(_LINGER_S, transport.close)

    def shutdown(self) -> None:
        """Close after the answer that is due; an idle connection a little later, for what may be on its way on it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        self._last_call = True
        self.loop.call_later(_LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more requests from it until it does."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if not self.transport.is_closing() and not self.flow.read_paused:
            self.transport.resume_reading()

    def common_headers(self) -> bytes:
        """The headers that uvicorn puts on every answer (the date, remade once a second)."""
        default = self.server_state.default_headers
        if default is not self._common_headers_of:
            self._common_headers_of = default
            self._common_headers = b"".join(b"%b: %b\r\n" % header for header in default)
        return self._common_headers


def protocol_for(routes: Routes) -> type[FastProtocol]:
    """The protocol class for one server: uvicorn makes an instance of it a connection."""
    return type("RoutedProtocol", (FastProtocol,), {"routes": routes})


def timeout_s(value: bytes, limit_s: float) -> float:
    """The time a caller gives, from `x-onward-timeout-ms`, at most the package's own. Raises `MalformedBody`."""
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = -1.0
    if not milliseconds > 0:
        raise MalformedBody(where="x-onward-timeout-ms", expected="milliseconds above 0", found=value.decode("latin-1"))
    return min(milliseconds / 1000, limit_s)
