"""The loop over a wire of queues: what goes down, in which order, and that nothing is left running."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from onward.errors import ExecutionError
from onward.runners.serve.voice.assistant import Talk
from onward.runners.serve.voice.frames import Start
from onward.runners.serve.voice.loop import VoiceLoop
from onward.runners.serve.voice.measures import VoiceMeasures
from onward.runners.serve.voice.session import SessionLimits
from tests.unit.runners.serve.voice.answering import RATE_HZ, Parrot
from tests.unit.runners.serve.voice.speaking import probability, sound

UTTERANCE = sound("....." + "s" * 20 + "." * 30).tobytes()


class Pipe:
    """A wire in memory. `reads` False: the client does not read."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.down: asyncio.Queue[dict[str, Any] | bytes] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.closed: tuple[int, str] | None = None

    async def receive(self) -> str | bytes | None:
        return await self.up.get()

    async def send(self, frame: str | bytes) -> None:
        await self.reads.wait()
        self.down.put_nowait(frame if isinstance(frame, bytes) else json.loads(frame))

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)

    async def event(self, kind: str) -> dict[str, Any]:
        """The next event of a kind; what comes before it is thrown away."""
        async with asyncio.timeout(5):
            while True:
                frame = await self.down.get()
                if isinstance(frame, dict) and frame["type"] == kind:
                    return frame

    def rest(self) -> list[dict[str, Any] | bytes]:
        return [self.down.get_nowait() for _ in range(self.down.qsize())]


class Running:
    def __init__(self, parrot: Parrot, limits: SessionLimits | None) -> None:
        self.pipe = Pipe()
        self.closing = asyncio.Event()
        self.measures = VoiceMeasures("parrot", "1.0.0")
        self.talk = Talk()
        self.loop = VoiceLoop(
            self.pipe, parrot, Start(sample_rate_hz=16_000), self.talk, self.measures, probability=probability,
            closing=self.closing, limits=limits,
        )  # fmt: skip
        self.task = asyncio.create_task(self.loop.run())

    async def ended(self) -> tuple[int, str] | None:
        async with asyncio.timeout(5):
            await self.task
        return self.pipe.closed


@asynccontextmanager
async def talking(parrot: Parrot, limits: SessionLimits | None = None) -> AsyncIterator[Running]:
    """A loop with a client; afterwards the client leaves, and nothing may be left running."""
    running = Running(parrot, limits)
    before = len(asyncio.all_tasks()) - 1
    yield running
    running.pipe.reads.set()
    running.pipe.up.put_nowait(None)
    async with asyncio.timeout(5):
        await running.task
    assert parrot.running == 0
    assert len(asyncio.all_tasks()) <= before


async def test_a_turn_goes_from_speech_to_speech_and_its_stages_are_told() -> None:
    async with talking(Parrot(hears=["hello"])) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("audio_end")
        running.pipe.up.put_nowait('{"type": "text", "text": "again"}')
        kinds = []
        while not kinds or kinds[-1] != "audio_end":
            frame = await running.pipe.down.get()
            kinds.append("sound" if isinstance(frame, bytes) else frame["type"])
        assert [kind for at, kind in enumerate(kinds) if at == 0 or kinds[at - 1] != kind] == [
            "interrupted", "reply", "audio_start", "sound", "timings", "sound", "audio_end",
        ]  # fmt: skip
    assert running.measures.turns == 2 and running.measures.interruptions == 1
    assert set(running.measures.stages) == {
        "vad", "transcribe", "transcribe_wait", "understand", "synthesise", "first_audio"
    }  # fmt: skip


async def test_events_say_what_was_heard_what_was_replied_and_how_it_sounds() -> None:
    async with talking(Parrot(hears=["hello"])) as running:
        assert (await running.pipe.event("ready"))["package"] == "parrot"
        running.pipe.up.put_nowait(UTTERANCE)
        assert (await running.pipe.event("transcript"))["text"] == "hello"
        reply = await running.pipe.event("reply")
        assert (reply["text"], reply["outcome"], reply["conversation"]) == ("You said hello", "answer", "k1")
        assert (await running.pipe.event("audio_start"))["sample_rate_hz"] == RATE_HZ
        ended = await running.pipe.event("audio_end")
        assert ended["audio_s"] == pytest.approx(1.4)


async def test_the_conversation_is_kept_over_the_session() -> None:
    parrot = Parrot(hears=["one", "two"])
    async with talking(parrot) as running:
        for _ in range(2):
            running.pipe.up.put_nowait(UTTERANCE)
            await running.pipe.event("audio_end")
    assert parrot.asked == [("one", ""), ("two", "k1")]


async def test_a_reply_in_pieces_is_spoken_before_it_is_written_to_its_end() -> None:
    words = ["Well, let me see. ", "It is a long story. ", "It ", "has ", "an end."]
    parrot = Parrot(hears=["why"], replies=lambda text: words, piece_s=0.005)
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("audio_start")
        reply = await running.pipe.event("reply")
        assert reply["text"] == "".join(words)
        await running.pipe.event("audio_end")
    assert parrot.spoken == ["Well, let me see.", "It is a long story.", "It has an end."]


