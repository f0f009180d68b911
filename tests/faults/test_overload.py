"""More than the server can do: it says when to come back and keeps its word, and computes nothing for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.conftest import Server, serving
from tests.packages import sleeper_package

QUEUE_ROWS = 16
BATCH_ROWS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("repository")
    sleeper_package(root / "sleeper" / "1.0.0", queue_rows=QUEUE_ROWS, max_batch_size=BATCH_ROWS)
    sleeper_package(root / "roomy" / "1.0.0", name="roomy", queue_rows=4096, max_batch_size=2, deadline_ms=120_000)
    with serving(root, files=4096) as running:
        yield running
        assert "Traceback" not in running.log()


def body_of(seconds: float, *, rows: int = 1, **parameters: str) -> bytes:
    tensor = {"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [seconds] * rows}
    return json.dumps({"inputs": [tensor]} | ({"parameters": parameters} if parameters else {})).encode()


def head_of(model: str, body: bytes, headers: str = "") -> bytes:
    return f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()


def metrics(server: Server, model: str) -> dict[str, float]:
    """The model's counters by name, those of shed requests by reason."""
    text = httpx.get(server.url + "/metrics").text
    return {
        sample.name + sample.labels.get("reason", ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == model
    }


@dataclass(slots=True)
class Connection:
    """One client: a connection that is made where there is none."""

    port: int
    lasting: bool = True
    address: str = "127.0.0.1"
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0))
        reader, writer = self.streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        if not self.lasting:
            await self.close()
        return int(head[0].split()[1]), headers, body

    async def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            with contextlib.suppress(OSError):
                await self.streams[1].wait_closed()
            self.streams = None


@dataclass(slots=True)
class Count:
    answered: int = 0
    turned_away: int = 0
    came_back: int = 0
    admitted: int = 0
    waits_s: list[float] = field(default_factory=list)


async def obey(number: int, port: int, count: Count, until_s: float, lasting: bool) -> None:
    """Ask again and again; where turned away, come back when told, and not before. Counted once all have begun."""
    counts_from_s = time.monotonic() + 1.0
    connection = Connection(port, lasting, "127.0.0.1" if lasting else f"127.0.1.{number + 1}")
    body = body_of(0.02)
    request = head_of("sleeper", body) + body
    told = False
    while time.monotonic() < until_s:
        status, headers, answer = await connection.ask(request)
        assert status in (200, 429), answer
        if time.monotonic() > counts_from_s:
            count.came_back += told
            count.admitted += told and status == 200
            count.answered += status == 200
        told = status == 429
        if told:
            count.turned_away += 1
            after_ms = int(headers["x-onward-retry-after-ms"])
            assert int(headers["retry-after"]) == max(1, math.ceil(after_ms / 1000))
            count.waits_s.append(after_ms / 1000)
            await asyncio.sleep(after_ms / 1000)
    await connection.close()


@pytest.mark.parametrize("lasting", [True, False], ids=["kept alive", "an address each"])
async def test_who_comes_back_when_told_is_admitted_and_the_server_stays_busy(server: Server, lasting: bool) -> None:
    count = Count()
    seconds = 3.5
    until_s = time.monotonic() + seconds
    await asyncio.gather(*(obey(number, server.port, count, until_s, lasting) for number in range(60)))
    assert count.came_back > 100, "the queue was full all the time"
    assert count.admitted >= 0.9 * count.came_back, count
    assert count.answered >= 0.7 * (seconds - 1.0) * BATCH_ROWS / 0.02
    assert 0.02 < sum(count.waits_s) / len(count.waits_s) < 2.0


async def test_a_thousand_clients_that_leave_at_once_cost_next_to_nothing(server: Server) -> None:
    before = metrics(server, "roomy")
    clients, took_s = 1000, 0.1  # two at a time: all of them would take 50 seconds
    body = body_of(took_s)
    request = head_of("roomy", body) + body
    connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(clients)]
    for _, writer in connections:
        writer.write(request)
    async with asyncio.timeout(20):
        while metrics(server, "roomy")["onward_queue_rows"] < 0.7 * clients:
            await asyncio.sleep(0.02)
    for _, writer in connections:
        writer.transport.abort()
    left_s = time.monotonic()
    await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        while (after := metrics(server, "roomy"))["onward_queue_rows"]:
            await asyncio.sleep(0.02)
    assert time.monotonic() - left_s < 2.0
    cancelled = after["onward_requests_shed_totalcancelled"] - before.get("onward_requests_shed_totalcancelled", 0.0)
    ran = after["onward_rows_total"] - before["onward_rows_total"]
    assert cancelled >= 0.6 * clients and clients - 4 <= cancelled + ran <= clients
    wasted_s = after["onward_work_wasted_seconds_total"] - before["onward_work_wasted_seconds_total"]
    assert wasted_s < 0.01 * clients / 2 * took_s
    started_s = time.monotonic()
    now = body_of(0.0)
    assert (await Connection(server.port, False).ask(head_of("roomy", now) + now))[0] == 200
    assert time.monotonic() - started_s < 0.5


