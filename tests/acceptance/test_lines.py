"""Line by line over one request: as many items as there are, answered while they come, in little memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Server, serving, write_loan
from tests.packages import sleeper_package, staged_packages

ITEM = {"amount": 9000.0, "income": 3200.0, "years_employed": 6, "purpose": "car", "customer": True}
KIND = {"content-type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("lines")
    write_loan(root / "loan" / "1.2.0")
    sleeper_package(root / "sleeper" / "1.0.0", queue_rows=4)
    staged_packages(root)
    with serving(root) as running:
        yield running
        assert "Traceback" not in running.log()


def item(amount: float) -> dict[str, Any]:
    return ITEM | {"amount": amount}


def lines(items: list[Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in items)


def post(server: Server, path: str, content: bytes, **headers: str) -> list[Any]:
    answer = httpx.post(server.url + path, content=content, headers=KIND | headers, timeout=30)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def rss_mb(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def test_each_line_has_the_answer_that_it_would_have_alone(mixed: Server) -> None:
    items = [item(100.0 + 37 * number) for number in range(300)]
    told = post(mixed, "/models/loan?outputs=contributions", lines(items))
    for one, answer in zip(items[::50], told[::50], strict=True):
        alone = httpx.post(f"{mixed.url}/models/loan?outputs=contributions", json=one).json()
        alone.pop("request_id"), answer.pop("request_id")
        assert answer == alone
    assert len(told) == 300 and len({answer["answer"]["risk"] for answer in told}) > 100


def test_a_bad_line_harms_no_other(mixed: Server) -> None:
    content = lines([item(200.0)]) + b"\n{nonsense\n" + lines([item(1.0), [ITEM], 5, item(300.0)])
    told = post(mixed, "/models/loan", content)
    assert [one.get("code", "right") for one in told] == [
        "right", "MALFORMED_BODY", "OUT_OF_RANGE", "MALFORMED_BODY", "MALFORMED_BODY", "right",
    ]  # fmt: skip
    assert [one["line"] for one in told if "code" in one] == [3, 4, 5, 6]
    assert told[2]["field"] == "amount"


def test_compressed_lines_are_read(mixed: Server) -> None:
    told = post(mixed, "/models/loan", gzip.compress(lines([item(200.0)] * 500)), **{"content-encoding": "gzip"})
    assert len(told) == 500 and all("answer" in one for one in told)


def test_packages_of_stages_take_lines_too(mixed: Server) -> None:
    told = post(mixed, "/models/chain", lines([{"x": [1, 2, 3]}, {"x": [1, 2]}, {"x": [1, 2, 3], "way": "long"}]))
    assert [one.get("answer", one.get("code")) for one in told] == [
        {"y": [2.0, 4.0, 6.0]}, "WRONG_SHAPE", {"y": [12.0, 14.0, 16.0]},
    ]  # fmt: skip


def test_a_model_that_is_not_there_is_an_ordinary_error(mixed: Server) -> None:
    answer = httpx.post(mixed.url + "/models/nobody", content=lines([ITEM]), headers=KIND)
    assert answer.status_code == 404 and answer.json()["code"] == "MODEL_NOT_FOUND"


def test_a_queue_shorter_than_the_body_makes_it_slower_and_no_line_fails(mixed: Server) -> None:
    told = post(mixed, "/models/sleeper", lines([{"x": [0.002]}] * 100))
    assert [one["answer"] for one in told] == [{"y": [pytest.approx(0.002)]}] * 100


async def test_answers_come_while_the_body_is_still_being_sent(mixed: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mixed.port)
    head = "POST /models/loan HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n"
    writer.write((head + "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n").encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    for number in range(20):
        line = lines([item(1000.0 + number)])
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        size = int(await asyncio.wait_for(reader.readline(), 5), 16)
        assert "answer" in json.loads((await reader.readexactly(size + 2))[:-2])
    writer.write(b"0\r\n\r\n")
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"0\r\n\r\n"
    # And the connection is as good as new.
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


async def stream(server: Server, count: int, *, read: bool = True) -> AsyncIterator[bytes]:
    """Answers to so many lines, sent as fast as they are taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    line = lines([ITEM]) * 100
    writer.write(
        b"POST /models/loan HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Type: application/x-ndjson\r\n"
        b"Content-Length: %d\r\n\r\n" % (len(line) * (count // 100))
    )

    async def send() -> None:
        for _ in range(count // 100):
            writer.write(line)
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        await reader.readuntil(b"\r\n\r\n")
        if not read:
            await asyncio.sleep(1)
        while told := await reader.readline():
            if told.startswith(b"{"):  # chunks come in whole lines
                yield told
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()


async def test_memory_does_not_grow_with_the_body_nor_with_a_client_that_does_not_read(mixed: Server) -> None:
    async for _ in stream(mixed, 2000):
        pass
    before = rss_mb(mixed)
    answers = 0
    async for told in stream(mixed, 20_000, read=False):
        answers += b'"answer"' in told
        if answers == 1:
            assert rss_mb(mixed) - before < 16
    assert answers == 20_000
    assert rss_mb(mixed) - before < 16


async def test_a_client_that_leaves_in_the_middle_is_not_worked_for(mixed: Server) -> None:
    seen = 0
    answers = stream(mixed, 1_000_000)
    async for _ in answers:
        seen += 1
        if seen == 500:
            break
    await answers.aclose()
    await asyncio.sleep(0.5)
    before = rows(mixed)
    await asyncio.sleep(0.5)
    assert rows(mixed) == before and before < 1_000_000


def rows(server: Server) -> int:
    return int(httpx.get(server.url + "/v2/models/loan/stats").json()["model_stats"][0]["inference_count"])


async def test_a_server_that_drains_says_from_which_line_on_to_send_again(tmp_path: Path) -> None:
    write_loan(tmp_path / "loan" / "1.2.0")
    with serving(tmp_path) as server:
        told = []
        started = time.monotonic()
        async for answer in stream(server, 1_000_000):
            told.append(answer)
            if len(told) == 1000:
                server.process.send_signal(signal.SIGTERM)
        assert time.monotonic() - started < 20
    *answers, last = [json.loads(line) for line in told]
    assert len(answers) >= 1000 and all("answer" in one for one in answers)
    assert last["code"] == "NOT_READY" and last["line"] == len(answers) + 1
