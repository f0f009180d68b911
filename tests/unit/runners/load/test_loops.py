"""A closed loop measures what a server can do, an open loop what callers meet who do not wait for each other."""

from __future__ import annotations

import asyncio
import itertools
import time

from onward.runners.load.connection import Client, message
from onward.runners.load.loops import Seen, closed, opened
from tests.unit.runners.load.test_connection import OK, place_that


async def stepwise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers after 5 ms, and every request /bad with a 429."""
    while True:
        request = await reader.readuntil(b"\r\n\r\nbody")
        await asyncio.sleep(0.005)
        refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
        writer.write(refused if b"/bad" in request else OK)


async def test_a_closed_loop_keeps_so_many_requests_under_way_and_counts_failures_apart() -> None:
    async with place_that(stepwise) as place:
        client = Client(place, timeout_s=5)
        good, bad = (message(place, "POST", path, {}, b"body") for path in ("/good", "/bad"))
        seen = await closed(client, itertools.cycle([good, good, good, bad]), together=4, seconds=0.2)
        assert len(client.free) == 4
        client.close()
    answered, refused = len(seen.latencies_s), seen.failures[429]
    assert seen.offered == answered + refused and 0.2 < refused / answered < 0.5
    assert min(seen.latencies_s) >= 0.005
    assert 100 < seen.per_s < 700


async def test_an_open_loop_charges_a_pause_to_all_who_came_meanwhile() -> None:
    paused = False

    async def stands_still_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal paused
        while True:
            await reader.readuntil(b"\r\n\r\nbody")
            if not paused:
                paused = True
                await asyncio.to_thread(time.sleep, 0.1)
            writer.write(OK)

    async with place_that(stands_still_once) as place:
        client = Client(place, timeout_s=5)
        messages = [message(place, "POST", "/", {}, b"body")]
        seen = await opened(client, messages, per_s=200, seconds=0.4, connections=1)
        client.close()
    assert 50 < seen.offered < 120 and len(seen.latencies_s) == seen.offered and not seen.failures
    # On one connection some 20 requests were due behind the one that was not answered: all of them waited.
    assert sum(one > 0.02 for one in seen.latencies_s) >= 8


def test_quantiles_are_of_all_that_was_joined() -> None:
    seen, other = Seen(latencies_s=[0.1] * 98, elapsed_s=1), Seen(latencies_s=[0.5, 0.9], elapsed_s=1)
    seen.join(other)
    assert (seen.quantile_s(0.5), seen.quantile_s(0.98), seen.quantile_s(1.0), seen.per_s) == (0.1, 0.5, 0.9, 50)
    assert Seen().quantile_s(0.5) != Seen().quantile_s(0.5)
