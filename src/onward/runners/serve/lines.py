"""NDJSON in, NDJSON out: a request whose body is one item a line is answered line by line, in order, as it comes.

Each line is a request of its own to the model, with its own deadline, decision and error, so that lines share batches
with each other and with everyone else's requests. A few are on their way at a time: when answers are not read no more
lines are, and however long the body is, memory does not grow. Knows how a line is handled; not what answers it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from onward.errors import MalformedBody, OnwardError, Overloaded, TooLarge, Unavailable
from onward.execute.work import NEW
from onward.package.records import Manifest
from onward.runners.serve.body import encoding_of, pieces_of
from onward.runners.serve.caller import caller_of
from onward.runners.serve.exchange import Exchange, Handler, Headers, Route, error_body, new_request_id, timeout_s

MEDIA_TYPE = "application/x-ndjson"
MEDIA_TYPES = (MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""How a body of lines may be declared; all of them mean the same."""

_log = logging.getLogger("onward.serve")
# A batch that runs and one that waits; more would only make everybody else wait behind one caller's lines.
_BATCHES = 2
_MOST_LINES = 256
_LEAST_LINES = 8
_BREATH_LINES = 8
_PIECE_BYTES = 64 << 10
_LINGER_S = 2.0
_LEAST_MS = 0.001
# An idempotency key has at most 255 characters, and a line's number at most 20.
_KEY_BYTES = 255 - 21
_SAID = re.compile(rb"\S")
# Of a body that came compressed, so many times a line's limit may go by without a line: 20 KB can be 20 MB of nothing.
_LIMITS_WITHOUT_LINE = 8
_LEAST_WITHOUT_LINE_BYTES = 1 << 20
# Headers that say something of the whole body, and nothing of a line.
_OF_THE_WHOLE = frozenset(
    {b"accept", b"content-encoding", b"content-length", b"content-type", b"expect", b"transfer-encoding"}
)
Line: TypeAlias = tuple[int, "bytes | OnwardError"]
"""Its number, counted from 1, and what it says, or what is wrong with it."""


class Splitter:
    """Cuts pieces of a body into lines of at most `limit` bytes. Empty ones are counted, and left out.

    The work for a piece depends on its own size alone: not on what came before of the same line, and hardly on how
    many lines in it are empty.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What there is of a line whose end has not come.
        self._parts: list[bytes] = []
        self._size = 0
        self._skips = False
        self.number = 0

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in this piece; of one that is too large, the error as soon as that is known."""
        start = 0
        if self._parts or self._skips:
            end = piece.find(b"\n")
            yield from self._more(piece if end < 0 else piece[:end])
            if end < 0:
                return
            yield from self._end()
            start = end + 1
        while said := _SAID.search(piece, start):
            at = said.start()
            end = piece.find(b"\n", at)
            self.number += piece.count(b"\n", start, at)
            start = end + 1
            if 0 <= end <= at + self._limit:  # as nearly all: it is here as a whole
                self.number += 1
                yield self.number, _checked(piece[at:end])
                continue
            yield from self._more(piece[at:] if end < 0 else piece[at:end])
            if end < 0:
                return
            yield from self._end()
        self.number += piece.count(b"\n", start)

    def finish(self) -> Iterator[Line]:
        """The last line, where no line feed ends it."""
        if self._parts:
            yield from self._end()

    def _more(self, part: bytes) -> Iterator[Line]:
        """Keep a part of a line; the error if that makes it too large."""
        if self._skips:  # that has been told
            return
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
            return
        self._parts.clear()
        self._skips = True
        self.number += 1
        yield self.number, TooLarge(where="line", expected=f"at most {self._limit} bytes", found="more")

    def _end(self) -> Iterator[Line]:
        """The line that ends here, unless it has been told of."""
        line = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._skips:
            self._skips = False
            return
        self.number += 1
        yield self.number, _checked(line)


def _checked(line: bytes) -> bytes | OnwardError:
    if line[:1] == b"[":
        return MalformedBody(where="line", expected="one item", found="a list")
    return line.rstrip()


