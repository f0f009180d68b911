"""Requests gathered into batches: each has its own answer, oldest first, of one key, and failures stay theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from onward.execute.gathering import Gathering

TIMEOUT_S = 10.0


class Doubling:
    """Doubles numbers; waits at its gate; remembers its batches; fails where a number is negative."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        self.entered.set()
        assert self.gate.wait(TIMEOUT_S)
        if any(number < 0 for number in numbers):
            raise ValueError("negative")
        return [2 * number for number in numbers]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


@pytest.fixture
def gathering(doubling: Doubling) -> Iterator[Gathering[int, int]]:
    made = Gathering(doubling, most=4, name="test-gathering")
    yield made
    doubling.gate.set()
    made.close()


def held(gathering: Gathering[int, int], doubling: Doubling) -> None:
    """A first request of its own, which keeps the thread busy until the gate opens."""
    gathering.submit("first", 0)
    assert doubling.entered.wait(TIMEOUT_S)


def test_each_request_has_its_own_answer_from_many_threads(gathering: Gathering[int, int], doubling: Doubling) -> None:
    doubling.gate.set()

    def ask(number: int) -> int:
        return gathering.submit(number % 3, number).result(TIMEOUT_S)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(1000))) == [2 * number for number in range(1000)]
    assert sorted(number for batch in doubling.batches for number in batch) == list(range(1000))
    assert all(len(batch) <= 4 and len({number % 3 for number in batch}) == 1 for batch in doubling.batches)


def test_what_waits_shares_a_batch_of_its_key_oldest_first(gathering: Gathering[int, int], doubling: Doubling) -> None:
    held(gathering, doubling)
    futures = [gathering.submit(key, number) for number, key in enumerate("abaaabaa", 1)]
    doubling.gate.set()
    assert [future.result(TIMEOUT_S) for future in futures] == [2 * number for number in range(1, 9)]
    assert doubling.batches == [[0], [1, 3, 4, 5], [2, 6], [7, 8]]


def test_a_cancelled_request_is_left_out(gathering: Gathering[int, int], doubling: Doubling) -> None:
    held(gathering, doubling)
    futures = [gathering.submit("a", number) for number in (1, 2, 3)]
    assert futures[1].cancel()
    alone = gathering.submit("b", 4)
    assert alone.cancel()
    doubling.gate.set()
    assert (futures[0].result(TIMEOUT_S), futures[2].result(TIMEOUT_S)) == (2, 6)
    with pytest.raises(CancelledError):
        futures[1].result(TIMEOUT_S)
    assert gathering.submit("b", 5).result(TIMEOUT_S) == 10 and doubling.batches == [[0], [1, 3], [5]]


def test_a_failure_is_that_of_its_batch_and_the_next_is_answered(
    gathering: Gathering[int, int], doubling: Doubling
) -> None:
    held(gathering, doubling)
    bad, beside, other = gathering.submit("a", -1), gathering.submit("a", 1), gathering.submit("b", 2)
    doubling.gate.set()
    for future in (bad, beside):
        with pytest.raises(ValueError, match="negative"):
            future.result(TIMEOUT_S)
    assert other.result(TIMEOUT_S) == 4 and gathering.submit("a", 3).result(TIMEOUT_S) == 6


def test_too_few_answers_are_a_failure_and_nobody_waits_for_ever() -> None:
    gathering: Gathering[int, int] = Gathering(lambda numbers: [], most=4, name="test-gathering")
    for _ in range(2):
        with pytest.raises(ValueError, match="0 answers"):
            gathering.submit("a", 1).result(TIMEOUT_S)
    gathering.close()


def test_closing_answers_what_waits_then_refuses_and_is_idempotent(
    gathering: Gathering[int, int], doubling: Doubling
) -> None:
    held(gathering, doubling)
    waiting = gathering.submit("a", 7)
    doubling.gate.set()
    gathering.close()
    gathering.close()
    assert waiting.result(0) == 14
    with pytest.raises(RuntimeError):
        gathering.submit("a", 8)
    assert not any(thread.name == "test-gathering" for thread in threading.enumerate())