async def test_what_nobody_can_wait_for_any_more_is_told_in_time_and_never_computed(server: Server) -> None:
    before = metrics(server, "roomy")
    body = body_of(0.5)
    first = asyncio.create_task(Connection(server.port, False).ask(head_of("roomy", body) + body))
    await asyncio.sleep(0.1)
    started_s = time.monotonic()
    hurried = head_of("roomy", body, "X-Onward-Timeout-Ms: 100\r\n") + body
    answers = await asyncio.gather(*(Connection(server.port, False).ask(hurried) for _ in range(50)))
    assert 0.09 < time.monotonic() - started_s < 0.35
    # Those behind the first can see that there will be no time left for them.
    told = [status for status, _, _ in answers]
    late = told.count(504)
    assert late >= 1 and late + told.count(429) == len(told)
    assert (await first)[0] == 200
    after = metrics(server, "roomy")
    assert after["onward_rows_total"] - before["onward_rows_total"] == 1
    assert after["onward_requests_shed_totalexpired"] - before.get("onward_requests_shed_totalexpired", 0.0) == late


@pytest.mark.parametrize("how", ["header", "parameter"])
async def test_urgent_requests_overtake_those_that_can_wait_and_all_are_answered(server: Server, how: str) -> None:
    order: list[str] = []

    async def ask(priority: str) -> None:
        body = body_of(0.02, priority=priority) if how == "parameter" else body_of(0.02)
        headers = "" if how == "parameter" else f"X-Onward-Priority: {priority}\r\n"
        status, _, _ = await Connection(server.port, False).ask(head_of("roomy", body, headers) + body)
        assert status == 200
        order.append(priority)

    waiting = [asyncio.create_task(ask("low")) for _ in range(40)]
    await asyncio.sleep(0.1)
    waiting += [asyncio.create_task(ask(priority)) for priority in ("high", "normal") for _ in range(4)]
    await asyncio.gather(*waiting)
    last_high, last_normal = (max(at for at, one in enumerate(order) if one == name) for name in ("high", "normal"))
    assert last_high < last_normal < len(order) - 10
    assert order.count("low") == 40


async def test_what_is_larger_than_a_batch_runs_alone_and_than_the_queue_is_too_large(server: Server) -> None:
    for rows, wanted in ((BATCH_ROWS + 5, 200), (QUEUE_ROWS, 200), (QUEUE_ROWS + 1, 413), (1025, 413)):
        body = body_of(0.01, rows=rows)
        async with asyncio.timeout(5):
            status, _, answer = await Connection(server.port, False).ask(head_of("sleeper", body) + body)
        assert status == wanted, answer
        if status == 200:
            assert json.loads(answer)["outputs"][0]["shape"] == [rows, 1]


async def test_rows_count_not_requests(server: Server) -> None:
    large, small = body_of(0.3, rows=BATCH_ROWS), body_of(0.0)
    first = asyncio.create_task(Connection(server.port, False).ask(head_of("sleeper", large) + large))
    await asyncio.sleep(0.1)
    waits = body_of(0.0, rows=QUEUE_ROWS)
    second = asyncio.create_task(Connection(server.port, False).ask(head_of("sleeper", waits) + waits))
    await asyncio.sleep(0.05)
    status, headers, _ = await Connection(server.port, False).ask(head_of("sleeper", small) + small)
    assert status == 429 and int(headers["retry-after"]) >= 1
    assert [one[0] for one in await asyncio.gather(first, second)] == [200, 200]


@dataclass(slots=True)
class Load:
    answered_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


async def open_loop(port: int, rate: float, seconds: float, deadline_ms: int) -> Load:
    """Requests at random times, whatever became of those before: how long each answer took from when it was due."""
    load, idle, tasks = Load(), [Connection(port) for _ in range(8)], set()
    chance = random.Random(5)
    body = body_of(0.02)
    request = head_of("roomy", body, f"X-Onward-Timeout-Ms: {deadline_ms}\r\n") + body

    async def ask(due_s: float) -> None:
        connection = idle.pop() if idle else Connection(port)
        status, _, _ = await connection.ask(request)
        load.statuses.append(status)
        if status == 200:
            load.answered_s.append(time.monotonic() - due_s)
        idle.append(connection)

    due_s = started_s = time.monotonic()
    while due_s < started_s + seconds:
        due_s += chance.expovariate(rate)
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        task = asyncio.create_task(ask(due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for connection in idle:
        await connection.close()
    return load


@pytest.mark.long
async def test_three_times_the_capacity_leaves_the_useful_answers_as_many_and_as_quick(server: Server) -> None:
    seconds, deadline_ms, capacity = 10.0, 200, 2 / 0.02
    peak = await open_loop(server.port, 0.9 * capacity, seconds, deadline_ms)
    much = await open_loop(server.port, 3.0 * capacity, seconds, deadline_ms)
    assert {200, 429} <= set(much.statuses) <= {200, 429, 504}
    good, useful = (sum(took_s <= deadline_ms / 1000 for took_s in one.answered_s) for one in (peak, much))
    assert useful >= 0.9 * good
    assert sorted(much.answered_s)[int(0.99 * len(much.answered_s))] <= deadline_ms / 1000
