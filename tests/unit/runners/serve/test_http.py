"""The fast path's HTTP, byte by byte: a protocol on a transport that only remembers."""

from __future__ import annotations

import asyncio
import gc
import re
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import uvicorn
from uvicorn.server import ServerState

from onward.errors import MalformedBody, OnwardError, Overloaded, TooLarge
from onward.execute.promises import LATE_S, Promise
from onward.execute.scheduler import NEW
from onward.runners.serve import connection as connections
from onward.runners.serve import exchange as exchanges
from onward.runners.serve import http, patience
from onward.runners.serve.exchange import Exchange, Route, timeout_s
from onward.runners.serve.http import FastProtocol

LIMIT = 1000


class Transport(asyncio.Transport):
    """Remembers what was written to it, and whether it is closed or paused."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True
        self.aborted = False
        self.unread = 0

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.written += b"<EOF>"

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.closed = self.aborted = True


class Connection:
    """One connection to a protocol whose handlers echo, wait or fail."""

    def __init__(self, *, limit: int = LIMIT) -> None:
        self.waiting: list[Exchange] = []
        self.started: list[Exchange] = []
        self.promised_rows = 3
        self.transport = Transport()
        routes = {
            b"/echo": Route(self._echo, max_body_bytes=limit),
            b"/wait": Route(self.waiting.append, max_body_bytes=limit),
            b"/fail": Route(self._fail, max_body_bytes=limit),
            b"/full": Route(self._full, max_body_bytes=limit),
            b"/crash": Route(self._crash, max_body_bytes=limit),
            b"/picky": Route(self._echo, max_body_bytes=limit, wants=lambda headers: b"x-not" not in headers),
        }
        config = uvicorn.Config(_asgi, http=http.protocol_for(routes), ws="none", lifespan="off", log_config=None)
        self.state = ServerState()
        self.protocol = http.protocol_for(routes)(config=config, server_state=self.state, app_state={})
        self.protocol.connection_made(self.transport)

    def _echo(self, exchange: Exchange) -> None:
        self.started.append(exchange)
        exchange.respond(bytes(exchange.body) or b"nothing", b"text/plain")

    def _fail(self, exchange: Exchange) -> None:
        raise MalformedBody(where="x", expected="y", found="z")

    def _full(self, exchange: Exchange) -> None:
        raise Overloaded("full", retry_after_s=1.2345, promised_rows=self.promised_rows)

    def _crash(self, exchange: Exchange) -> None:
        raise ZeroDivisionError("a bug")

    async def send(self, data: bytes, *, step: int = 0) -> None:
        """Let the protocol receive the data, in one piece or in steps."""
        for start in range(0, len(data), step or len(data)):
            self.protocol.data_received(data[start : start + (step or len(data))])
        await settle()

    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """The answers so far: status, headers, body."""
        return parse(self.transport.written)

    def bodies(self) -> list[bytes]:
        return [body for _, _, body in self.answers()]


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    """The app behind the fast path: echoes, and says that it did."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    answer = b"asgi:" + scope["method"].encode() + b":" + scope["path"].encode() + b":" + body
    headers = [(b"content-length", str(len(answer)).encode()), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})


async def settle() -> None:
    for _ in range(12):
        await asyncio.sleep(0)


def parse(data: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """Answers as they stand on the wire; every byte must belong to one."""
    found = []
    data = data.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"").replace(b"<EOF>", b"")
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .+", first)
        assert match is not None, data[:200]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers["content-length"])
        assert len(rest) >= length
        found.append((int(match[1]), headers, rest[:length]))
        data = rest[length:]
    return found


