"""The fast path: uvicorn's HTTP protocol, subclassed so that inference requests skip ASGI.

uvicorn keeps the sockets, parsing, TLS, limits, keep-alive and graceful shutdown. A POST whose raw path stands in the
route table becomes an `Exchange` here instead of an ASGI cycle: its body goes to a handler, whose answer is written in
one piece. Everything else falls through to the Starlette app. Knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.errors import TooLarge
from onward.runners.serve.exchange import Exchange, Headers, Route, error_body, new_request_id

_KEEP_ALIVE_SWEEP_S = 1.0
_END_OF_HEAD = b"\r\n\r\n"
_MAX_HEADS = 1024
_MAX_HEAD_BYTES = 2048
# The largest head that is read, and how long a client may be silent in the middle of a request.
_HEAD_LIMIT_BYTES = 64 << 10
_STALLED_S = 30.0
# How long a refused body is read and thrown away, and how long shutdown waits for a request that is on its way.
_LINGER_S = 2.0
_LAST_CALL_S = 0.1

Routes: TypeAlias = Mapping[bytes, Route]


class Head(NamedTuple):
    """The head of a whole request as the parser read it once: the same bytes mean the same again."""

    path: bytes
    query: bytes
    headers: Headers
    length: int


class FastProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a short way for the paths in `routes` (set on a subclass by `protocol_for`)."""

    routes: ClassVar[Routes] = {}
    heads: ClassVar[dict[bytes, Head]] = {}

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._idle_since_s: float | None = time.monotonic()
        self.active: Exchange | None = None
        self._lingering = False
        self._last_call = False
        self._between_messages = True
        self._one_piece: bytes | None = None
        self._heard_s = time.monotonic()
        self._piece_bytes = 0
        self._head_bytes = 0
        self._in_head = False
        self._upgraded = False
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
        """Close the connection if it has been idle for the keep-alive time, or silent in the middle of a request; else
        look again in a second."""
        if self.transport.is_closing() or self._upgraded:
            return
        now = time.monotonic()
        idle_since_s = self._idle_since_s
        if self.flow.read_paused or self.flow.write_paused:
            self._heard_s = now  # it is we who do not listen
        cycle = self.cycle
        stalled = (
            idle_since_s is None
            and now - self._heard_s >= _STALLED_S
            and (cycle is None or cycle.response_complete or cycle.more_body)
        )
        if stalled or (idle_since_s is not None and now - idle_since_s >= self.timeout_keep_alive):
            self.transport.close()
        else:
            self.loop.call_later(_KEEP_ALIVE_SWEEP_S, self._sweep)

    def data_received(self, data: bytes) -> None:
        """uvicorn's, but a request in one piece whose head has been parsed before goes straight to its handler.

        Clients repeat their heads to the byte, so that parsing them again, a call for every header, would be most of
        the work of a small request.
        """
        self._one_piece = None
        if self._between_messages and (self.cycle is None or self.cycle.response_complete):
            start = data.find(_END_OF_HEAD, 0, _MAX_HEAD_BYTES) + 4
            head = self.heads.get(data[:start])
            if head is None:
                self._one_piece = data
            elif len(data) - start == head.length and not (self._last_call or self._lingering):
                route = self.routes.get(head.path)
                if route is not None and head.length <= route.max_body_bytes:
                    self._idle_since_s = None
                    exchange = Exchange(self, route, head.headers, head.query, True)
                    exchange.body = data[start:]
                    exchange.more_body = False
                    self.cycle: Any = exchange
                    self.active = exchange
                    exchange.start()
                    return
        if self._lingering:
            return
        self._heard_s = time.monotonic()
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_LIMIT_BYTES and not self.transport.is_closing():
                self._refuse_head()

    def handle_websocket_upgrade(self) -> None:
        """uvicorn's: another protocol has the connection from now on, and our timer leaves it alone."""
        if self.cycle is not None and not self.cycle.response_complete:  # pipelined: the answer that is due ends it
            self._lingering = True
            self.cycle.keep_alive = False
            return
        self._upgraded = True
        super().handle_websocket_upgrade()

    def _refuse_head(self) -> None:
        """The head is too large: answer, unless another answer is due first, and close."""
        self._in_head = False
        if self.cycle is not None and not self.cycle.response_complete:
            self._lingering = True
            self.transport.close()
            return
        request_id = new_request_id()
        expected = f"at most {_HEAD_LIMIT_BYTES} bytes"
        body = error_body(TooLarge("the head of the request is too large", where="head", expected=expected), request_id)
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\n%bcontent-type: application/json\r\n"
            b"content-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n%b"
            % (self.common_headers(), len(body), request_id, body)
        )
        self.linger()

    def _remember_head(self, exchange: Exchange) -> None:
        """Keep the head of a request that came in one piece, if its bytes alone say what it means."""
        data, self._one_piece = self._one_piece, None
        headers = exchange.headers
        length = headers.get(b"content-length")
        if data is None or length is None or b"transfer-encoding" in headers or not exchange.keep_alive:
            return
        if b"idempotency-key" in headers:  # another one each time: it would only push others out
            return
        start = data.find(_END_OF_HEAD, 0, _MAX_HEAD_BYTES) + 4
        if start < 4 or len(data) - start != int(length) or self.expect_100_continue:
            return
        if len(self.heads) >= _MAX_HEADS:
            self.heads.clear()
        path = self.url.partition(b"?")[0]
        self.heads[data[:start]] = Head(path, exchange.query, headers, int(length))

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def on_message_begin(self) -> None:
        """Only what every request needs; the ASGI scope is made where it is needed."""
        self._between_messages = False
        self._in_head = True
        self._head_bytes = -self._piece_bytes  # what stands before it in this piece does not count
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """A hit in the table becomes an exchange; a miss goes uvicorn's way."""
        self._in_head = False
        if self._lingering:
            return
        if self._piece_bytes > _HEAD_LIMIT_BYTES or self._head_bytes >= 0:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > _HEAD_LIMIT_BYTES:
                self._refuse_head()
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
        self.cycle = exchange
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
        if self._last_call and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A piece of the body of the request that is being read."""
        cycle = self.cycle
        if self._lingering:
            return
        if not isinstance(cycle, Exchange):
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.receive(body)

    def on_message_complete(self) -> None:
        """The request has been read."""
        self._between_messages = True
        cycle = self.cycle
        if self._lingering:
            return
        if not isinstance(cycle, Exchange):
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            if cycle is self.active:
                if self._one_piece is not None:
                    self._remember_head(cycle)
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
        if self._lingering:  # our half is closed: what waits behind the last answer cannot get one
            self.pipeline.clear()
            self.active = None
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
    return type("RoutedProtocol", (FastProtocol,), {"routes": routes, "heads": {}})
