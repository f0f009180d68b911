"""A client of the voice loop: speaks WAV files in real time, as a microphone would, and keeps what comes down."""

from __future__ import annotations

import asyncio
import json
import time
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

RATE_HZ = 16_000
_FRAME_S = 0.02


def read_wav(file: Path) -> np.ndarray:
    """A WAV file of 16 bit at 16 kHz, mono: int16 (samples,)."""
    with wave.open(str(file)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, RATE_HZ)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2")


def write_wav(file: Path, sound: np.ndarray) -> None:
    """The other way round."""
    with wave.open(str(file), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(sound.astype("<i2").tobytes())


class Caller:
    """Somebody with a microphone: silence goes up in real time unless something is said."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.sound: list[tuple[float, bytes]] = []
        self.ended_s = 0.0
        self._to_say: asyncio.Queue[np.ndarray] = asyncio.Queue()
        self._changed = asyncio.Condition()

    async def speak(self) -> None:
        """Send sound, a frame each 20 ms."""
        size = int(RATE_HZ * _FRAME_S)
        noise = np.random.default_rng(1)
        said, due_s = np.zeros(0, "<i2"), time.monotonic()
        while True:
            if not len(said) and not self._to_say.empty():
                said = self._to_say.get_nowait()
            frame, said = said[:size], said[size:]
            quiet = noise.normal(0, 8, size).astype("<i2")
            quiet[: len(frame)] = frame
            await self.socket.send(quiet.tobytes())
            if len(frame) and not len(said):
                self.ended_s = time.monotonic()
            due_s += _FRAME_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    async def listen(self) -> None:
        """Keep what comes."""
        async for frame in self.socket:
            if isinstance(frame, bytes):
                self.sound.append((time.monotonic(), frame))
            else:
                async with self._changed:
                    self.events.append(json.loads(frame) | {"at_s": time.monotonic()})
                    self._changed.notify_all()

    def say(self, sound: np.ndarray) -> None:
        """Say something, once what is being said is over."""
        self._to_say.put_nowait(sound)

    async def until(self, holds: Callable[[dict[str, Any]], bool], after: int = 0, within_s: float = 20.0) -> int:
        """Wait for an event at or behind a place; where the one behind it stands."""
        async with asyncio.timeout(within_s), self._changed:
            while True:
                for at in range(after, len(self.events)):
                    if holds(self.events[at]):
                        return at + 1
                after = len(self.events)
                await self._changed.wait()

    async def event(self, kind: str, after: int = 0, within_s: float = 20.0) -> tuple[dict[str, Any], int]:
        """Wait for an event of a kind, and where the next one stands."""
        try:
            at = await self.until(lambda event: event["type"] == kind, after, within_s)
        except TimeoutError:
            raise AssertionError(f"no {kind} in {within_s} s, but {self.events[after:]}") from None
        return self.events[at - 1], at


@asynccontextmanager
async def calling(url: str, name: str, **start: Any) -> AsyncIterator[Caller]:
    """A session with an assistant, ready; the microphone is open."""
    async with connect(f"ws{url.removeprefix('http')}/voice/{name}", compression=None) as socket:
        await socket.send(json.dumps({"type": "start", "sample_rate_hz": RATE_HZ, **start}))
        caller = Caller(socket)
        parts = [asyncio.create_task(caller.listen())]
        await caller.event("ready")
        parts.append(asyncio.create_task(caller.speak()))
        try:
            yield caller
        finally:
            for part in parts:
                part.cancel()
            for error in await asyncio.gather(*parts, return_exceptions=True):
                if isinstance(error, Exception) and not isinstance(error, ConnectionClosed):
                    raise error
