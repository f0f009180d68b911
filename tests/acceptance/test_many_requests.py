"""Very many requests at a time, of all shapes, to all models: none gets another's answer, none gets none.

Also while the server drains, and whatever it was that ended it: every answer that came was right.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import STOP_TIMEOUT_S, Server, serving, start, wait_until_ready
from tests.acceptance.questions import Oracle, Question, ask_all


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def oracle(root: Path) -> Oracle:
    return Oracle(root)


@pytest.fixture(scope="module")
def questions(oracle: Oracle) -> list[Question]:
    return list(oracle.questions(range(6000)))


@pytest.fixture(scope="module")
def server(root: Path, oracle: Oracle) -> Iterator[Server]:
    with serving(root) as running:
        yield running
        assert "Traceback" not in running.log()


async def ask_at_once(
    server: Server, questions: list[Question], *, connections: int, ahead: int, seen: Counter[str] | None = None
) -> Counter[str]:
    """Distinct questions over so many connections, each with `ahead` of them on their way; what became of them."""
    seen = Counter() if seen is None else seen
    shares = [questions[at::connections] for at in range(connections)]
    await asyncio.gather(*(ask_all(server.port, share, seen, ahead=ahead) for share in shares))
    return seen


async def under_load(asking: asyncio.Task[Counter[str]], seen: Counter[str], answers: int = 300) -> None:
    """Wait until so many answers have come."""
    while seen["right"] < answers:
        assert not asking.done(), seen
        await asyncio.sleep(0.002)


async def test_three_thousand_requests_at_once_each_get_their_own_answer(
    server: Server, questions: list[Question]
) -> None:
    assert await ask_at_once(server, questions[:3000], connections=100, ahead=30) == {"right": 3000}


@pytest.mark.long
async def test_a_hundred_thousand_requests_at_once_each_get_their_own_answer(server: Server, oracle: Oracle) -> None:
    questions = list(oracle.questions(range(100_000)))
    assert await ask_at_once(server, questions, connections=500, ahead=200) == {"right": 100_000}


async def test_anothers_answer_is_not_taken_for_ones_own(server: Server, oracle: Oracle) -> None:
    for number in range(6):
        mine, others = oracle.questions([number, number + 6])
        crossed = Question(mine.data, others.is_right)
        seen: Counter[str] = Counter()
        await ask_all(server.port, [mine, crossed], seen)
        assert seen == {"right": 1, "wrong": 1}


@pytest.mark.parametrize("ahead", [1, 8])
async def test_sigterm_under_load_cuts_no_answer_and_ends_with_0(
    root: Path, questions: list[Question], ahead: int
) -> None:
    with serving(root) as server:
        seen: Counter[str] = Counter()
        asking = asyncio.create_task(ask_at_once(server, questions, connections=60, ahead=ahead, seen=seen))
        await under_load(asking, seen)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asking, 20)
        assert await asyncio.to_thread(server.process.wait, STOP_TIMEOUT_S) == 0
        assert seen["wrong"] == seen["cut"] == 0
        assert seen["unanswered"] > 0, "it was under no load when the signal came"
        assert "Traceback" not in server.log()


async def test_after_kill_9_every_answer_that_came_was_right_and_the_rest_can_be_asked_again(
    root: Path, questions: list[Question]
) -> None:
    running = start(root)
    wait_until_ready(running)
    seen: Counter[str] = Counter()
    asking = asyncio.create_task(ask_at_once(running, questions, connections=60, ahead=4, seen=seen))
    await under_load(asking, seen)
    running.process.kill()
    await asyncio.wait_for(asking, 20)
    running.process.wait()
    running.log_file.unlink()
    assert seen["wrong"] == 0 and seen["unanswered"] > 0
    with serving(root) as server:
        assert await ask_at_once(server, questions[:600], connections=60, ahead=4) == {"right": 600}
