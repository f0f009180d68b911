"""What the voice loop needs of whoever answers: hear, reply, speak. Knows no frames, sessions or sockets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from onward.types import Array


@dataclass(slots=True, kw_only=True)
class Talk:
    """Whom the assistant talks with. `conversation` is filled in with the first reply, and kept for the next."""

    customer: str = ""
    conversation: str = ""
    tenant: str = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A piece of a reply: text to go on with. The last one has the whole text instead, and `fields`: what else the
    reply says (outcome, decision, conversation), as JSON can hold it."""

    text: str
    fields: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A piece of speech: PCM, signed 16 bit, little-endian, mono."""

    pcm: bytes
    rate_hz: int


class Assistant(Protocol):
    """Every method may be cancelled; what it runs for the caller then ends. An action that has been taken stays taken.

    The iterators are asynchronous generators: closing them ends the work behind them.
    """

    @property
    def named(self) -> Mapping[str, str]:
        """`package` and `version`, as answers name them."""
        ...

    async def ear(self) -> Callable[[Array], float]:
        """A new voice activity detector: 512 samples at 16 kHz, FP32 in [-1, 1] → the probability of speech."""
        ...

    async def transcribe(self, sound: Array) -> str:
        """The words in a sound: int16 (samples,) at 16 kHz. "" where there are none. Raises `OnwardError`."""
        ...

    def reply(self, text: str, talk: Talk) -> AsyncGenerator[Words, None]:
        """The reply to what was said. Raises `OnwardError`."""
        ...

    def speak(self, text: str) -> AsyncGenerator[Sound, None]:
        """The text as speech, piece by piece. Raises `OnwardError`."""
        ...


@dataclass(slots=True)
class Clauses:
    """Cuts text that comes in pieces into what may be spoken while the rest is still being written.

    The first cut is made as early as it sounds well; later ones only where sentences end.
    """

    _text: str = ""
    _spoken: int = 0
    _given: bool = False

    def add(self, text: str) -> list[str]:
        """The clauses that are whole with this piece."""
        self._text += text
        self._given = True
        whole: list[str] = []
        while (end := self._end()) > 0:
            whole.append(self._text[:end].strip())
            self._text = self._text[end:]
            self._spoken += 1
        return whole

    def rest(self, whole: str) -> list[str]:
        """What is left at the end: of what came in pieces, or all of a text that did not."""
        text = (self._text if self._given else whole).strip()
        self._text = ""
        return [text] if text else []

    def _end(self) -> int:
        """Where the first clause ends; 0 where that cannot be said yet. A mark counts once a space follows it: "3.5"
        has none."""
        marks = ".!?…" if self._spoken else ".!?…,;:"
        least = 12 if self._spoken else 16
        for at, mark in enumerate(self._text[:-1]):
            if mark in marks and self._text[at + 1].isspace() and (at + 1 >= least or mark in ".!?…"):
                return at + 1
        return 0