def post(path: str = "/echo", body: bytes = b"", *headers: str, version: str = "1.1", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: here", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(path: str, *chunks: bytes) -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(path, b"", "Transfer-Encoding: chunked", length=False) + parts + b"0\r\n\r\n"


@pytest.fixture
async def connection() -> Connection:
    return Connection()


async def test_an_answer_has_a_length_a_type_a_request_id_and_stays_open(connection: Connection) -> None:
    await connection.send(post(body=b"hello"))
    ((status, headers, body),) = connection.answers()
    assert (status, body) == (200, b"hello")
    assert headers["content-type"] == "text/plain" and headers["x-request-id"]
    assert "connection" not in headers and not connection.transport.closed
    assert connection.started[0].body == b"hello"


async def test_request_ids_are_unique(connection: Connection) -> None:
    await connection.send(post() * 50)
    assert len({headers["x-request-id"] for _, headers, _ in connection.answers()}) == 50


@pytest.mark.parametrize("make", [lambda body: post(body=body), lambda body: chunked("/echo", body[:3], body[3:])])
async def test_a_request_may_be_split_at_every_byte(make: Callable[[bytes], bytes]) -> None:
    body = b'{"a": 1}\r\n\r\nPOST /'
    data = make(body)
    for cut in range(1, len(data)):
        connection = Connection()
        await connection.send(data[:cut])
        await connection.send(data[cut:])
        assert connection.bodies() == [body], cut
    connection = Connection()
    await connection.send(data * 3, step=1)
    assert connection.bodies() == [body] * 3


async def test_an_empty_body_is_a_body(connection: Connection) -> None:
    await connection.send(post() + chunked("/echo"))
    assert connection.bodies() == [b"nothing", b"nothing"]


async def test_pipelined_requests_are_answered_in_order_on_both_paths(connection: Connection) -> None:
    data = b"".join(post("/echo" if number % 3 else "/other", b"%d" % number) for number in range(30))
    await connection.send(data)
    await asyncio.sleep(0.02)
    want = [b"%d" % number if number % 3 else b"asgi:POST:/other:%d" % number for number in range(30)]
    assert connection.bodies() == want


async def test_what_waits_for_an_answer_holds_back_the_pipelined_ones(connection: Connection) -> None:
    await connection.send(post("/wait", b"first") + post(body=b"second") + post("/other", b"third"))
    assert connection.answers() == []
    assert not connection.transport.reading
    connection.waiting[0].respond(b"first")
    await asyncio.sleep(0.02)
    assert connection.bodies() == [b"first", b"second", b"asgi:POST:/other:third"]
    assert connection.transport.reading


async def test_a_thousand_pipelined_requests_are_no_thousand_frames(connection: Connection) -> None:
    await connection.send(post("/wait", b"first") + post(body=b"x") * 3000)
    connection.waiting[0].respond(b"first")
    while len(connection.started) < 3000:
        await asyncio.sleep(0.001)
    assert connection.bodies() == [b"first", *[b"x"] * 3000]


async def test_while_pipelined_requests_wait_no_more_is_read(connection: Connection) -> None:
    """Else each answer would let in another buffer full of requests, and the queue would grow without bound."""
    await connection.send(post("/wait") * 10)
    for number in range(8):
        connection.waiting[number].respond(b"x")
        await settle()
        assert not connection.transport.reading, number
    connection.waiting[8].respond(b"x")
    await settle()
    assert connection.transport.reading


async def test_a_body_that_is_still_to_come_is_read_once_its_request_is_next(connection: Connection) -> None:
    data = post("/echo", b"0123456789")
    await connection.send(post("/wait", b"") + data[:-5])
    assert not connection.transport.reading
    connection.waiting[0].respond(b"first")
    await settle()
    assert connection.transport.reading
    await connection.send(data[-5:])
    assert connection.bodies() == [b"first", b"0123456789"]


async def test_a_client_that_does_not_read_its_answers_is_not_read_either(connection: Connection) -> None:
    await connection.send(post("/wait") * 3)
    connection.protocol.pause_writing()
    for number in range(3):
        connection.waiting[number].respond(b"x")
        await settle()
        assert not connection.transport.reading, number
    connection.protocol.resume_writing()
    assert connection.transport.reading


async def test_a_client_that_reads_again_is_not_read_while_its_pipeline_is_full(connection: Connection) -> None:
    await connection.send(post("/wait") * 2)
    connection.protocol.pause_writing()
    connection.protocol.resume_writing()
    assert not connection.transport.reading
    connection.waiting[0].respond(b"x")
    await settle()
    assert connection.transport.reading


@pytest.mark.parametrize("size", [LIMIT + 1, 10 * LIMIT])
async def test_a_body_whose_length_is_too_large_is_refused_before_it_comes(connection: Connection, size: int) -> None:
    await connection.send(post(body=b"x" * size).partition(b"xx")[0])
    ((status, headers, body),) = connection.answers()
    assert status == 413 and headers["connection"] == "close"
    assert msgspec.json.decode(body)["code"] == TooLarge.code
    await connection.send(b"x" * size)
    assert len(connection.answers()) == 1 and not connection.started


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(connection: Connection) -> None:
    await connection.send(chunked("/echo", b"x" * LIMIT, b"y", b"z" * LIMIT))
    assert [status for status, _, _ in connection.answers()] == [413]
    assert not connection.started


async def test_a_body_just_small_enough_is_taken(connection: Connection) -> None:
    await connection.send(post(body=b"x" * LIMIT) + chunked("/echo", b"x" * (LIMIT - 1), b"x"))
    assert connection.bodies() == [b"x" * LIMIT] * 2


@pytest.mark.parametrize("make", [lambda body: post(body=body), lambda body: chunked("/echo", body)])
async def test_the_refusal_of_a_pipelined_body_waits_for_its_turn(
    connection: Connection, make: Callable[[bytes], bytes]
) -> None:
    await connection.send(post("/wait", b"first") + make(b"x" * (LIMIT + 1)))
    assert connection.answers() == [] and not connection.transport.closed
    connection.waiting[0].respond(b"first")
    await settle()
    assert [status for status, _, _ in connection.answers()] == [200, 413]
    assert not connection.started


async def test_a_client_is_told_to_continue_only_when_its_body_is_welcome(connection: Connection) -> None:
    data = post(body=b"x" * 5).replace(b"Host", b"Expect: 100-continue\r\nHost")
    await connection.send(data[:-5])
    assert connection.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(data[-5:])
    assert connection.bodies() == [b"x" * 5]
    connection.transport.written = b""
    large = post(body=b"x" * (LIMIT + 1)).replace(b"Host", b"Expect: 100-continue\r\nHost")
    await connection.send(large[: -LIMIT - 1])
    assert connection.transport.written.startswith(b"HTTP/1.1 413 ")


async def test_a_pipelined_client_is_told_to_continue_when_it_is_its_turn(connection: Connection) -> None:
    data = post(body=b"x" * 5).replace(b"Host", b"Expect: 100-continue\r\nHost")
    await connection.send(post("/wait") + data[:-5])
    assert connection.transport.written == b""
    connection.waiting[0].respond(b"first")
    await settle()
    assert connection.transport.written.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")
    await connection.send(data[-5:])
    assert connection.bodies() == [b"first", b"x" * 5]


@pytest.mark.parametrize("path", ["/echo", "/other"])
@pytest.mark.parametrize(
    ("version", "header", "closes"),
    [
        ("1.1", "X-Nothing: 1", False),
        ("1.1", "Connection: keep-alive", False),
        ("1.1", "Connection: close", True),
        ("1.0", "X-Nothing: 1", True),
    ],
)
async def test_a_connection_stays_open_or_closes_as_asked_on_both_paths(
    connection: Connection, path: str, version: str, header: str, closes: bool
) -> None:
    await connection.send(post(path, b"x", header, version=version))
    ((status, headers, _),) = connection.answers()
    assert status == 200
    assert connection.transport.closed is closes
    assert (headers.get("connection") == "close") is closes


@pytest.mark.parametrize("path", ["/echo?a=b", "/echo?"])
async def test_a_query_is_no_part_of_the_path(connection: Connection, path: str) -> None:
    await connection.send(post(path, b"x"))
    assert connection.bodies() == [b"x"]
    assert connection.started[0].query == path.partition("?")[2].encode()


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (post("/ech%6f", b"x"), b"asgi:POST:/echo:x"),
        (post("/nobody", b"x"), b"asgi:POST:/nobody:x"),
        (post("/echo", b"x").replace(b"POST", b"PUT"), b"asgi:PUT:/echo:x"),
        (b"GET /echo HTTP/1.1\r\nHost: here\r\n\r\n", b"asgi:GET:/echo:"),
        (post("/picky", b"x", "X-Not: 1"), b"asgi:POST:/picky:x"),
        (post("/picky", b"x"), b"x"),
        (chunked("/nobody", b"x", b"y"), b"asgi:POST:/nobody:xy"),
    ],
)
async def test_what_is_not_in_the_table_goes_to_the_app(connection: Connection, data: bytes, want: bytes) -> None:
    await connection.send(data + post(body=b"after"))
    await asyncio.sleep(0.01)
    assert connection.bodies() == [want, b"after"]


