"""One utterance while it is spoken: its sound so far, and which part of it has been transcribed.

Counts in chunks of sound. Knows nothing of the gate, the models or the clock's meaning.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onward.types import Array

_SENTENCE_ENDS = (".", "!", "?")


class Utterance:
    """Chunks of sound, int16 each; `spoken` is how many there are up to the last one with speech.

    `said` is what was said before, where an utterance had to be cut because it was too long.
    """

    __slots__ = ("_chunks", "_said", "cut", "ends_s", "heard", "spoken", "text", "transcribe_s")

    def __init__(self, chunks: Iterable[Array], now_s: float, *, said: str = "") -> None:
        self._chunks = list(chunks)
        self._said = said
        self.spoken = len(self._chunks)
        # Where it has to end although it may go on, in chunks.
        self.cut: int | None = None
        # When the last chunk with speech arrived, and how long the latest transcription took.
        self.ends_s = now_s
        self.transcribe_s = 0.0
        # The latest transcript, and how many chunks it was made from.
        self.text = ""
        self.heard = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunk: Array, is_speech: bool, now_s: float) -> None:
        """Take the next chunk."""
        self._chunks.append(chunk)
        if is_speech:
            self.spoken = len(self._chunks)
            self.ends_s = now_s

    def sound(self) -> Array:
        """All of it so far: int16 (samples,)."""
        return np.concatenate(self._chunks)

    def transcribed(self, text: str, heard: int, took_s: float) -> None:
        """Its first `heard` chunks say `text`."""
        self.text, self.heard, self.transcribe_s = f"{self._said} {text.strip()}".strip(), heard, took_s

    @property
    def is_covered(self) -> bool:
        """Whether the transcript was made from everything that has been spoken."""
        return self.heard >= (self.spoken if self.cut is None else min(self.spoken, self.cut))

    @property
    def is_sentence(self) -> bool:
        """Whether the transcript reads as if nothing were to follow."""
        return self.is_covered and self.text.endswith(_SENTENCE_ENDS) and not self.text.endswith("...")

    def rest(self) -> list[Array]:
        """What came after the part that was transcribed."""
        return self._chunks[self.heard :]
