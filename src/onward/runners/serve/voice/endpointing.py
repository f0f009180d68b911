"""Where an utterance begins and ends, from the probability of speech in each chunk of sound.

Two thresholds (hysteresis) keep the gate from flickering; a hangover of silence ends an utterance. Time is counted in
chunks, so that the same sound always gives the same answer, however fast it arrives. Knows no audio, model or clock.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE_HZ = 16_000
CHUNK_SAMPLES = 512
CHUNK_MS = 1000 * CHUNK_SAMPLES / RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpointing:
    """When speech counts as begun and as ended.

    A chunk is speech from the probability `onset` on; within an utterance from `release` on. `begin_ms` of speech begin
    an utterance, `barge_in_ms` do while a reply is heard. After `glance_ms` of silence the utterance is transcribed in
    case that it was all; after `settled_ms` it ends if the transcript is a whole sentence, after `hangover_ms` anyway.
    """

    onset: float = 0.5
    release: float = 0.35
    begin_ms: float = 96
    barge_in_ms: float = 224
    glance_ms: float = 128
    settled_ms: float = 352
    hangover_ms: float = 576
    preroll_ms: float = 320
    partial_ms: float = 704
    longest_ms: float = 28_000


def chunks(duration_ms: float) -> int:
    """How many chunks a duration takes, at least one."""
    return max(1, round(duration_ms / CHUNK_MS))


class SpeechGate:
    """Open while somebody speaks. `silent` counts the chunks since the last one with speech."""

    __slots__ = ("_evidence", "_options", "open", "silent")

    def __init__(self, options: Endpointing) -> None:
        self._options = options
        self._evidence = 0
        self.open = False
        self.silent = 0

    def hear(self, probability: float, *, begin_ms: float) -> bool:
        """Take the next chunk; whether speech began with it. `begin_ms` is how much speech that takes now."""
        if self.open:
            self.silent = 0 if probability >= self._options.release else self.silent + 1
            return False
        # A dip costs one chunk of evidence instead of all of it: the stop in a "t" is silent, too.
        self._evidence = self._evidence + 1 if probability >= self._options.onset else max(0, self._evidence - 1)
        if self._evidence < chunks(begin_ms):
            return False
        self._evidence = 0
        self.silent = 0
        self.open = True
        return True

    def close(self) -> None:
        """The utterance is over."""
        self.open = False
        self.silent = 0
        self._evidence = 0
