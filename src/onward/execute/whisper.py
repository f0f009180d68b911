"""Whisper by CTranslate2: windows of speech written down, with times; windows that wait together run together.

Whisper was trained on 30 s of sound, most of it silence where little is said, and its encoder takes as long for the
silence as for the speech. A window is given here with `PAD_S` of silence and rounded up to whole steps, which costs a
fraction and, measured, no accuracy; where the text then goes round in circles, as it can with too little silence, the
window is heard again at full length with a wider search.
Needs the extra `speech`.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from onward.errors import ExecutionError, MissingExtra, PackageError
from onward.execute.backend import Admission
from onward.execute.gathering import Gathering
from onward.execute.mel import FRAMES_A_SECOND, RATE_HZ, log_mel
from onward.package.records import Manifest, SpeechWindows
from onward.prepare.transcription import TOKENS_A_SECOND, Sound, Stretch, Window
from onward.types import CancelToken, Event

WINDOW_S = 30.0
STEP_S = 5.0
PAD_S = 4.0
MOST_TOGETHER = 4
MOST_TOKENS = 224
_TOKENS_A_SECOND = 12  # nobody speaks so fast, time stamps included
_TOKENS_BESIDE = 16
_STAMP_S = 0.02
# As the makers of Whisper have it: from here on a text is taken for a loop; for none, where it is both.
_MOST_COMPRESSED, _LEAST_LOG_PROBABILITY, _MOST_SILENT = 2.4, -1.0, 0.6
_SURELY_SILENT = 0.9  # of pure silence Whisper writes "you", and is rather sure of it
_WIDE = 5
_LANGUAGE = "<|en|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was heard in a window: tokens, how sure the model is of them (mean log-probability), how likely silence."""

    tokens: Sequence[int]
    log_probability: float
    silence: float


