"""The fast path: uvicorn's HTTP protocol, subclassed so that inference requests skip ASGI.

uvicorn keeps the sockets, parsing, TLS, limits, keep-alive and graceful shutdown. A POST whose raw path stands in the
route table becomes an `Exchange` here instead of an ASGI cycle: its body goes to a handler, whose answer is written in
one piece. Everything else falls through to the Starlette app. Knows nothing of models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.errors import TooLarge
from onward.execute.promises import Promise
from onward.runners.serve.connection import PatientProtocol
from onward.runners.serve.descriptors import most_connections, raise_limit
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.returning import RETURNING

_END_OF_HEAD = b"\r\n\r\n"
_MAX_HEADS = 1024
_MAX_HEAD_BYTES = 2048
_HEAD_LIMIT_BYTES = 64 << 10
# How long shutdown waits for a request that is on its way.
_LAST_CALL_S = 0.1

Routes: TypeAlias = Mapping[bytes, Route]


class Head(NamedTuple):
    """The head of a whole request as the parser read it once: the same bytes mean the same again."""

    path: bytes
    query: bytes
    headers: Headers
    length: int


class FastProtocol(PatientProtocol):
    """uvicorn's protocol with a short way for the paths in `routes` (set on a subclass by `protocol_for`)."""

    routes: ClassVar[Routes] = {}
    heads: ClassVar[dict[bytes, Head]] = {}

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.active: Exchange | None = None
        self.promised: Promise | None = None
        self._asgi: Any = None
        self._last_call = False
        self._one_piece: bytes | None = None
        self._piece_bytes = 0
        self._head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """The base's; who was turned away may come back on a new connection."""
        super().connection_made(transport)
        self.promised = RETURNING.came(self.client[0], time.monotonic()) if self.client else None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: give up what it waits for."""
        if self.promised is not None and self.client:
            RETURNING.left(self.client[0], self.promised)
        active, self.active = self.active, None
        asgi, self._asgi = self._asgi, None
        super().connection_lost(exc)
        if asgi is not None and not asgi.response_complete:  # uvicorn tells the request that was read last only
            asgi.disconnected = True
            asgi.message_event.set()
        if active is not None and not active.response_complete:
            active.abandon()
        self.pipeline.clear()
        # Nothing is left that refers to itself: the collector comes so seldom that lost connections would pile up.
        self.cycle = None

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
        if self._lingering or self._afterwards is not None:
            return
        self._patience.hear(time.monotonic(), len(data))
        self._piece_bytes = len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
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
        """The head is too large: answer, after the answers that are due, and close."""
        self._in_head = False
        expected = f"at most {_HEAD_LIMIT_BYTES} bytes"
        error = TooLarge("the head of the request is too large", where="head", expected=expected)
        self.end_with(partial(self.refuse, error, 431))

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

    def on_message_begin(self) -> None:
        """Only what every request needs; the ASGI scope is made where it is needed."""
        self._between_messages = False
        self._in_head = True
        self._patience.begin()
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
        if parser.should_upgrade() and parser.get_method() != b"CONNECT" and not self._should_upgrade():
            self._ignores_upgrade = True
            return
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
        if self._ignores_upgrade:
            return
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
            self._asgi = cycle
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
            if not self.pipeline and self._afterwards is None:
                self.read_on()  # its body may be still to come; before that, more would only pile up
            self._start_asgi_task(cycle, app)
        elif self._afterwards is not None:
            self._afterwards()
        else:
            self.read_on()
            self.active = None
            self._idle_since_s = time.monotonic()

    def shutdown(self) -> None:
        """Close after the answer that is due; an idle connection a little later, for what may be on its way on it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self._patience.run_short()
            return
        self._last_call = True
        self.loop.call_later(_LAST_CALL_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def protocol_for(routes: Routes) -> type[HttpToolsProtocol]:
    """The protocol class for one server: uvicorn makes an instance of it a connection.

    With `ONWARD_FAST_PATH=off` it is uvicorn's own, and every request goes through ASGI: what is odd with one and not
    with the other is the fast path's fault.
    """
    if os.environ.get("ONWARD_FAST_PATH") == "off":
        return HttpToolsProtocol
    raise_limit()
    most = most_connections()
    return type("RoutedProtocol", (FastProtocol,), {"routes": routes, "heads": {}, "most_connections": most})
