"""The voice session as a pure state machine: sound and results in, steps out.

Listening → an utterance (partial transcripts; a guess at its end while the silence lasts) → the turn that answers it,
which new speech interrupts. No I/O, no tasks, no clock: times are passed in, and what is to be done comes out as steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.errors import OnwardError, TooLarge
from onward.runners.serve.voice.endpointing import CHUNK_SAMPLES, RATE_HZ, Endpointing, SpeechGate, chunks
from onward.runners.serve.voice.frames import MAX_TEXT, error_event
from onward.runners.serve.voice.steps import Answer, Close, Step, Stop, Tell, Transcribe
from onward.runners.serve.voice.turn import Turn, milliseconds
from onward.runners.serve.voice.utterance import Utterance
from onward.types import Array

_FULL_SCALE = np.float32(1 / 32768)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """How far ahead of real time sound may come, how long nothing may happen, and how long sound may fail to come
    within an utterance before that counts as silence."""

    ahead_s: float = 30.0
    idle_s: float = 120.0
    stalled_s: float = 1.0


class Session:
    """One client's conversation. `probability` says of 512 samples, FP32 in [-1, 1], how likely they hold speech."""

    def __init__(
        self,
        probability: Callable[[Array], float],
        *,
        now_s: float,
        barge_in: bool = True,
        endpointing: Endpointing | None = None,
        limits: SessionLimits | None = None,
    ) -> None:
        self._probability = probability
        self._options = endpointing or Endpointing()
        self._limits = limits or SessionLimits()
        self._barge_in = barge_in
        self._gate = SpeechGate(self._options)
        self._left = np.zeros(0, "<i2")  # samples that do not fill a chunk yet
        self._before: deque[Array] = deque(maxlen=chunks(self._options.preroll_ms))
        self._utterance: Utterance | None = None
        self._deaf = False  # a transcription of it failed: the next one waits for its end
        self._hangover_s = 0.0
        # The transcription under way: its number, its utterance, how many chunks it covers, and since when.
        self._numbers = 0
        self._under_way: tuple[int, Utterance, int, float] | None = None
        self._asked = 0  # chunks of the utterance that had come when it was last transcribed
        self._turns = 0
        self._turn: Turn | None = None
        self._ahead_s = 0.0
        self._sound_s = now_s
        self._active_s = now_s

    # --- Sound ---

    def hear(self, samples: Array, now_s: float) -> list[Step]:
        """Take a piece of sound of any length: int16 (samples,)."""
        self._ahead_s = max(0.0, self._ahead_s - (now_s - self._sound_s)) + len(samples) / RATE_HZ
        self._sound_s = now_s
        if self._ahead_s > self._limits.ahead_s:
            wrong = TooLarge(
                "sound comes faster than it can have been spoken", where="binary frames",
                expected=f"at most {self._limits.ahead_s:g} s ahead of real time",
            )  # fmt: skip
            return [Tell(event=error_event(wrong)), Close(code=1008, reason="too much sound")]
        sound = np.concatenate([self._left, samples]) if len(self._left) else samples
        whole = len(sound) // CHUNK_SAMPLES * CHUNK_SAMPLES
        self._left = sound[whole:]
        steps: list[Step] = []
        for start in range(0, whole, CHUNK_SAMPLES):
            steps += self._hear_chunk(sound[start : start + CHUNK_SAMPLES], now_s)
        return steps

    def _hear_chunk(self, chunk: Array, now_s: float) -> list[Step]:
        is_answered = self._turn is not None and self._turn.is_active(now_s)
        if is_answered and not self._barge_in:
            return []
        begin_ms = self._options.barge_in_ms if is_answered else self._options.begin_ms
        probability = self._probability(chunk.astype(np.float32) * _FULL_SCALE)
        begins = self._gate.hear(probability, begin_ms=begin_ms)
        steps: list[Step] = []
        if begins:
            steps += self.interrupt(now_s)
            self._utterance = Utterance(self._before, now_s)
            self._asked = len(self._utterance)
            self._before.clear()
            steps.append(Tell(event={"type": "speech_started"}))
        utterance = self._utterance
        if utterance is None:
            self._before.append(chunk)
            return steps
        self._active_s = now_s
        utterance.add(chunk, self._gate.silent == 0, now_s)
        if utterance.cut is None and len(utterance) >= chunks(self._options.longest_ms):
            utterance.cut = len(utterance)
        return steps + self._consider(utterance, now_s)

    # --- The utterance ---

    def _consider(self, utterance: Utterance, now_s: float) -> list[Step]:
        """End the utterance if it is over and understood; else transcribe, if there is reason to."""
        silent = self._gate.silent
        is_over = utterance.cut is not None or silent >= chunks(self._options.hangover_ms)
        if not is_over:
            self._hangover_s = 0.0
        elif not self._hangover_s:
            self._hangover_s = now_s - utterance.ends_s
        settled = utterance.is_sentence and silent >= chunks(self._options.settled_ms)
        if (is_over and utterance.is_covered) or settled:
            return self._end(utterance, now_s)
        if self._under_way is not None or (self._deaf and not is_over):
            return []
        glances = (is_over or silent >= chunks(self._options.glance_ms)) and not utterance.is_covered
        goes_on = silent == 0 and len(utterance) - self._asked >= chunks(self._options.partial_ms)
        if not (glances or goes_on):
            return []
        self._numbers += 1
        self._asked = len(utterance)
        self._under_way = (self._numbers, utterance, len(utterance), now_s)
        return [Transcribe(number=self._numbers, sound=utterance.sound())]

    def transcribed(self, number: int, text: str, now_s: float) -> list[Step]:
        """A transcription is there."""
        if self._under_way is None or self._under_way[0] != number:
            return []
        _, utterance, heard, since_s = self._under_way
        self._under_way = None
        if utterance is not self._utterance:
            return [] if self._utterance is None else self._consider(self._utterance, now_s)
        before = utterance.text
        utterance.transcribed(text, heard, now_s - since_s)
        steps = self._consider(utterance, now_s)
        if self._utterance is utterance and utterance.text and utterance.text != before:
            steps.insert(0, Tell(event={"type": "partial", "text": utterance.text}))
        return steps

    def untranscribed(self, number: int, error: OnwardError, now_s: float) -> list[Step]:
        """A transcription failed. Before the end of the utterance that is only a partial less; after it, the utterance
        is lost. The session goes on."""
        if self._under_way is None or self._under_way[0] != number:
            return []
        _, utterance, _, _ = self._under_way
        self._under_way = None
        if utterance is not self._utterance:
            return [] if self._utterance is None else self._consider(self._utterance, now_s)
        if not self._deaf and self._hangover_s == 0.0:
            self._deaf = True
            return []
        self._forget()
        return [Tell(event=error_event(error))]

    def _end(self, utterance: Utterance, now_s: float) -> list[Step]:
        hangover_s = self._hangover_s or now_s - utterance.ends_s
        was_speaking = self._gate.silent == 0 and utterance.cut == chunks(self._options.longest_ms)
        self._forget()
        if was_speaking:  # cut only because it was too long: it goes on
            self._gate.open = True
            self._utterance = Utterance(utterance.rest(), now_s, said=utterance.text[-MAX_TEXT:])
            self._asked = 0
            return []
        told = {"type": "transcript", "text": utterance.text, "audio_s": _duration_s(len(utterance))}
        steps: list[Step] = [Tell(event=told)]
        if utterance.text:
            turn = Turn(
                number=self._turns + 1, ends_s=utterance.ends_s, hangover_s=hangover_s,
                transcribe_s=utterance.transcribe_s, committed_s=now_s,
            )  # fmt: skip
            steps += self._begin(turn, utterance.text[-MAX_TEXT:])
        return steps

    def _forget(self) -> None:
        self._utterance = None
        self._deaf = False
        self._hangover_s = 0.0
        self._before.clear()
        self._gate.close()

    # --- The turn ---

    def _begin(self, turn: Turn, text: str) -> list[Step]:
        self._turns = turn.number
        self._turn = turn
        return [Answer(turn=turn.number, text=text)]

    def _current(self, number: int) -> Turn | None:
        return self._turn if self._turn is not None and self._turn.number == number else None

    @property
    def timings(self) -> Mapping[str, Any]:
        """Those of the latest turn."""
        return {} if self._turn is None else self._turn.timings()

    def is_answering(self, now_s: float) -> bool:
        """Whether a reply is being made or heard."""
        return self._turn is not None and self._turn.is_active(now_s)

    def is_sounding(self, number: int) -> bool:
        """Whether some of a turn's voice has been sent."""
        turn = self._current(number)
        return turn is not None and turn.first_audio_s > 0

    def ahead_s(self, now_s: float) -> float:
        """How much of the reply's voice has been sent and not been heard yet."""
        return 0.0 if self._turn is None else max(0.0, self._turn.heard_until_s - now_s)

    def understood(self, number: int, now_s: float) -> None:
        """The first words of the reply are known."""
        if (turn := self._current(number)) is not None:
            turn.understood(now_s)

    def sounded(self, number: int, duration_s: float, now_s: float) -> list[Step]:
        """A piece of the reply's voice has been sent: after the first one, what each stage took is told."""
        turn = self._current(number)
        if turn is None or not turn.sounded(duration_s, now_s):
            return []
        return [Tell(event={"type": "timings", "turn": number, **turn.timings()})]

    def finished(self, number: int, now_s: float) -> list[Step]:
        """All of the reply has been sent."""
        turn = self._current(number)
        if turn is None:
            return []
        turn.finished = True
        self._active_s = max(now_s, turn.heard_until_s)
        told = {"type": "audio_end", "turn": number, "audio_s": round(turn.sounded_s, 3)}
        return [Tell(event=told)] if turn.first_audio_s else []

    def failed(self, number: int, error: OnwardError, now_s: float) -> list[Step]:
        """The reply could not be made, or not to its end; the session goes on."""
        steps = self.finished(number, now_s)
        return [*steps, Tell(event=error_event(error))] if self._current(number) is not None else []

    # --- What the client or the time asks for ---

    def interrupt(self, now_s: float) -> list[Step]:
        """Stop the reply, if there is one; what it has already done stays done."""
        turn = self._turn
        if turn is None or not turn.is_active(now_s):
            return []
        self._turn = None
        told = {"type": "interrupted", "turn": turn.number, "heard_ms": milliseconds(turn.heard_s(now_s))}
        return [Stop(turn=turn.number), Tell(event=told)]

    def commit(self, now_s: float) -> list[Step]:
        """The utterance is over, whatever the silence says."""
        utterance = self._utterance
        if utterance is None:
            return []
        if utterance.cut is None:
            utterance.cut = len(utterance)
        return self._consider(utterance, now_s)

    def say(self, text: str, now_s: float) -> list[Step]:
        """An utterance that was typed."""
        if not text.strip():
            return []
        steps = self.interrupt(now_s)
        self._forget()
        self._active_s = now_s
        turn = Turn(
            number=self._turns + 1, ends_s=now_s, hangover_s=0.0, transcribe_s=0.0, committed_s=now_s, typed=True
        )
        return [*steps, *self._begin(turn, text.strip())]

    def tick(self, now_s: float) -> list[Step]:
        """Time has passed: an utterance whose sound has stopped coming ends; so does a session in which nothing
        happens."""
        if self._utterance is not None:
            return self.commit(now_s) if now_s - self._sound_s >= self._limits.stalled_s else []
        if self.is_answering(now_s) or now_s - self._active_s < self._limits.idle_s:
            return []
        told = {"type": "closing", "reason": "idle", "idle_s": self._limits.idle_s}
        return [Tell(event=told), Close(code=1000, reason="idle")]


def _duration_s(size: int) -> float:
    return round(size * CHUNK_SAMPLES / RATE_HZ, 3)
