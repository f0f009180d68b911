"""What a session wants done: each step is carried out by the loop, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from onward.types import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Send an event to the client."""

    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribe:
    """Transcribe a sound, int16 (samples,), and report back under this number."""

    number: int
    sound: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Reply to a text, and speak the reply. One turn at a time."""

    turn: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Give up a turn: nothing more of it is made or sent."""

    turn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the connection with a WebSocket close code."""

    code: int
    reason: str


Step: TypeAlias = Tell | Transcribe | Answer | Stop | Close
