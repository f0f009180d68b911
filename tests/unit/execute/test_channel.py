"""From a writer to a reader: in order, bounded, and over for the one when the other has gone."""

from __future__ import annotations

import threading
import time

import pytest

from onward.execute.channel import MOST_WAITING, Channel
from onward.types import CancelToken


def test_values_come_in_order_and_then_what_went_wrong() -> None:
    channel: Channel[int] = Channel(CancelToken())
    for value in range(5):
        assert channel.put(value) is False
    channel.fail(ValueError("broken"))
    channel.end()
    found = []
    with pytest.raises(ValueError, match="broken"):
        for value in channel:
            found.append(value)
    assert found == list(range(5))


def test_a_reader_that_is_behind_holds_the_writer_up() -> None:
    channel: Channel[int] = Channel(CancelToken())
    written = []

    def write() -> None:
        for value in range(3 * MOST_WAITING):
            channel.put(value)
            written.append(value)
        channel.end()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.1)
    assert len(written) <= MOST_WAITING + 1
    assert list(channel) == list(range(3 * MOST_WAITING))
    thread.join()


@pytest.mark.parametrize("way", ["leave", "cancel"])
def test_a_reader_that_has_gone_ends_the_writer(way: str) -> None:
    cancel = CancelToken()
    channel: Channel[int] = Channel(cancel)
    ended = threading.Event()

    def write() -> None:
        while not channel.put(1):
            pass
        ended.set()

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.05)
    channel.leave() if way == "leave" else cancel.cancel()
    assert ended.wait(2)
    thread.join()