async def test_headers_are_found_by_their_lower_case_names(connection: Connection) -> None:
    await connection.send(post("/wait", b"", "X-Onward-Timeout-MS: 12"))
    assert connection.waiting[0].headers[b"x-onward-timeout-ms"] == b"12"


async def test_errors_have_a_body_for_machines(connection: Connection) -> None:
    await connection.send(post("/fail"))
    ((status, headers, body),) = connection.answers()
    told = msgspec.json.decode(body)
    assert status == 400 and headers["x-request-id"] == told["request_id"]
    assert {key: told[key] for key in ("code", "field", "expected", "found")} == {
        "code": "MALFORMED_BODY", "field": "x", "expected": "y", "found": "z",
    }  # fmt: skip
    assert "x:" in told["error"]


async def test_an_overloaded_server_says_when_to_come_back(connection: Connection) -> None:
    await connection.send(post("/full"))
    ((status, headers, _),) = connection.answers()
    assert status == 429
    assert (headers["retry-after"], headers["x-onward-retry-after-ms"]) == ("2", "1234")


@pytest.mark.parametrize(
    ("after_s", "want"), [(-0.1, [0, 3]), (-0.004, [3, 0]), (LATE_S - 0.1, [3, 0]), (LATE_S + 0.1, [0, 0])]
)
async def test_who_comes_when_told_has_what_was_promised_once(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, after_s: float, want: list[int]
) -> None:
    times_s = iter([100.0, 100.0, 101.2345 + after_s, 101.2345 + max(after_s, 0.0) + 0.01])
    monkeypatch.setattr(exchanges, "time", SimpleNamespace(monotonic=lambda: next(times_s)))
    stands = []
    await connection.send(post("/full"))  # at 100, for three rows
    for _ in range(2):
        await connection.send(post("/wait"))
        stands.append(connection.waiting[-1].standing)
        connection.waiting[-1].respond(b"")
    assert stands == want