class WhisperBackend:
    """A speech model behind the protocol `Streaming`: what it is asked is a `Sound`."""

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """Load a converted model (`model.bin`, `config.json`, `tokenizer.json`, `vocabulary.txt`).

        Raises `PackageError` for one that cannot be loaded, `MissingExtra` without the engine.
        """
        try:
            import ctranslate2
        except ImportError:
            raise MissingExtra("transcription needs CTranslate2", expected="pip install 'onward[speech]'") from None
        self._view = ctranslate2.StorageView
        try:
            self._model: Any = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type="int8", intra_threads=threads or os.cpu_count() or 1
            )
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # both raise their own classes
            raise PackageError(f"the speech model cannot be loaded: {error}", where=folder.name) from None
        self._bands = int(self._model.n_mels)
        self._prompt = self._prompted()
        self._first_stamp = self._id("<|notimestamps|>") + 1
        self._end = self._id("<|endoftext|>")
        self._gathering: Gathering[Window, Heard] = Gathering(self._hear, most=MOST_TOGETHER, name="onward-whisper")

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> WhisperBackend:
        """The model of a package: the folder of the manifest's `file`. Raises `PackageError` for windows too long."""
        for step in manifest.prepare:
            if isinstance(step, SpeechWindows) and step.window_s > WINDOW_S:  # the rest would never be heard
                raise PackageError("its windows are longer than Whisper hears", where="prepare",
                                   expected=f"window_s of at most {WINDOW_S:g}",
                                   found=f"{step.window_s:g}")  # fmt: skip
        return cls((folder / manifest.execute.file).parent, threads=manifest.execute.threads)

    def admit(self, asked: Sound, /) -> Admission:
        """Sound counts as `TOKENS_A_SECOND`."""
        return Admission(prompt_tokens=math.ceil(asked.audio_s * TOKENS_A_SECOND), max_new_tokens=0)

    def stream(self, asked: Sound, cancel: CancelToken, /) -> Generator[Event, None, None]:
        """Window by window: the text, and as attribute "segments" its parts with begin and end in seconds."""
        ahead: list[Future[Heard]] = []
        text: list[str] = []
        segments: list[Mapping[str, Any]] = []
        tokens = 0
        try:
            for at, window in enumerate(asked.windows):
                while len(ahead) < len(asked.windows) and len(ahead) <= at + MOST_TOGETHER - 1:
                    coming = asked.windows[len(ahead)]
                    ahead.append(self._gathering.submit(_frames(coming), coming))
                heard = ahead[at].result()
                if cancel.cancelled:
                    return
                found = self._segments(heard, window)
                tokens += len(heard.tokens)
                said = " ".join(str(segment["text"]) for segment in found)
                if said:
                    text.append(said)
                    segments += found
                    space = " " if len(text) > 1 else ""
                    yield Event(kind="delta", text=space + said, attributes={"segments": found})
        finally:
            for future in ahead:
                future.cancel()
        answer = {
            "text": " ".join(text), "segments": segments, "audio_s": round(asked.audio_s, 3), "language": "en",
            "prompt_tokens": math.ceil(asked.audio_s * TOKENS_A_SECOND), "completion_tokens": tokens,
        }  # fmt: skip
        yield Event(kind="end", attributes={"answer": answer})

    def close(self) -> None:
        """Free the model; idempotent."""
        self._gathering.close()
        self._model = None

    def _hear(self, windows: Sequence[Window]) -> list[Heard]:
        """Windows of one length, together; those whose text goes in circles once more, each by itself."""
        heard = self._generated(windows, frames=_frames(windows[0]), beams=1)
        for at, (window, one) in enumerate(zip(windows, heard, strict=True)):
            if self._loops(one):
                (heard[at],) = self._generated([window], frames=_whole(), beams=_WIDE)
        return heard

    def _generated(self, windows: Sequence[Window], *, frames: int, beams: int) -> list[Heard]:
        features = np.stack([log_mel(window.samples, frames=frames, bands=self._bands) for window in windows])
        options: dict[str, Any] = {"no_repeat_ngram_size": 5} if beams > 1 else {}
        try:
            found = self._model.generate(
                self._view.from_array(features), [self._prompt] * len(windows), beam_size=beams,
                max_length=_most_tokens(windows), return_scores=True, return_no_speech_prob=True, **options,
            )  # fmt: skip
        except RuntimeError as error:
            raise ExecutionError(f"the speech model failed: {error}") from None
        return [
            Heard(tokens=one.sequences_ids[0], log_probability=one.scores[0], silence=one.no_speech_prob)
            for one in found
        ]

    def _loops(self, heard: Heard) -> bool:
        text = self._text(heard.tokens).encode()
        return len(text) / max(1, len(zlib.compress(text))) > _MOST_COMPRESSED

    def _segments(self, heard: Heard, window: Window) -> list[dict[str, Any]]:
        """The parts that the model's own time stamps make of a text, in the time of the sound."""
        unsure = heard.log_probability < _LEAST_LOG_PROBABILITY
        if heard.silence > _SURELY_SILENT or (heard.silence > _MOST_SILENT and unsure):
            return []
        last = window.stretches[-1]
        ends_s = last.in_window_s + last.lasts_s
        parts: list[tuple[float, float, list[int]]] = []
        begins_s, tokens = 0.0, list[int]()
        for token in heard.tokens:
            if token >= self._first_stamp:
                stamp_s = min((token - self._first_stamp) * _STAMP_S, ends_s)
                if tokens:
                    parts.append((begins_s, stamp_s, tokens))
                    tokens = []
                begins_s = stamp_s
            elif token < self._end:
                tokens.append(token)
        if tokens:
            parts.append((begins_s, ends_s, tokens))
        found = []
        for first_s, last_s, part in parts:
            text = self._text(part).strip()
            if text and any(character.isalnum() for character in text):
                start, end = _in_sound(first_s, window.stretches), _in_sound(last_s, window.stretches)
                found.append({"start": round(start, 2), "end": round(max(start, end), 2), "text": text})
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode([token for token in tokens if token < self._end])

    def _prompted(self) -> list[int]:
        start = [self._id("<|startoftranscript|>")]
        return [*start, self._id(_LANGUAGE), self._id("<|transcribe|>")] if self._model.is_multilingual else start

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise PackageError(f"the tokenizer has no token {token}", where="tokenizer.json", expected="Whisper's")
        return int(found)


def _frames(window: Window) -> int:
    """How long a window is for the model: its speech and some silence, in whole steps."""
    lasts_s = len(window.samples) / RATE_HZ + PAD_S
    return round(min(WINDOW_S, math.ceil(lasts_s / STEP_S) * STEP_S) * FRAMES_A_SECOND)


def _most_tokens(windows: Sequence[Window]) -> int:
    longest_s = max(len(window.samples) for window in windows) / RATE_HZ
    return min(MOST_TOKENS, _TOKENS_BESIDE + math.ceil(longest_s * _TOKENS_A_SECOND))


def _whole() -> int:
    return round(WINDOW_S * FRAMES_A_SECOND)


def _in_sound(at_s: float, stretches: Sequence[Stretch]) -> float:
    """A time of a window in the sound that it was cut from."""
    stretch = max((one for one in stretches if one.in_window_s <= at_s), key=lambda one: one.in_window_s,
                  default=stretches[0])  # fmt: skip
    return stretch.in_sound_s + min(max(0.0, at_s - stretch.in_window_s), stretch.lasts_s)
