"""A body of lines: cut, answered in order, and never more of it held than a few."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from starlette.requests import Request
from starlette.types import Message

from onward.errors import MalformedBody, MissingInput, OnwardError, Overloaded, UnsupportedMedia
from onward.execute.work import NEW
from onward.package.records import Batching, Limits, Manifest, PackageInfo
from onward.runners.serve import lines
from onward.runners.serve.caller import caller_of
from onward.runners.serve.exchange import Exchange
from onward.runners.serve.lines import Lines, Splitter

LIMIT = 50


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_LINGER_S", 0.02)


@given(
    text=some.lists(some.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    cuts=some.lists(some.integers(1, 9), min_size=1, max_size=5),
    ended=some.booleans(),
)
def test_lines_are_the_same_however_the_body_comes(text: list[bytes], cuts: list[int], ended: bool) -> None:
    body = b"\n".join(text) + (b"\n" if ended and text else b"")
    splitter = Splitter(LIMIT)
    found = []
    at = turn = 0
    while at < len(body):
        step = cuts[turn % len(cuts)]
        found += list(splitter.feed(body[at : at + step]))
        at, turn = at + step, turn + 1
    found += list(splitter.finish())
    told = [(number, line) for number, line in found if isinstance(line, bytes)]
    wanted = [(n, line.strip()) for n, line in enumerate(text, 1) if line.strip() and line.strip()[:1] != b"["]
    assert told == wanted


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_a_line_that_is_too_large_is_told_once_and_the_next_is_read(step: int) -> None:
    body = b"a\n" + b"b" * 300 + b"\nc\n" + b"d" * (LIMIT + 1)
    splitter = Splitter(LIMIT)
    found = [line for at in range(0, len(body), step) for line in splitter.feed(body[at : at + step])]
    found += list(splitter.finish())
    assert [number for number, _ in found] == [1, 2, 3, 4]
    told = [line if isinstance(line, bytes) else line.code for _, line in found]
    assert told == [b"a", "TOO_LARGE", b"c", "TOO_LARGE"]


@given(
    body=some.lists(some.sampled_from([b"\n", b" ", b"\r\n", b"a", b" b", b"c" * 4, b"d" * 11]), max_size=30),
    cuts=some.lists(some.integers(1, 9), min_size=1, max_size=5),
)
def test_empty_and_too_large_lines_are_the_same_however_the_body_comes(body: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(body)
    splitter = Splitter(10)
    wanted = [*splitter.feed(whole), *splitter.finish()]
    found = []
    at = turn = 0
    splitter = Splitter(10)
    while at < len(whole):
        step = cuts[turn % len(cuts)]
        found += list(splitter.feed(whole[at : at + step]))
        at, turn = at + step, turn + 1
    found += list(splitter.finish())
    assert [(number, str(line)) for number, line in found] == [(number, str(line)) for number, line in wanted]


def test_a_long_line_costs_as_much_as_it_is_long() -> None:
    splitter = Splitter(8 << 20)
    piece = b"x" * 1024
    began_s = time.process_time()
    found = [line for _ in range(8 << 10) for line in splitter.feed(piece)]
    assert time.process_time() - began_s < 1, "copying all of it for each piece takes several seconds"
    found += list(splitter.finish())
    assert [(number, len(line)) for number, line in found if isinstance(line, bytes)] == [(1, 8 << 20)]


class Client:
    """Sends messages, and keeps what comes back."""

    def __init__(self, messages: Iterable[Message], *, leaves: bool = False) -> None:
        self.messages = list(messages)
        self.leaves = leaves
        self.sent: list[Message] = []
        self.taken = 0
        self.reads = asyncio.Event()
        self.reads.set()

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        if self.taken < len(self.messages):
            self.taken += 1
            return self.messages[self.taken - 1]
        if self.leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)

    def lines(self) -> list[Any]:
        """The answers."""
        body = b"".join(message.get("body", b"") for message in self.sent)
        assert body.endswith(b"\n") or not body
        return [msgspec.json.decode(line) for line in body.splitlines()]


def pieces(*parts: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": part, "more_body": index < len(parts) - 1} for index, part in enumerate(parts)
    ]


def manifest(limits: dict[str, Any]) -> Manifest:
    info = PackageInfo(name="m", version="1", licence="Apache-2.0")
    return Manifest(
        package=info, inputs=(), outputs=(), limits=Limits(**limits), batching=Batching(max_batch_size=4)
    )  # fmt: skip


async def ask(
    client: Client, handle: Callable[[Exchange], None], *, headers: dict[str, str] | None = None,
    accepting: Callable[[], bool] = lambda: True, **limits: Any,
) -> None:  # fmt: skip
    """Let a body of lines be answered by `handle`."""
    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": "/models/m", "query_string": b"a=b", "headers": named}
    response = Lines(Request(scope), manifest(limits), lambda: handle, accepting)
    await asyncio.wait_for(response(scope, client.receive, client.send), 5)


def echo(exchange: Exchange) -> None:
    exchange.respond(b'{"was":%b}' % bytes(exchange.body))


async def test_each_line_is_answered_in_order_though_they_end_in_another() -> None:
    client = Client(pieces(b"1\n2\n3\n", b"4\n5", b"6\n\n7"))

    def handle(exchange: Exchange) -> None:
        number = int(exchange.body)
        asyncio.get_running_loop().call_later(0.02 / number, exchange.respond, b'{"was":%d}' % number)

    await ask(client, handle)
    assert [line["was"] for line in client.lines()] == [1, 2, 3, 4, 56, 7]
    assert client.sent[0]["status"] == 200
    assert (b"content-type", b"application/x-ndjson") in client.sent[0]["headers"]
    assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_a_bad_line_is_an_error_with_its_number_and_no_others_are_harmed() -> None:
    client = Client(pieces(b'1\nbad\n\n[2]\n4\ncrash\n"' + b"x" * 99 + b'"\n7\n'))

    def handle(exchange: Exchange) -> None:
        if bytes(exchange.body) == b"bad":
            raise MissingInput(where="x")
        if bytes(exchange.body) == b"crash":
            raise ZeroDivisionError
        echo(exchange)

    await ask(client, handle, body_bytes=LIMIT)
    told = client.lines()
    assert [line.get("was", line.get("code")) for line in told] == [
        1, "MISSING_INPUT", "MALFORMED_BODY", 4, "INTERNAL", "TOO_LARGE", 7,
    ]  # fmt: skip
    assert [line["line"] for line in told if "code" in line] == [2, 4, 6, 7]
    assert told[1]["field"] == "x" and told[1]["request_id"] != told[2]["request_id"]


async def test_no_more_than_a_few_lines_are_on_their_way() -> None:
    waiting: list[Exchange] = []
    client = Client(pieces(*(b"%d\n" % number * 100 for number in range(1000))))
    asking = asyncio.create_task(ask(client, waiting.append))
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(waiting) == 8, "two batches of four"
    assert client.taken <= 3
    waiting.pop(0).respond(b"{}")
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(waiting) == 8
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert all(exchange.disconnected for exchange in waiting)


async def test_no_more_bytes_than_one_request_may_have_are_held() -> None:
    waiting: list[Exchange] = []
    client = Client(pieces(*(b"%040d\n" % number for number in range(100))))
    asking = asyncio.create_task(ask(client, waiting.append, body_bytes=100))
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(waiting) == 2
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_a_client_that_does_not_read_its_answers_is_not_read_either() -> None:
    client = Client(pieces(*(b"%d\n" % number * 100 for number in range(1000))))
    asking = asyncio.create_task(ask(client, echo))
    await asyncio.sleep(0)
    client.reads.clear()
    for _ in range(300):
        await asyncio.sleep(0)
    taken = client.taken
    for _ in range(300):
        await asyncio.sleep(0)
    assert client.taken == taken < 10
    client.reads.set()
    await asking
    assert len(client.lines()) == 100_000


async def test_the_lines_of_a_client_that_leaves_are_given_up_at_once() -> None:
    waiting: list[Exchange] = []
    client = Client(pieces(b"1\n2\n", b"3\n")[:1], leaves=True)
    await ask(client, waiting.append)
    assert len(waiting) == 2 and all(exchange.disconnected for exchange in waiting)
    assert client.lines() == []


async def test_a_full_queue_makes_a_line_come_again_until_its_time_is_over() -> None:
    tries: dict[bytes, int] = {}

    def handle(exchange: Exchange) -> None:
        body = bytes(exchange.body)
        tries[body] = tries.get(body, 0) + 1
        if body == b"2" or tries[body] < 3:
            raise Overloaded("full", retry_after_s=0.01)
        echo(exchange)

    client = Client(pieces(b"1\n2\n3\n"))
    await ask(client, handle, deadline_ms=200)
    assert [line.get("was", line.get("code")) for line in client.lines()] == [1, "QUEUE_FULL", 3]
    assert tries[b"1"] == tries[b"3"] == 3 and tries[b"2"] > 3


async def test_a_line_is_tried_no_longer_than_its_caller_waits_and_each_try_is_told_what_is_left() -> None:
    given: list[float] = []
    began_s = time.monotonic()

    def handle(exchange: Exchange) -> None:
        given.append(float(exchange.headers[b"x-onward-timeout-ms"]))
        assert given[-1] <= 100 - (time.monotonic() - began_s - 0.02) * 1000, "what is left, since the first try"
        raise Overloaded("full", retry_after_s=0.02)

    client = Client(pieces(b"1\n"))
    await ask(client, handle, headers={"x-onward-timeout-ms": "100"}, deadline_ms=5000)
    assert time.monotonic() - began_s < 0.5
    assert [line["code"] for line in client.lines()] == ["QUEUE_FULL"]
    assert given[0] == 100 and 1 < len(given) <= 5 and given == sorted(given, reverse=True)


async def test_a_timeout_that_is_none_is_refused_before_anything_is_answered() -> None:
    with pytest.raises(MalformedBody):
        await ask(Client(pieces(b"1\n")), echo, headers={"x-onward-timeout-ms": "soon"})


async def test_a_line_is_new_at_first_and_then_one_that_was_told_to_come_back() -> None:
    standings: list[int] = []

    def handle(exchange: Exchange) -> None:
        standings.append(exchange.standing)
        if len(standings) < 3:
            raise Overloaded("full", retry_after_s=0.001, promised_rows=(5, 0)[len(standings) - 1])
        echo(exchange)

    await ask(Client(pieces(b"1\n")), handle)
    assert standings == [NEW, 5, NEW], "for the rows that were promised, if any were"


@pytest.mark.parametrize("size", [1, 234, 235, 255])
async def test_each_line_has_a_key_of_its_own_that_is_valid_however_long_the_whole_one_is(size: int) -> None:
    keys: list[str] = []

    def handle(exchange: Exchange) -> None:
        keys.append(caller_of(exchange.headers).idempotency_key)
        echo(exchange)

    for key in ("k" * size, "k" * size, "k" * (size - 1) + "j"):
        await ask(Client(pieces(b"1\n2\n")), handle, headers={"idempotency-key": key})
    assert keys[:2] == keys[2:4], "the same key again has the same ones"
    assert len(set(keys)) == 4


async def test_a_key_that_is_too_long_for_a_request_is_too_long_for_lines() -> None:
    with pytest.raises(MalformedBody):
        await ask(Client(pieces(b"1\n")), echo, headers={"idempotency-key": "k" * 256})


async def test_a_server_that_drains_answers_what_it_has_read_and_says_from_where_to_send_again() -> None:
    seen = 0

    def accepting() -> bool:
        nonlocal seen
        seen += 1
        return seen <= 3

    client = Client(pieces(b"1\n2\n3\n4\n5\n", b"6\n"))
    await ask(client, echo, accepting=accepting)
    told = client.lines()
    assert [line.get("was", line.get("code")) for line in told] == [1, 2, 3, "NOT_READY"]
    assert told[-1]["line"] == 4 and "again" in told[-1]["error"]


async def test_headers_go_with_every_line_but_those_of_the_whole() -> None:
    seen: list[Exchange] = []

    def handle(exchange: Exchange) -> None:
        seen.append(exchange)
        echo(exchange)

    headers = {"x-onward-tenant": "a", "idempotency-key": "k", "content-type": "application/x-ndjson", "accept": "x"}
    await ask(Client(pieces(b"1\n\n2\n")), handle, headers=headers)
    assert [dict(exchange.headers) for exchange in seen] == [
        {b"x-onward-tenant": b"a", b"idempotency-key": b"k:1"}, {b"x-onward-tenant": b"a", b"idempotency-key": b"k:3"},
    ]  # fmt: skip
    assert {exchange.query for exchange in seen} == {b"a=b"}


BODY = b"".join(b"%d\n" % number for number in range(50_000))


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("gzip", gzip.compress(BODY[:100_000]) + gzip.compress(BODY[100_000:])),
    ],
)
async def test_a_compressed_body_is_unpacked_as_it_comes(encoding: str, packed: bytes) -> None:
    client = Client(pieces(*(packed[at : at + 777] for at in range(0, len(packed), 777))))
    await ask(client, echo, headers={"content-encoding": encoding})
    assert [line["was"] for line in client.lines()] == list(range(50_000))


async def test_what_breaks_the_whole_body_is_told_after_the_answers_before_it() -> None:
    packed = gzip.compress(BODY)
    for broken in ([packed[:5000]], [packed[:5000], b"nonsense" * 100]):
        client = Client(pieces(*broken))
        await ask(client, echo, headers={"content-encoding": "gzip"})
        *answers, last = client.lines()
        assert [line["was"] for line in answers] == list(range(len(answers))) and len(answers) > 100
        assert last["code"] == "MALFORMED_BODY" and last["line"] == len(answers) + 1


async def test_an_encoding_that_is_none_is_refused_before_anything_is_answered() -> None:
    with pytest.raises(UnsupportedMedia):
        await ask(Client(pieces(b"1\n")), echo, headers={"content-encoding": "br"})


async def test_nothing_but_empty_lines_has_no_answers() -> None:
    client = Client(pieces(b"\n\n \r\n"))
    await ask(client, echo)
    assert client.lines() == [] and len(client.sent) == 2


async def test_every_error_keeps_what_its_body_says() -> None:
    client = Client(pieces(b"1\n"))

    def handle(exchange: Exchange) -> None:
        exchange.fail(OnwardError("no", where="x"))

    await ask(client, handle)
    (line,) = client.lines()
    assert (line["error"], line["code"], line["field"], line["line"]) == ("x: no", "INTERNAL", "x", 1)


class Others:
    """Everybody else who wants to be served: how often they were."""

    def __init__(self) -> None:
        self.turns = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._task.cancel()


async def test_others_get_their_turn_between_lines() -> None:
    others = Others()
    seen: list[int] = []

    def handle(exchange: Exchange) -> None:
        seen.append(others.turns)
        echo(exchange)

    await ask(Client(pieces(b"1\n\n" * 2000)), handle)
    others.stop()
    assert max(seen.count(turn) for turn in set(seen)) <= 8


@pytest.mark.parametrize("body", [b"\n" * (20 << 20), b"x" * (20 << 20)], ids=["empty lines", "a line too large"])
async def test_others_get_their_turn_while_a_small_body_is_unpacked_to_a_large_one(body: bytes) -> None:
    others = Others()
    packed = gzip.compress(body)
    assert len(packed) < 64 << 10
    client = Client(pieces(packed))
    await ask(client, echo, headers={"content-encoding": "gzip"}, body_bytes=4 << 20)
    others.stop()
    assert others.turns > len(body) / (64 << 10)
    assert [line["code"] for line in client.lines()] == (["TOO_LARGE"] if body[:1] == b"x" else [])


@pytest.mark.parametrize(("body", "told"), [(b"\n", 1), (b"x", 2)])
async def test_a_compressed_body_ends_where_it_brings_no_line_for_long(body: bytes, told: int) -> None:
    packed = gzip.compress(b"1\n" + body * (3 << 20) + b"\n2\n")
    client = Client(pieces(packed))
    await ask(client, echo, headers={"content-encoding": "gzip"}, body_bytes=LIMIT)
    first, *errors = client.lines()
    assert first["was"] == 1
    assert [error["code"] for error in errors] == ["TOO_LARGE"] * told
    assert errors[-1]["expected"].startswith("a line in 1048576 bytes")
