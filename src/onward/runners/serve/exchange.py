"""An inference request and its answer, apart from the bytes of HTTP/1.1 that carry them.

What answers a path is a `Route`; a handler is given an `Exchange` and answers it now or later, exactly once. Knows the
connection only as something to write to.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

from onward.errors import MalformedBody, OnwardError, Overloaded, TooLarge, UnsupportedMedia
from onward.execute.promises import LATE_S, Promise
from onward.execute.scheduler import NEW, NORMAL, PRIORITIES, UNKNOWN
from onward.runners.serve.returning import EARLY_S
from onward.runners.serve.traces import TRACES
from onward.types import Event

if TYPE_CHECKING:
    from onward.runners.serve.http import FastProtocol

_log = logging.getLogger("onward.serve")
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status != 499 else 'Client Closed Request'}\r\n".encode()
    for status in (*map(int, HTTPStatus), 499)
}
_request_prefix = os.urandom(4).hex().encode()
_request_numbers = itertools.count(1)

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


def refusal(error: OnwardError, status: int, common_headers: bytes) -> bytes:
    """A whole answer for a connection that is about to be closed, whatever was asked on it."""
    request_id = new_request_id()
    body = error_body(error, request_id)
    return (
        b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nconnection: close\r\n\r\n%b"
        % (_STATUS_LINES[status], common_headers, len(body), request_id, body)
    )


class Abandonable(Protocol):
    """Work that may be given up when its client leaves."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        ...


class Undecided(Protocol):
    """A request that a policy decides; it answers the exchange, once the decision is durable.

    `profiles` are those that the model is asked with, one an item; empty where none are read.
    """

    profiles: Sequence[Mapping[str, Any]]

    def decide(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Decide on the model's answers, one an item."""
        ...

    def fall_back(self, error: OnwardError) -> None:
        """Decide without an answer: the model failed, or the deadline passed."""
        ...


class _Unused:
    """uvicorn wakes an ASGI cycle through an event; an exchange has no one to wake."""

    def set(self) -> None:
        """Nothing waits."""


class Exchange:
    """One request and its answer. Has the attributes of uvicorn's cycle that its protocol looks at."""

    __slots__ = (
        "arrived_s", "body", "disconnected", "expects_continue", "headers", "keep_alive", "more_body", "oversize",
        "priority", "protocol", "query", "request_id", "response_complete", "route", "standing", "started", "undecided",
        "work",
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
        self.undecided: Undecided | None = None
        self.request_id = new_request_id()
        self.arrived_s = 0.0
        self.priority = NORMAL
        self.standing = UNKNOWN

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

    def _standing(self, promised: Promise) -> int:
        """The rows that the client was promised, where it comes when it was told to, or NEW."""
        late_s = self.arrived_s - promised.at_s
        if late_s < -EARLY_S:
            return NEW
        self.protocol.promised = None
        return promised.rows if late_s <= LATE_S else NEW

    def refuse(self) -> None:
        """The body is too large: answer now and close, since the rest of it is not going to be kept."""
        self.keep_alive = False
        limit = self.route.max_body_bytes
        self.fail(TooLarge(where="body", expected=f"at most {limit} bytes", found=f"{self.oversize} bytes or more"))

    def start(self) -> None:
        """The whole body is here and it is this request's turn."""
        self.started = True
        self.arrived_s = time.monotonic()
        if self.protocol is not None:
            promised = self.protocol.promised
            self.standing = NEW if promised is None else self._standing(promised)
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
        """Answer with an error; where a policy decides and the fault is not the caller's, with its fallback."""
        if isinstance(error, Overloaded) and error.promised_rows and self.protocol is not None:  # None: over ASGI
            self.protocol.promised = Promise(time.monotonic() + error.retry_after_s, error.promised_rows)
        undecided, self.undecided = self.undecided, None
        if undecided is not None and error.status >= 500 and not (self.disconnected or self.response_complete):
            try:
                undecided.fall_back(error)
            except Exception:
                _log.exception("request %s could not be decided without an answer", self.request_id.decode())
            else:
                return
        TRACES.refused(self.request_id, self.arrived_s, error.code, error.rule)
        self.respond(error_body(error, self.request_id), status=error.status, headers=error_headers(error))

    def stream(self, events: AsyncGenerator[Event, None]) -> None:
        """Answer with events as they come: for exchanges over ASGI. Raises `UnsupportedMedia`."""
        raise UnsupportedMedia(where="Accept", expected="application/json", found="text/event-stream")

    def abandon(self) -> None:
        """The client has gone: nothing computed for it any more is of use."""
        self.disconnected = True
        if self.work is not None:
            self.work.abandon()
            self.work = None


def timeout_s(value: bytes, limit_s: float) -> float:
    """The time a caller gives, from `x-onward-timeout-ms`, at most the package's own. Raises `MalformedBody`."""
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = -1.0
    if not milliseconds > 0:
        raise MalformedBody(
            "not a time", where="x-onward-timeout-ms", expected="milliseconds above 0", found=value.decode("latin-1")
        )
    return min(milliseconds / 1000, limit_s)


def priority_of(value: bytes) -> int:
    """A priority from `x-onward-priority`. Raises `MalformedBody`."""
    priority = PRIORITIES.get(value.decode("latin-1").strip().lower())
    if priority is None:
        found = value[:40].decode("latin-1")
        raise MalformedBody("not a priority", where="x-onward-priority", expected=", ".join(PRIORITIES), found=found)
    return priority