async def test_barge_in_stops_the_sound_at_once_and_what_is_behind_it() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: "a" * 80)
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("timings")
        await asyncio.sleep(0.1)
        running.pipe.up.put_nowait(sound("s" * 10).tobytes())
        interrupted = await running.pipe.event("interrupted")
        assert 0 < interrupted["heard_ms"] < 2000
        await asyncio.sleep(0.1)
        after = running.pipe.rest()
        assert not any(isinstance(frame, bytes) for frame in after)
        assert [frame["type"] for frame in after if isinstance(frame, dict)] == ["speech_started"]
        assert parrot.running <= 1  # a partial, at most


async def test_sound_is_not_made_long_before_it_is_heard() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: "a" * 200)
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("timings")
        await asyncio.sleep(0.3)
        sent_s = sum(len(frame) for frame in running.pipe.rest() if isinstance(frame, bytes)) / 2 / RATE_HZ
        assert 3 < sent_s < 6


async def test_a_client_that_does_not_read_stops_the_making_of_sound() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: ["A sentence. "] * 50)
    async with talking(parrot) as running:
        await running.pipe.event("ready")
        running.pipe.reads.clear()
        running.pipe.up.put_nowait(UTTERANCE)
        await asyncio.sleep(0.3)
        assert len(parrot.spoken) <= 1


async def test_a_client_that_leaves_in_the_middle_of_a_reply_leaves_nothing_running() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: ["word "] * 1000, piece_s=0.002)
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("reply_delta")
        assert parrot.running > 0
        running.pipe.up.put_nowait(None)
        assert await running.ended() is None
        assert parrot.running == 0


@pytest.mark.parametrize("stage", ["transcribe", "reply", "speak"])
async def test_what_fails_is_told_and_the_session_goes_on(stage: str) -> None:
    parrot = Parrot(hears=["hello"], fails={stage: ExecutionError("it broke")})
    async with talking(parrot) as running:
        for _ in range(2):
            running.pipe.up.put_nowait(UTTERANCE)
            assert (await running.pipe.event("error"))["code"] == "EXECUTION_FAILED"
        parrot.fails = {}
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("audio_end")


async def test_a_fault_of_ours_is_told_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    parrot = Parrot(hears=["hello"], fails={"reply": ZeroDivisionError("secret")})  # type: ignore[dict-item]
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        error = await running.pipe.event("error")
    assert error["code"] == "INTERNAL" and "secret" not in str(error) and "secret" in caplog.text


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\x00" * 3, 1007), ("hello", 1007), ('{"type": "start", "sample_rate_hz": 16000}', 1007), ("[1]", 1007)],
)
async def test_a_wrong_frame_is_told_and_ends_the_session(frame: str | bytes, code: int) -> None:
    async with talking(Parrot(hears=["hello"])) as running:
        running.pipe.up.put_nowait(frame)
        assert (await running.pipe.event("error"))["code"] == "MALFORMED_BODY"
        assert (await running.ended() or (0, ""))[0] == code


async def test_too_much_sound_ends_the_session() -> None:
    async with talking(Parrot(hears=["hello"]), SessionLimits(ahead_s=2)) as running:
        for _ in range(40):
            running.pipe.up.put_nowait(sound("." * 31).tobytes())
        assert (await running.pipe.event("error"))["code"] == "TOO_LARGE"
        assert await running.ended() == (1008, "too much sound")


async def test_a_session_without_speech_ends() -> None:
    async with talking(Parrot(hears=["hello"]), SessionLimits(idle_s=0.2)) as running:
        running.pipe.up.put_nowait(sound("....").tobytes())
        assert (await running.pipe.event("closing"))["reason"] == "idle"
        assert await running.ended() == (1000, "idle")


async def test_a_server_that_ends_closes_an_idle_session_at_once() -> None:
    async with talking(Parrot(hears=["hello"])) as running:
        await running.pipe.event("ready")
        running.closing.set()
        assert await running.ended() == (1001, "going away")


async def test_a_server_that_ends_sends_the_reply_to_its_end_first() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: "a" * 80, piece_s=0.005)
    async with talking(parrot) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("timings")
        began_s = time.monotonic()
        running.closing.set()
        assert (await running.pipe.event("audio_end"))["audio_s"] == pytest.approx(8.0)
        assert await running.ended() == (1001, "going away")
        assert time.monotonic() - began_s < 4  # not as long as it takes to hear it


async def test_an_interruption_by_button_stops_the_reply() -> None:
    async with talking(Parrot(hears=["hello"], replies=lambda text: "a" * 80)) as running:
        running.pipe.up.put_nowait(UTTERANCE)
        await running.pipe.event("timings")
        running.pipe.up.put_nowait('{"type": "interrupt"}')
        await running.pipe.event("interrupted")