async def test_who_was_promised_nothing_comes_back_as_new(connection: Connection) -> None:
    connection.protocol.promised = Promise(time.monotonic(), 3)
    connection.promised_rows = 0
    await connection.send(post("/full") + post("/wait"))
    assert connection.waiting[0].standing == NEW


async def test_a_bug_in_a_handler_is_one_answer_with_an_id_and_no_details(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await connection.send(post("/crash") + post(body=b"after"))
    (status, headers, body), after = connection.answers()
    assert status == 500 and b"a bug" not in body
    assert msgspec.json.decode(body)["code"] == OnwardError.code
    assert headers["x-request-id"] in caplog.text and "a bug" in caplog.text
    assert after[2] == b"after"


async def test_a_client_that_leaves_gives_up_its_work(connection: Connection) -> None:
    class Work:
        abandoned = 0

        def abandon(self) -> None:
            self.abandoned += 1

    await connection.send(post("/wait") * 2 + post())
    work = Work()
    connection.waiting[0].work = work
    connection.protocol.connection_lost(None)
    assert work.abandoned == 1 and connection.waiting[0].disconnected
    connection.waiting[0].respond(b"late")
    await settle()
    assert connection.transport.written == b""
    assert len(connection.waiting) == 1 and not connection.started


async def test_only_the_first_answer_counts(connection: Connection) -> None:
    await connection.send(post("/wait"))
    connection.waiting[0].respond(b"one")
    connection.waiting[0].respond(b"two")
    connection.waiting[0].fail(TooLarge())
    assert connection.bodies() == [b"one"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"NONSENSE\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
async def test_what_is_not_http_gets_a_400_and_is_closed(connection: Connection, data: bytes) -> None:
    await connection.send(data)
    assert [status for status, _, _ in connection.answers()] == [400]
    assert connection.transport.closed and not connection.started


async def test_on_shutdown_what_is_being_answered_still_is_and_then_the_connection_closes(
    connection: Connection,
) -> None:
    await connection.send(post("/wait", b"x"))
    connection.protocol.shutdown()
    assert not connection.transport.closed
    connection.waiting[0].respond(b"done")
    ((_, headers, body),) = connection.answers()
    assert body == b"done" and headers["connection"] == "close" and connection.transport.closed


async def test_on_shutdown_every_pipelined_request_is_still_answered(connection: Connection) -> None:
    await connection.send(post("/wait", b"x") * 3)
    connection.protocol.shutdown()
    for number in range(3):
        connection.waiting[number].respond(b"%d" % number)
        await settle()
    assert connection.bodies() == [b"0", b"1", b"2"]
    assert connection.transport.closed


async def test_a_request_that_is_on_its_way_when_shutdown_begins_is_still_answered(connection: Connection) -> None:
    await connection.send(post(body=b"one"))
    connection.protocol.shutdown()
    assert not connection.transport.closed
    await connection.send(post(body=b"two"))
    (_, _, first), (_, headers, second) = connection.answers()
    assert (first, second) == (b"one", b"two") and headers["connection"] == "close"
    assert connection.transport.closed


async def test_an_idle_connection_closes_soon_after_shutdown_begins(connection: Connection) -> None:
    await connection.send(post(body=b"one"))
    connection.protocol.shutdown()
    await asyncio.sleep(0.3)
    assert connection.transport.closed


async def test_an_idle_connection_is_closed_after_the_keep_alive_time(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SWEEP_S", 0.01)
    quiet, busy = Connection(), Connection()
    for one in (quiet, busy):
        one.protocol.timeout_keep_alive = cast(int, 0.05)
        one.protocol.connection_made(one.transport)
    await busy.send(post("/wait"))
    await asyncio.sleep(0.2)
    assert quiet.transport.closed and not busy.transport.closed


@pytest.mark.parametrize(("value", "want"), [(b"250", 0.25), (b"0.5", 0.0005), (b"1e9", 10.0), (b"inf", 10.0)])
def test_a_callers_time_is_at_most_the_packages_own(value: bytes, want: float) -> None:
    assert timeout_s(value, 10.0) == pytest.approx(want)


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"", b"soon", b"\xff"])
def test_a_time_that_is_none_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedBody, match="x-onward-timeout-ms"):
        timeout_s(value, 10.0)


