"""An assistant whose ear, hearing, replies and voice are rules: what the loop does with them is what is tested."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from onward.errors import OnwardError
from onward.runners.serve.voice.assistant import Sound, Talk, Words
from onward.types import Array
from tests.unit.runners.serve.voice.speaking import probability

RATE_HZ = 22_050


@dataclass
class Parrot:
    """Hears `hears` in order, replies with `replies` of it, speaks a tenth of a second a letter."""

    hears: list[str] = field(default_factory=list)
    replies: Callable[[str], list[str] | str] = lambda text: f"You said {text}"
    hear_s: float = 0.0
    reply_s: float = 0.0
    piece_s: float = 0.0
    fails: Mapping[str, OnwardError] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    spoken: list[str] = field(default_factory=list)
    running: int = 0
    named: Mapping[str, str] = field(default_factory=lambda: {"package": "parrot", "version": "1.0.0"})

    async def ear(self) -> Callable[[Array], float]:
        return probability

    async def transcribe(self, sound: Array) -> str:
        assert sound.dtype == np.int16
        self.running += 1
        try:
            await asyncio.sleep(self.hear_s)
        finally:
            self.running -= 1
        if "transcribe" in self.fails:
            raise self.fails["transcribe"]
        return self.hears.pop(0) if len(self.hears) > 1 else self.hears[0]

    async def reply(self, text: str, talk: Talk) -> AsyncGenerator[Words, None]:
        self.running += 1
        try:
            self.asked.append((text, talk.conversation))
            await asyncio.sleep(self.reply_s)
            if "reply" in self.fails:
                raise self.fails["reply"]
            talk.conversation = talk.conversation or "k1"
            written = self.replies(text)
            if isinstance(written, str):
                written = [written]
            else:
                for piece in written:
                    yield Words(text=piece)
                    await asyncio.sleep(self.piece_s)
            yield Words(text="".join(written), fields={"outcome": "answer", "conversation": talk.conversation})
        finally:
            self.running -= 1

    async def speak(self, text: str) -> AsyncGenerator[Sound, None]:
        self.running += 1
        try:
            if "speak" in self.fails:
                raise self.fails["speak"]
            self.spoken.append(text)
            for _ in text:
                await asyncio.sleep(self.piece_s)
                yield Sound(pcm=b"\x01\x00" * (RATE_HZ // 10), rate_hz=RATE_HZ)
        finally:
            self.running -= 1
