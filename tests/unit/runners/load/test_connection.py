"""A client takes answers in whatever pieces and forms HTTP/1.1 allows; what is no answer is told as one that failed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from onward.errors import UsageError
from onward.runners.load.connection import NO_ANSWER, Client, Place, Reply, message, place_of

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def place_that(answers: Answering) -> AsyncIterator[Place]:
    """A server on a free port."""
    left: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await answers(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield Place(host="127.0.0.1", port=server.sockets[0].getsockname()[1], tls=False, path="")
    finally:
        server.close()
        for writer in left:
            writer.close()
        await server.wait_closed()


async def asked(answers: Answering, *, times: int = 1, timeout_s: float = 5.0) -> list[Reply]:
    async with place_that(answers) as place:
        client = Client(place, timeout_s=timeout_s)
        replies = [await client.ask(message(place, "POST", "/x", {}, b"body")) for _ in range(times)]
        client.close()
        await asyncio.sleep(0)
        return replies


def always(*pieces: bytes, close: bool = False) -> Answering:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\nbody")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001)
            if close:
                return

    return answers


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nright"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        (OK,),
        tuple(OK[at : at + 1] for at in range(len(OK))),
        (CHUNKED + b"2\r\nri\r\n", b"3\r\nght\r\n0\r\n\r\n"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", OK),
    ],
    ids=["whole", "split at every byte", "chunked", "after an informational one"],
)  # fmt: skip
async def test_an_answer_is_taken_however_it_comes_and_the_connection_is_used_again(pieces: tuple[bytes, ...]) -> None:
    replies = await asked(always(*pieces), times=2)
    assert [(one.status, one.body, one.content_type) for one in replies] == [(200, b"right", "text/plain")] * 2
    assert all(one.taken_s > 0 for one in replies)


async def test_an_answer_may_end_with_its_connection() -> None:
    replies = await asked(always(b"HTTP/1.1 200 OK\r\n\r\nri", b"ght", close=True), times=2)
    assert [(one.status, one.body) for one in replies] == [(200, b"right")] * 2


async def test_a_connection_that_was_closed_meanwhile_costs_no_request() -> None:
    replies = await asked(always(OK, close=True), times=3)  # keep-alive by its words, closed by its deeds
    assert [one.status for one in replies] == [200] * 3


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    seen = []

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await reader.readuntil(b"\r\n\r\nbody"))
            writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n")

    (reply,) = await asked(answers)
    assert reply.status == 307 and len(seen) == 1


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (always(b"nonsense\r\n\r\n"), "not HTTP"),
        (always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nri", close=True), "cut"),
        (always(close=True), "cut"),
        (always(), "within 0.05 s"),
    ],
    ids=["not HTTP", "cut in the body", "cut before", "too late"],
)
async def test_what_is_no_answer_is_told_as_one_that_failed(answers: Answering, reason: str) -> None:
    (reply,) = await asked(answers, timeout_s=0.05)
    assert reply.status == NO_ANSWER and reason in reply.body.decode()


async def test_where_nobody_listens_is_told_too() -> None:
    async with place_that(always(OK)) as place:
        pass
    reply = await Client(place, timeout_s=1).ask(b"")
    assert reply.status == NO_ANSWER and b"no connection" in reply.body


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "host:80", "http://", "http://u:p@host/", "http://host:x/", "http://host/ä", "http://host/a b"],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        place_of(url, where="OLD_URL")


def test_an_address_is_taken_apart() -> None:
    assert place_of("https://h/v2/models/a/infer/?x=1", where="") == ("h", 443, True, "/v2/models/a/infer?x=1")
    assert place_of("http://[::1]:8000", where="").authority == "[::1]:8000"


def test_a_header_cannot_become_two() -> None:
    with pytest.raises(UsageError):
        message(Place(host="h", port=80, tls=False, path=""), "POST", "/", {"a": "b\r\nc: d"}, b"")