def test_the_protocol_has_its_own_table() -> None:
    routes = {b"/a": Route(lambda exchange: None, max_body_bytes=1)}
    assert http.protocol_for(routes).routes is routes and FastProtocol.routes == {}


async def test_a_head_seen_before_is_not_parsed_again_and_is_answered_alike(connection: Connection) -> None:
    first, second = post("/echo?a=1", b"one"), post("/echo?a=1", b"two")
    connection.protocol.data_received(first)
    connection.protocol.parser = None  # type: ignore[assignment]
    connection.protocol.data_received(second)
    answers = parse(connection.transport.written)
    assert [(status, body) for status, _, body in answers] == [(200, b"one"), (200, b"two")]
    assert [exchange.query for exchange in connection.started] == [b"a=1", b"a=1"]


@pytest.mark.parametrize("cut", [1, 30, -4, -1])
async def test_a_head_seen_before_may_still_come_in_pieces(connection: Connection, cut: int) -> None:
    data = post("/echo", b"body")
    for piece in (data, data[:cut], data[cut:], data):
        connection.protocol.data_received(piece)
    assert [body for _, _, body in parse(connection.transport.written)] == [b"body"] * 3


async def test_a_head_seen_before_may_be_followed_by_another_request(connection: Connection) -> None:
    data = post("/echo", b"body")
    for piece in (data, data + data, data + data[:20], data[20:], data):
        connection.protocol.data_received(piece)
        await settle()
    assert [body for _, _, body in parse(connection.transport.written)] == [b"body"] * 6


async def test_a_head_seen_before_waits_for_the_answer_before_it(connection: Connection) -> None:
    for _ in range(3):
        connection.protocol.data_received(post("/wait", b"body"))
    await settle()
    assert len(connection.waiting) == 1
    for _ in range(3):
        connection.waiting[-1].respond(b"done")
        await settle()
    assert [status for status, _, _ in parse(connection.transport.written)] == [200] * 3


