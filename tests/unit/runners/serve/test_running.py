"""One stream between its thread and its reader: in order, bounded, ended by whoever has reason to."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from onward.errors import Cancelled, DeadlineExceeded, ExecutionError
from onward.execute.backend import Tell
from onward.runners.serve.running import MOST_UNREAD, Running, Wakes
from onward.types import CancelToken, Event


def begun(make: Callable[[CancelToken, Tell], None], *, within_s: float = 30.0) -> tuple[Running, threading.Thread]:
    running = Running(time.monotonic() + within_s, lambda event, made_s: None, Wakes())
    thread = threading.Thread(target=running.drive, args=(make,))
    thread.start()
    return running, thread


def endless(_: CancelToken, tell: Tell) -> None:
    while not tell(Event(kind="delta", text="x")):
        pass


async def test_events_are_read_in_the_order_in_which_they_were_made() -> None:
    def make(_: CancelToken, tell: Tell) -> None:
        for number in range(5 * MOST_UNREAD):
            tell(Event(kind="delta", text=str(number)))

    running, thread = begun(make)
    assert [event.text async for event in running] == [str(number) for number in range(5 * MOST_UNREAD)]
    thread.join()


async def test_a_reader_that_is_behind_holds_the_thread_up() -> None:
    made = 0

    def make(_: CancelToken, tell: Tell) -> None:
        nonlocal made
        for _number in range(3 * MOST_UNREAD):
            tell(Event(kind="delta"))
            made += 1

    running, thread = begun(make)
    await asyncio.sleep(0.1)
    assert made <= MOST_UNREAD + 1
    assert len([event async for event in running]) == 3 * MOST_UNREAD
    thread.join()


async def test_what_the_thread_fails_with_is_raised_after_what_it_made() -> None:
    def make(_: CancelToken, tell: Tell) -> None:
        tell(Event(kind="delta", text="one"))
        raise ExecutionError("broken")

    running, thread = begun(make)
    found = []
    with pytest.raises(ExecutionError, match="broken"):
        async for event in running:
            found.append(event.text)
    assert found == ["one"]
    thread.join()


async def test_cancelling_ends_thread_and_reader() -> None:
    running, thread = begun(endless)
    await anext(running)
    running.cancel()
    running.cancel()
    with pytest.raises(Cancelled):
        await anext(running)
    await asyncio.wait_for(running.finished.wait(), 5)
    thread.join(5)
    assert not thread.is_alive()


async def test_the_deadline_ends_it_between_two_events() -> None:
    running, thread = begun(endless, within_s=0.1)
    with pytest.raises(DeadlineExceeded):
        async for _ in running:
            pass
    thread.join(5)
    assert not thread.is_alive()


async def test_one_that_never_ran_is_finished_as_soon_as_it_is_given_up() -> None:
    running = Running(time.monotonic() + 30, lambda event, made_s: None, Wakes())
    running.cancel()
    assert running.finished.is_set()
    with pytest.raises(Cancelled):
        await running.admitted()
