"""uvicorn's connection with limits of its own: how many there are, how slow a client may be, what is refused and how.

Knows bytes, times and what is due to be answered; no routes and no models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from onward.errors import OnwardError, TooSlow, Unavailable
from onward.runners.serve.exchange import refusal
from onward.runners.serve.patience import Patience

_SWEEP_S = 1.0
# How long a refused body is read and thrown away, and a client that is let go may go on reading.
_LINGER_S = 2.0


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a connection that is watched once a second. `most_connections` there are at a time."""

    most_connections: ClassVar[int] = 1 << 30

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._idle_since_s: float | None = time.monotonic()
        self._patience = Patience()
        self._timer: asyncio.TimerHandle | None = None
        self._lingering = False
        self._upgraded = False
        self._ignores_upgrade = False
        self._between_messages = True
        self._in_head = False
        # What ends the connection, once the answers that are due have been written.
        self._afterwards: Callable[[], None] | None = None
        self._common_headers_of: Any = None
        self._common_headers = b""

    def connection_made(self, transport: Any) -> None:
        """uvicorn's, and one timer for the whole life of the connection instead of one a request."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            error = Unavailable("too many connections")
            transport.write(refusal(error, error.status, self.common_headers()))
            transport.close()
        self._sweep()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn's, and no timer keeps what is left of the connection."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def _sweep(self) -> None:
        """Close the connection if it has been idle for the keep-alive time, or is slower than we have patience for;
        else look again in a second."""
        if self._upgraded or self.parser is None:  # nothing of ours any more, or lost
            return
        now = time.monotonic()
        transport, patience, cycle, flow = self.transport, self._patience, self.cycle, self.flow
        idle_since_s = self._idle_since_s
        closing = transport.is_closing()
        waiting = flow.write_paused or closing
        if patience.is_unread(now, transport.get_write_buffer_size() if waiting else 0):
            transport.abort()
            return
        if closing or self._lingering:
            pass
        elif flow.read_paused or flow.write_paused:
            patience.wait_no_more(now)  # it is we who do not listen
        elif idle_since_s is not None:
            if now - idle_since_s >= self.timeout_keep_alive:
                self._let_go()
        elif cycle is None or cycle.response_complete or cycle.more_body:
            self._hurry(now)
        self._timer = self.loop.call_later(_SWEEP_S, self._sweep)

    def _hurry(self, now: float) -> None:
        """See that the request that is being read is not too slow. Once it is being answered there is no hurry."""
        cycle = self.cycle
        patience = self._patience
        if not getattr(cycle, "response_started", False) or cycle.response_complete:
            slow = patience.has_run_out(now, in_body=not (self._in_head or self._between_messages))
            if slow:
                self.refuse(TooSlow(expected=slow))
        elif patience.silence_s(now) >= self.timeout_keep_alive:
            self.transport.abort()

    def _let_go(self) -> None:
        """Close, without waiting for ever until the client has read all that was written."""
        self.transport.close()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _unset_keepalive_if_required(self) -> None:
        if self._idle_since_s is not None:
            self._idle_since_s = None
            self._patience.begin()

    def _feed(self, data: bytes) -> None:
        """What uvicorn does with data, but an upgrade that is not to be had is ignored, and the request is answered.

        Clients ask for HTTP/2 so, and go on with their body when they get an answer in HTTP/1.1.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._ignores_upgrade:
                    self._upgrade()
                    return
                data = self._head_without_upgrade() + data[upgrade.args[0] :]

    def _upgrade(self) -> None:
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self._unsupported_upgrade_warning()

    def _head_without_upgrade(self) -> bytes:
        """The head that has just been read, without its wish; a parser that saw it will read no more."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._ignores_upgrade = False
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
            if name != b"upgrade":
                lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, after the answers that are due."""
        self.end_with(partial(super().send_400_response, msg))

    def end_with(self, last: Callable[[], None]) -> None:
        """End the connection with a refusal, after the answers that are due: a client takes them in their order."""
        cycle = self.cycle
        if self.pipeline and self.pipeline[0][0].more_body:  # what is refused is the rest of this one
            self.pipeline.popleft()
        elif not self.pipeline and (cycle is None or cycle.response_complete or cycle.more_body):
            last()
            return
        self._afterwards = last

    def refuse(self, error: OnwardError, status: int = 0) -> None:
        """Answer whatever the client has begun with an error, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # whatever it has to say, nobody listens any more
        self.transport.write(refusal(error, status or error.status, self.common_headers()))
        self.linger()

    def read_on(self) -> None:
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
        self.loop.call_later(_LINGER_S, self._let_go)

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
