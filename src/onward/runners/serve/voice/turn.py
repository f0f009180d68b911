"""One turn of the assistant: when each of its stages was over, and how long its voice is heard.

The client plays sound as it comes; how much of it has been heard is reckoned here, since the server is done with a
reply long before its last word. Times are those of the caller's clock, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def milliseconds(duration_s: float) -> float:
    """A duration as events tell it."""
    return round(max(duration_s, 0.0) * 1000, 1)


@dataclass(slots=True, kw_only=True)
class Turn:
    """`ends_s` is when the last chunk with speech arrived: what a person feels as the wait begins there."""

    number: int
    ends_s: float
    hangover_s: float
    transcribe_s: float
    committed_s: float
    typed: bool = False
    understood_s: float = 0.0
    first_audio_s: float = 0.0
    sounded_s: float = 0.0
    heard_until_s: float = 0.0
    finished: bool = False

    def understood(self, now_s: float) -> None:
        """The first words of the reply are there."""
        if not self.understood_s:
            self.understood_s = now_s

    def sounded(self, duration_s: float, now_s: float) -> bool:
        """A piece of its voice was sent; whether it was the first."""
        is_first = not self.first_audio_s
        if is_first:
            self.first_audio_s = now_s
        self.sounded_s += duration_s
        self.heard_until_s = max(self.heard_until_s, now_s) + duration_s
        return is_first

    def is_active(self, now_s: float) -> bool:
        """Whether it is being made or heard."""
        return not self.finished or now_s < self.heard_until_s

    def heard_s(self, now_s: float) -> float:
        """How much of its voice has been heard by now."""
        return max(0.0, self.sounded_s - max(0.0, self.heard_until_s - now_s)) if self.first_audio_s else 0.0

    def timings(self) -> dict[str, Any]:
        """How long each stage took, from the end of speech to the first sound of the reply."""
        told = {
            "understand_ms": self.understood_s - self.committed_s,
            "synthesise_ms": self.first_audio_s - self.understood_s,
            "first_audio_ms": self.first_audio_s - self.ends_s,
        }
        if not self.typed:
            told = {
                "vad_ms": self.hangover_s,
                "transcribe_ms": self.transcribe_s,
                "transcribe_wait_ms": self.committed_s - self.ends_s - self.hangover_s,
            } | told
        return {name: milliseconds(duration_s) for name, duration_s in told.items()}