async def test_a_head_seen_before_finds_what_is_routed_now(connection: Connection) -> None:
    data = post("/echo", b"body")
    connection.protocol.data_received(data)
    routes = cast("dict[bytes, Route]", connection.protocol.routes)
    routes[b"/echo"] = routes.pop(b"/fail")
    connection.protocol.data_received(data)
    assert [status for status, _, _ in parse(connection.transport.written)] == [200, 400]


@pytest.mark.parametrize("headers", [("Connection: close",), ("Expect: 100-continue",)])
async def test_a_head_that_asks_for_more_than_an_answer_is_parsed_every_time(
    connection: Connection, headers: tuple[str, ...]
) -> None:
    connection.protocol.data_received(post("/echo", b"body", *headers))
    assert not connection.protocol.heads


async def test_remembered_heads_are_bounded(connection: Connection) -> None:
    for number in range(http._MAX_HEADS + 10):
        connection.protocol.data_received(post("/echo", b"body", f"X-Trace: {number}"))
    assert len(connection.protocol.heads) <= http._MAX_HEADS


async def test_behind_a_refused_body_nothing_is_written_and_nothing_starts(connection: Connection) -> None:
    await connection.send(post("/wait") + post(body=b"x" * (LIMIT + 1)) + post(body=b"next") + post("/other"))
    connection.waiting[0].respond(b"first")
    await settle()
    await connection.send(post(body=b"more"))
    assert [status for status, _, _ in connection.answers()] == [200, 413]
    assert connection.transport.written.endswith(b"<EOF>")
    assert not connection.started and not connection.protocol.pipeline


@pytest.mark.parametrize("step", [0, 1000, 16_384])
@pytest.mark.parametrize("ends", [True, False], ids=["whole", "endless"])
@pytest.mark.parametrize("name", ["X-One: ", "X-Many: a\r\nX-Much: "])
async def test_a_head_beyond_64_kib_is_refused_and_the_rest_thrown_away(
    connection: Connection, step: int, ends: bool, name: str
) -> None:
    data = post("/echo", b"body", name + "x" * (200 << 10))
    await connection.send(post(body=b"before"))
    await connection.send(data if ends else data[:-20], step=step)
    if not ends:
        await connection.send(b"x" * (70 << 10), step=step)
    await connection.send(post(body=b"after"))
    assert [status for status, _, _ in connection.answers()] == [200, 431]
    assert msgspec.json.decode(connection.bodies()[1])["code"] == "TOO_LARGE"
    assert connection.transport.written.endswith(b"<EOF>") and len(connection.started) == 1


async def test_a_large_body_is_no_large_head() -> None:
    connection = Connection(limit=1 << 20)
    data = post(body=b"x" * (200 << 10))
    await connection.send(data + data + post(body=b"last", version="1.1"), step=(200 << 10) + 100)
    assert [len(body) for body in connection.bodies()] == [200 << 10, 200 << 10, 4]


@pytest.mark.parametrize(
    "sent", [post("/echo", b"0123456789")[:-3], post("/other", b"0123456789")[:-3], post()[:9], b"\r\n"]
)
async def test_a_client_silent_in_the_middle_of_a_request_is_let_go(
    monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.05)
    monkeypatch.setattr(patience, "SILENCE_S", 0.05)
    monkeypatch.setattr(connections, "_SWEEP_S", 0.01)
    connection = Connection()
    await connection.send(sent)
    await asyncio.sleep(0.02)
    assert not connection.transport.written
    await asyncio.sleep(0.1)
    ((status, headers, body),) = connection.answers()
    assert status == 408 and headers["connection"] == "close" and msgspec.json.decode(body)["code"] == "TOO_SLOW"
    assert connection.transport.written.endswith(b"<EOF>")


async def test_a_client_that_waits_for_its_answer_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.05)
    monkeypatch.setattr(patience, "SILENCE_S", 0.05)
    monkeypatch.setattr(connections, "_SWEEP_S", 0.01)
    connection = Connection()
    await connection.send(post("/wait", b"a"))
    await asyncio.sleep(0.1)
    await connection.send(post("/echo")[:9])  # a piece of the next one changes nothing
    await asyncio.sleep(0.1)
    assert not connection.transport.closed
    connection.waiting[0].respond(b"late")
    assert connection.bodies() == [b"late"]


