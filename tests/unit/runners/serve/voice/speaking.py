"""Sound for a session whose ear is a rule: a loud chunk is speech, a quiet one is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from onward.runners.serve.voice.endpointing import CHUNK_MS, CHUNK_SAMPLES
from onward.runners.serve.voice.session import Session
from onward.runners.serve.voice.steps import Answer, Close, Step, Stop, Tell, Transcribe
from onward.types import Array

CHUNK_S = CHUNK_MS / 1000
T = TypeVar("T")


def probability(chunk: Array) -> float:
    assert chunk.shape == (CHUNK_SAMPLES,) and chunk.dtype == np.float32
    return 0.95 if np.abs(chunk).max() > 0.2 else 0.02


def sound(pattern: str) -> Array:
    """`s` a chunk of speech, `.` a chunk of silence: int16."""
    levels = [12_000 if mark == "s" else 100 for mark in pattern]
    return np.repeat(np.array(levels, "<i2"), CHUNK_SAMPLES)


class Talk:
    """A session, its clock, and everything it wanted. Sound comes in real time, a chunk at a time."""

    def __init__(self, **options: Any) -> None:
        self.now_s = 100.0
        self.session = Session(probability, now_s=self.now_s, **options)
        self.steps: list[Step] = []

    def hears(self, pattern: str) -> list[Step]:
        new: list[Step] = []
        for mark in pattern:
            self.now_s += CHUNK_S
            new += self.session.hear(sound(mark), self.now_s)
        self.steps += new
        return new

    def transcribes(self, text: str, after_s: float = 0.0) -> list[Step]:
        """The latest transcription that was asked for says `text`."""
        number = self.all(Transcribe)[-1].number
        self.now_s += after_s
        new = self.session.transcribed(number, text, self.now_s)
        self.steps += new
        return new

    def all(self, kind: type[T], steps: Sequence[Step] | None = None) -> list[T]:
        return [step for step in (self.steps if steps is None else steps) if isinstance(step, kind)]

    def told(self, kind: str = "", steps: Sequence[Step] | None = None) -> list[dict[str, Any]]:
        events = [dict(step.event) for step in self.all(Tell, steps)]
        return [event for event in events if not kind or event["type"] == kind]

    def says(self, text: str = "Hello there.") -> int:
        """An utterance from beginning to end; the turn that answers it."""
        self.hears("." * 5 + "s" * 20 + "." * 6)
        self.transcribes(text)
        self.hears("." * 14)
        return self.all(Answer)[-1].turn


__all__ = ["CHUNK_S", "Answer", "Close", "Stop", "Talk", "Tell", "Transcribe", "probability", "sound"]
