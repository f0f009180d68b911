"""One client's conversation on the event loop: reads frames, drives the session, carries out its steps.

frames → session → steps → transcription and turn, one task each → session → events and sound. When it ends, for
whatever reason, everything it started has ended, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from onward.errors import DeadlineExceeded, MalformedBody, OnwardError, TooLarge
from onward.runners.serve.voice.assistant import Assistant, Clauses, Talk
from onward.runners.serve.voice.endpointing import CHUNK_SAMPLES
from onward.runners.serve.voice.frames import (
    Commit,
    Interrupt,
    Start,
    error_event,
    read_control,
    read_sound,
)
from onward.runners.serve.voice.measures import VoiceMeasures
from onward.runners.serve.voice.outlet import Outlet, Wire
from onward.runners.serve.voice.session import Session, SessionLimits
from onward.runners.serve.voice.steps import Answer, Close, Step, Stop, Tell, Transcribe
from onward.types import Array

_log = logging.getLogger("onward.serve")
_TICK_S = 0.1
# Sound is sent at most this much before it is heard: what is made beyond that would be lost when it is interrupted.
_LEAD_S = 4.0
_FRAME_S = 0.2
# The ear listens this many chunks at a time, so that a large frame does not keep the event loop to itself.
_CHUNKS_AT_A_TIME = 8
GOING_AWAY = 1001


def close_code(error: OnwardError) -> int:
    """The WebSocket close code that fits an error."""
    if isinstance(error, MalformedBody):
        return 1007
    if isinstance(error, TooLarge):
        return 1009
    if error.status in (429, 503):
        return 1013
    return 1008 if error.status < 500 or isinstance(error, DeadlineExceeded) else 1011


class VoiceLoop:
    """Run it once. `closing` is set when the server wants to end: the reply that is being made is still sent."""

    def __init__(
        self,
        wire: Wire,
        assistant: Assistant,
        start: Start,
        talk: Talk,
        measures: VoiceMeasures,
        *,
        probability: Callable[[Array], float],
        closing: asyncio.Event,
        limits: SessionLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._assistant = assistant
        self._talk = talk
        self._measures = measures
        self._closing = closing
        self._clock = clock
        self._outlet = Outlet(wire)
        self._session = Session(probability, now_s=clock(), barge_in=start.barge_in, limits=limits)
        self._transcription: asyncio.Task[None] | None = None
        self._turn: asyncio.Task[None] | None = None
        self._started: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the client leaves or is sent away."""
        self._outlet.tell({"type": "ready", "sample_rate_hz": 16_000, **self._assistant.named})
        parts = [asyncio.create_task(part) for part in (self._read(), self._outlet.run(), self._watch())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                error = part.exception()
                if error is not None and not isinstance(error, ConnectionError | TimeoutError):
                    _log.error("a voice session failed", exc_info=error)
                    await self._wire.close(1011, "internal error")
        finally:
            ended = [*parts, *self._started]
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)

    async def _read(self) -> None:
        """Take frames until the client is gone; after a goodbye they are thrown away."""
        while (frame := await self._wire.receive()) is not None:
            if self._outlet.is_closing:
                continue
            try:
                await self._take(frame)
            except OnwardError as error:
                self._outlet.tell(error_event(error))
                self._outlet.close(close_code(error), error.code)

    async def _take(self, frame: str | bytes) -> None:
        session = self._session
        if isinstance(frame, bytes):
            sound = read_sound(frame)
            if self._closing.is_set():
                return
            size = _CHUNKS_AT_A_TIME * CHUNK_SAMPLES
            for at in range(0, len(sound), size):
                self._do(session.hear(sound[at : at + size], self._clock()))
                if at + size < len(sound):
                    await asyncio.sleep(0)
            return
        control = read_control(frame)
        now_s = self._clock()
        if isinstance(control, Commit):
            self._do(session.commit(now_s))
        elif isinstance(control, Interrupt):
            self._do(session.interrupt(now_s))
        elif not self._closing.is_set():
            self._do(session.say(control.text, now_s))

    async def _watch(self) -> None:
        """Tell the session that time passes; leave when the server does."""
        while True:
            if self._closing.is_set() and (self._turn is None or self._turn.done()):
                self._outlet.tell({"type": "closing", "reason": "the server is going away"})
                self._outlet.close(GOING_AWAY, "going away")
            self._do(self._session.tick(self._clock()))
            await asyncio.sleep(_TICK_S)

    # --- Steps ---

    def _do(self, steps: Sequence[Step]) -> None:
        for step in steps:
            match step:
                case Tell():
                    self._outlet.tell(step.event)
                    self._count(step.event.get("type"))
                case Transcribe():
                    self._transcription = self._start(self._transcribe(step))
                case Answer():
                    self._turn = self._start(self._answer(step))
                case Stop():
                    if self._turn is not None:
                        self._turn.cancel()
                    self._outlet.drop_sound()
                case Close():
                    self._outlet.close(step.code, step.reason)

    def _count(self, kind: Any) -> None:
        if kind == "timings":
            self._measures.turns += 1
            self._measures.observe(self._session.timings)
        elif kind == "interrupted":
            self._measures.interruptions += 1

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    async def _transcribe(self, step: Transcribe) -> None:
        text = await self._tried(
            self._assistant.transcribe(step.sound),
            lambda error: self._session.untranscribed(step.number, error, self._clock()),
        )
        if text is not None:
            self._do(self._session.transcribed(step.number, text, self._clock()))

    async def _answer(self, step: Answer) -> None:
        done = await self._tried(
            self._reply(step), lambda error: self._session.failed(step.turn, error, self._clock())
        )  # fmt: skip
        if done:
            self._do(self._session.finished(step.turn, self._clock()))

    async def _tried(self, work: Awaitable[Any], failed: Callable[[OnwardError], list[Step]]) -> Any:
        """The result of work that may fail; a failure is the session's to tell, and None."""
        try:
            return await work
        except ConnectionError:
            return None  # the client has gone; reading notices
        except OnwardError as error:
            self._do(failed(error))
        except Exception:
            _log.exception("a voice session's turn failed")
            self._do(failed(OnwardError("internal error; the server's log has the details")))
        return None

    # --- The reply ---

    async def _reply(self, step: Answer) -> bool:
        """Write the reply and speak it: the one goes on while the other does."""
        clauses: asyncio.Queue[str | None] = asyncio.Queue(maxsize=4)
        writing = asyncio.create_task(self._write(step, clauses))
        try:
            while (clause := await clauses.get()) is not None:
                await self._speak(step.turn, clause)
            await writing  # raises what went wrong
            return True
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def _write(self, step: Answer, clauses: asyncio.Queue[str | None]) -> None:
        try:
            await self._write_clauses(step, clauses)
        except Exception:
            await clauses.put(None)
            raise
        await clauses.put(None)

    async def _write_clauses(self, step: Answer, clauses: asyncio.Queue[str | None]) -> None:
        cut, whole = Clauses(), ""
        async with aclosing(self._assistant.reply(step.text, self._talk)) as pieces:
            async for piece in pieces:
                if piece.text.strip():
                    self._session.understood(step.turn, self._clock())
                if piece.fields is not None:  # the last one
                    whole = piece.text.strip()
                    self._outlet.tell({"type": "reply", "turn": step.turn, "text": whole} | dict(piece.fields))
                    continue
                self._outlet.tell({"type": "reply_delta", "turn": step.turn, "text": piece.text})
                for clause in cut.add(piece.text):
                    await clauses.put(clause)
        for clause in cut.rest(whole):
            await clauses.put(clause)

    async def _speak(self, turn: int, text: str) -> None:
        async with aclosing(self._assistant.speak(text)) as pieces:
            async for piece in pieces:
                size = int(piece.rate_hz * _FRAME_S) * 2
                for at in range(0, len(piece.pcm), size):
                    pcm = piece.pcm[at : at + size]
                    if not self._session.is_sounding(turn):
                        self._outlet.tell(
                            {"type": "audio_start", "turn": turn, "sample_rate_hz": piece.rate_hz, "channels": 1}
                        )
                    await self._outlet.play(pcm)
                    self._do(self._session.sounded(turn, len(pcm) / 2 / piece.rate_hz, self._clock()))
                    await self._wait_for_the_ear()

    async def _wait_for_the_ear(self) -> None:
        """Do not run away from what is being heard, unless the server wants to end."""
        while not self._closing.is_set() and (ahead_s := self._session.ahead_s(self._clock()) - _LEAD_S) > 0:
            await asyncio.sleep(min(ahead_s, _TICK_S))