async def test_a_head_that_comes_drop_by_drop_has_to_be_there_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.08)
    monkeypatch.setattr(connections, "_SWEEP_S", 0.01)
    connection = Connection()
    for index in range(20):
        await connection.send(post()[index : index + 1])
        await asyncio.sleep(0.01)
    assert [status for status, _, _ in connection.answers()] == [408]


async def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "UNREAD_S", 0.05)
    monkeypatch.setattr(connections, "_SWEEP_S", 0.01)
    connection = Connection()
    connection.protocol.pause_writing()
    connection.transport.unread = 70_000
    for _ in range(10):  # as long as it reads at all, however slowly, it may
        connection.transport.unread -= 1
        await asyncio.sleep(0.01)
    assert not connection.transport.aborted
    await asyncio.sleep(0.1)
    assert connection.transport.aborted


async def test_beyond_the_most_connections_one_is_told_so_and_closed() -> None:
    connection = Connection()
    kind = type(connection.protocol)
    kind.most_connections = 1
    second = kind(config=connection.protocol.config, server_state=connection.state, app_state={})
    transport = Transport()
    second.connection_made(transport)
    ((status, headers, _),) = parse(transport.written)
    assert (status, headers["connection"]) == (503, "close") and transport.closed
    await connection.send(post(body=b"well"))
    assert connection.bodies() == [b"well"]


async def test_what_is_wrong_behind_a_request_is_told_after_its_answer(connection: Connection) -> None:
    await connection.send(post("/wait") + b"nonsense\r\n\r\n" + post())
    assert connection.transport.written == b""
    connection.waiting[0].respond(b"mine")
    assert [(status, body) for status, _, body in connection.answers()] == [
        (200, b"mine"), (400, b"Invalid HTTP request received."),
    ]  # fmt: skip
    assert connection.transport.closed


async def test_a_large_head_behind_a_request_is_refused_after_its_answer(connection: Connection) -> None:
    await connection.send(post("/wait") + b"POST /echo HTTP/1.1\r\nX-A: " + b"a" * (100 << 10), step=20 << 10)
    assert connection.transport.written == b""
    connection.waiting[0].respond(b"mine")
    assert [status for status, _, _ in connection.answers()] == [200, 431]


async def test_a_pipelined_body_that_breaks_off_costs_no_answer_before_it(connection: Connection) -> None:
    await connection.send(post("/wait") + chunked("/echo", b"a")[:-5] + b"zz\r\n")
    connection.waiting[0].respond(b"mine")
    assert [status for status, _, _ in connection.answers()] == [200, 400]


@pytest.mark.parametrize("path", ["/echo", "/other"])
@pytest.mark.parametrize("step", [0, 1, 50])
async def test_an_upgrade_that_is_not_to_be_had_is_ignored(connection: Connection, path: str, step: int) -> None:
    wish = ("Connection: keep-alive, Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    await connection.send(post(path, b"body", *wish) + post(body=b"more"), step=step)
    first, second = connection.bodies()
    assert first.endswith(b"body") and second == b"more"


async def test_a_thousand_wishes_for_an_upgrade_are_no_thousand_frames(connection: Connection) -> None:
    await connection.send(post("/echo", b"", "Connection: Upgrade", "Upgrade: x") * 1000)
    for _ in range(3000):
        await asyncio.sleep(0)
    assert len(connection.answers()) == 1000


async def test_an_app_whose_client_left_is_told_also_where_more_was_pipelined(connection: Connection) -> None:
    connection.protocol.data_received(post("/other", b"0123456789")[:-3])
    await settle()
    first = connection.protocol.cycle
    connection.protocol.data_received(b"789" + post("/wait"))
    connection.protocol.connection_lost(None)
    assert first.disconnected
    await settle()
    assert connection.transport.written == b""


@pytest.mark.parametrize("sent", [b"", post(), post("/wait"), post("/other"), post()[:-5], post("/other", b"abc")[:-1]])
async def test_nothing_of_a_lost_connection_is_left_for_the_collector(sent: bytes) -> None:
    connection = Connection()
    if sent:
        await connection.send(sent)
    connection.protocol.connection_lost(None)
    await settle()
    protocol = weakref.ref(connection.protocol)
    gc.disable()
    try:
        connection.waiting.clear()
        connection.started.clear()
        del connection.protocol
        await settle()
        assert protocol() is None
    finally:
        gc.enable()