class LineExchange(Exchange):
    """One line and its answer, which is kept until those before it have been sent."""

    __slots__ = ("answer", "give_up_s", "number", "size", "tell")

    def __init__(
        self, route: Route, headers: Headers, query: bytes, number: int, *, give_up_s: float,
        tell: Callable[[LineExchange], None],
    ) -> None:  # fmt: skip
        super().__init__(None, route, headers, query, True)  # type: ignore[arg-type]
        self.number = number
        self.standing = NEW
        self.give_up_s = give_up_s
        self.tell = tell
        self.answer = b""
        self.size = 0

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        """Keep the answer; an error says which line it is about."""
        if self.response_complete or self.disconnected:
            return
        self.response_complete = True
        self.work = None
        self.body = b""
        self.answer = body if status < 400 else b'%b,"line":%d}' % (body[:-1], self.number)
        self.tell(self)

    def fail(self, error: OnwardError) -> None:
        """Answer with an error; a full queue only makes the line come again, as who sends one request would."""
        if isinstance(error, Overloaded) and time.monotonic() + error.retry_after_s < self.give_up_s:
            self.undecided = None
            self.standing = error.promised_rows
            asyncio.get_running_loop().call_later(error.retry_after_s, self.start_again)
            return
        super().fail(error)

    def start_again(self) -> None:
        """Ask once more, if somebody still waits: as who was told when to come, and with the time that is left."""
        if not self.disconnected:
            left_ms = max((self.give_up_s - time.monotonic()) * 1000, _LEAST_MS)
            self.headers = {**self.headers, b"x-onward-timeout-ms": b"%.3f" % left_ms}
            self.start()


