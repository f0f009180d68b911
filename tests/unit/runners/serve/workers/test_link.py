"""Questions get their own answers, however many are asked at once; where nobody is left to answer, that is said."""

from __future__ import annotations

import asyncio
import socket

import pytest

from onward.errors import ModelNotFound, Unavailable
from onward.runners.serve.workers.frames import (
    LENGTH,
    MAX_FRAME_BYTES,
    Done,
    Listen,
    Message,
    OpenStore,
    Told,
    Wake,
)
from onward.runners.serve.workers.link import Declined, Link


async def silent(message: Message) -> Message | None:
    return None


async def linked(handle: object) -> tuple[Link, Link, list[asyncio.Task[None]]]:
    ours, theirs = socket.socketpair()
    links = await Link.over(ours, silent), await Link.over(theirs, handle)  # type: ignore[arg-type]
    return *links, [asyncio.create_task(link.run()) for link in links]


async def test_each_question_gets_its_own_answer_although_later_ones_are_answered_first() -> None:
    async def handle(message: Message) -> Message | None:
        assert isinstance(message, Listen)
        await asyncio.sleep(0.02 / (1 + message.slots[0]))
        return Told(status=message.slots[0], headers=(), body=b"x" * 100_000)

    here, _, running = await linked(handle)
    answers = await asyncio.gather(*(here.ask(Listen(slots=(number,))) for number in range(20)))
    assert [answer.status for answer in answers if isinstance(answer, Told)] == list(range(20))
    here.close()
    await asyncio.gather(*running)


async def test_an_error_of_the_other_side_keeps_its_code_and_status() -> None:
    async def handle(message: Message) -> Message | None:
        if isinstance(message, Wake):
            raise RuntimeError("private")
        raise ModelNotFound("no such model", where="nope")

    here, _, running = await linked(handle)
    with pytest.raises(Declined, match="nope: no such model") as found:
        await here.ask(OpenStore())
    assert (found.value.code, found.value.status) == ("MODEL_NOT_FOUND", 404)
    with pytest.raises(Declined) as found:
        await here.ask(Wake())
    assert (found.value.code, found.value.status) == ("INTERNAL", 500) and "private" not in str(found.value)
    here.close()
    await asyncio.gather(*running)


async def test_an_answer_that_is_too_large_is_refused_and_the_next_question_is_answered() -> None:
    async def handle(message: Message) -> Message | None:
        return Told(status=200, headers=(), body=bytes(MAX_FRAME_BYTES if isinstance(message, OpenStore) else 1))

    here, there, running = await linked(handle)
    with pytest.raises(Declined, match="more than the processes") as found:
        await here.ask(OpenStore(), timeout_s=10)
    assert (found.value.code, found.value.status) == ("TOO_LARGE", 413)
    here.tell(Told(status=200, headers=(), body=bytes(MAX_FRAME_BYTES)))  # is left unsaid
    assert await here.ask(Wake(), timeout_s=10) == Told(status=200, headers=(), body=b"\0")
    assert here.is_open and there.is_open
    here.close()
    await asyncio.gather(*running)


async def test_an_error_that_names_a_file_whose_name_is_no_text_is_told_all_the_same() -> None:
    async def handle(message: Message) -> Message | None:
        raise ModelNotFound("no such model", where="m/\udcff.bin")

    here, _, running = await linked(handle)
    with pytest.raises(Declined, match="no such model"):
        await here.ask(Wake(), timeout_s=10)
    here.close()
    await asyncio.gather(*running)


async def test_who_waits_for_a_process_that_is_gone_is_told_so() -> None:
    async def handle(message: Message) -> Message | None:
        await asyncio.sleep(60)
        return Done()

    here, there, running = await linked(handle)
    waiting = asyncio.create_task(here.ask(OpenStore()))
    await asyncio.sleep(0.01)
    there.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await here.ask(OpenStore())
    here.tell(Wake())  # to nobody
    await asyncio.gather(*running)
    assert not here.is_open


async def test_an_answer_that_does_not_come_in_time_is_not_waited_for() -> None:
    here, there, running = await linked(silent)
    with pytest.raises(Unavailable, match="no answer within"):
        await here.ask(OpenStore(), timeout_s=0.02)
    assert here.is_open
    for link in (here, there):
        link.close()
    await asyncio.gather(*running)


@pytest.mark.parametrize("data", [LENGTH.pack(1 << 31), LENGTH.pack(3) + b"abc", LENGTH.pack(100) + b"cut short"])
async def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours, silent)
    theirs.sendall(data)
    theirs.close()
    await asyncio.wait_for(link.run(), 5)
    assert not link.is_open


async def test_notices_and_questions_are_heard_in_the_order_they_were_said() -> None:
    seen: list[Message] = []

    async def handle(message: Message) -> Message | None:
        seen.append(message)
        return Done()

    here, _, running = await linked(handle)
    here.tell(Wake())
    assert await here.ask(OpenStore()) == Done()
    assert seen == [Wake(), OpenStore()]
    here.close()
    await asyncio.gather(*running)