class Lines(Response):
    """The response to a body of lines. `handler` finds what answers a line at its turn: versions may change meanwhile.

    `accepting` says whether there is to be more: a server that drains answers what it has read, and tells of the rest.
    """

    media_type = MEDIA_TYPE

    def __init__(
        self, request: Request, manifest: Manifest, handler: Callable[[], Handler], accepting: Callable[[], bool]
    ) -> None:
        super().__init__(headers={"x-request-id": new_request_id().decode(), "cache-control": "no-store"})
        self.raw_headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        self._handler = handler
        self._accepting = accepting
        self._query = request.url.query.encode()
        self._of_lines = {name: value for name, value in request.headers.raw if name not in _OF_THE_WHOLE}
        self._key = _key_of_lines(self._of_lines)
        self._encoding = encoding_of(request)
        limits = manifest.limits
        self._line_bytes = limits.body_bytes
        self._deadline_s = limits.deadline_ms / 1000
        if (given := self._of_lines.get(b"x-onward-timeout-ms")) is not None:
            self._deadline_s = timeout_s(given, self._deadline_s)
        most = max(_BATCHES * manifest.batching.max_batch_size, _LEAST_LINES)
        self._most_lines = min(most, max(limits.queue_rows // 2, 1), _MOST_LINES)
        # In the order of the lines, those that are on their way or wait to be sent.
        self._window: deque[LineExchange] = deque()
        self._held_bytes = 0
        self._ended = self._gone = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read and answer until the body ends or the client leaves."""
        ahead = _Ahead(receive, self._leave)
        reading = asyncio.get_running_loop().create_task(self._read(ahead.take))
        await asyncio.sleep(0)  # who expects to be told to go on is told so before the answer begins
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._write(send)
        finally:
            ahead.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            for exchange in self._window:
                exchange.abandon()

    def _leave(self) -> None:
        """The client has gone."""
        self._gone = True
        self._news.set()
        self._room.set()

    async def _write(self, send: Send) -> None:
        while not self._gone:
            ready = self._ready()
            if ready:
                await send({"type": "http.response.body", "body": ready, "more_body": True})
            elif self._ended and not self._window:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            else:
                self._news.clear()
                await self._news.wait()

    def _ready(self) -> bytes:
        """The answers that are next, together: a packet each would be dear."""
        parts: list[bytes] = []
        size = 0
        while self._window and self._window[0].response_complete and size < _PIECE_BYTES:
            exchange = self._window.popleft()
            parts += [exchange.answer, b"\n"]
            size += len(exchange.answer)
            self._held_bytes -= exchange.size + len(exchange.answer)
        if parts:
            self._room.set()
        return b"".join(parts)

    async def _read(self, take: Receive) -> None:
        splitter = Splitter(self._line_bytes)
        begun = 0
        try:
            try:
                async for number, line in self._lines(splitter, take):
                    if not self._accepting():
                        gone = Unavailable("the server is going away: send this line again, and those behind it")
                        await self._begin(number, gone)
                        await _throw_away(take)
                        break
                    await self._begin(number, line)
                    begun += 1
                    if begun % _BREATH_LINES == 0:
                        await asyncio.sleep(0)  # others want to be read, too
            except OnwardError as error:  # of all that is still to come
                await self._begin(splitter.number + 1, error)
                await _throw_away(take)
        except ClientDisconnect:
            return
        except Exception:  # a fault of ours: the client sees that lines are missing
            _log.exception("a body of lines could not be read on")
            self._leave()
            raise
        self._ended = True
        self._news.set()

    async def _lines(self, splitter: Splitter, receive: Receive) -> AsyncIterator[Line]:
        most_bytes = max(_LIMITS_WITHOUT_LINE * self._line_bytes, _LEAST_WITHOUT_LINE_BYTES)
        silent_bytes = 0
        async for piece in pieces_of(receive, self._encoding):
            silent_bytes += len(piece)
            for line in splitter.feed(piece):
                silent_bytes = 0
                yield line
            if silent_bytes > most_bytes and self._encoding != "identity":
                raise TooLarge(where="body", expected=f"a line in {most_bytes} bytes of it, unpacked", found="none")
        for line in splitter.finish():
            yield line

    async def _begin(self, number: int, line: bytes | OnwardError) -> None:
        """Start a line once there is room for it; for one line there always is."""
        size = len(line) if isinstance(line, bytes) else 0
        while self._window and not (
            len(self._window) < self._most_lines and self._held_bytes + size <= self._line_bytes
        ):
            self._room.clear()
            await self._room.wait()
            if self._gone:
                raise ClientDisconnect
        headers: Headers = self._of_lines
        if self._key is not None:  # a repeat of the whole repeats each line
            headers = {**headers, b"idempotency-key": b"%b:%d" % (self._key, number)}
        route = Route(self._handle, max_body_bytes=self._line_bytes)
        give_up_s = time.monotonic() + self._deadline_s
        exchange = LineExchange(route, headers, self._query, number, give_up_s=give_up_s, tell=self._answered)
        exchange.size = size
        self._held_bytes += size
        self._window.append(exchange)
        if isinstance(line, OnwardError):
            exchange.respond(error_body(line, exchange.request_id), status=line.status)
        else:
            exchange.body = line
            exchange.start()

    def _answered(self, exchange: LineExchange) -> None:
        self._held_bytes += len(exchange.answer)
        if exchange is self._window[0]:
            self._news.set()

    def _handle(self, exchange: Exchange) -> None:
        self._handler()(exchange)


def _key_of_lines(headers: Headers) -> bytes | None:
    """What the idempotency keys of the lines begin with: the whole's, or one made of it where that would be too long.

    Raises `MalformedBody`.
    """
    key = headers.get(b"idempotency-key")
    if key is None or len(key) <= _KEY_BYTES:
        return key
    caller_of(headers)
    digest = hashlib.sha256(key).hexdigest().encode()
    return b"%b~%b" % (key[: _KEY_BYTES - len(digest) - 1], digest)


class _Ahead:
    """Messages of the body, the next one always asked for already: so that it is known at once when the client leaves,
    also while nothing more is taken."""

    def __init__(self, receive: Receive, leave: Callable[[], None]) -> None:
        self._receive = receive
        self._leave = leave
        self._ask()

    def _ask(self) -> None:
        self._next = asyncio.ensure_future(self._receive())
        self._next.add_done_callback(self._look)

    def _look(self, task: asyncio.Future[Message]) -> None:
        if not task.cancelled() and (task.exception() is not None or task.result()["type"] == "http.disconnect"):
            self._leave()

    async def take(self) -> Message:
        """The next message."""
        message = await self._next
        if message["type"] == "http.request":
            self._ask()
        return message

    def close(self) -> None:
        """Ask for no more."""
        self._next.cancel()


async def _throw_away(take: Receive) -> None:
    """What a client still sends is read for a while: closing at once would take the answers from it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while (message := await take())["type"] == "http.request" and message.get("more_body"):
                pass
