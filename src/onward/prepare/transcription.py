"""From a sound file to what a speech model hears: the stretches in which somebody speaks, in windows it can take in.

Silence is left out: a model that has to write something of it invents words. Runs no speech model.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onward.errors import MissingInput, PackageError, WrongDatatype
from onward.package.records import DecodeAudio, Manifest, SpeechWindows
from onward.prepare.audio import decode_audio
from onward.prepare.fields import ItemNames, describe, shown
from onward.prepare.vad import VoiceActivity
from onward.types import Array, Item

TOKENS_A_SECOND = 10
"""What a second of sound counts for in a server's budget of tokens."""
SPACE_S = 0.35
"""How much silence keeps two stretches of speech in one window apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of a window: its speech begins `in_window_s` after the window does, and `in_sound_s` after the sound."""

    in_window_s: float
    in_sound_s: float
    lasts_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Samples that are transcribed together, FP32 (samples,), and where in the sound they come from."""

    samples: Array
    stretches: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """What a speech model is asked to write down: `audio_s` seconds, of which the windows have the speech."""

    audio_s: float
    windows: tuple[Window, ...]


class SoundPreparation:
    """The steps `decode_audio` and `speech_windows` of one package."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        """Raises `PackageError` where a step is missing."""
        decode = next((step for step in manifest.prepare if isinstance(step, DecodeAudio)), None)
        windows = next((step for step in manifest.prepare if isinstance(step, SpeechWindows)), None)
        if decode is None or windows is None:
            raise PackageError("what transcribes needs both steps", where="prepare",
                               expected="decode_audio and speech_windows")  # fmt: skip
        self._field = next(field for field in manifest.inputs if field.name == decode.input)
        self._names = ItemNames(manifest.inputs)
        self._rate_hz = decode.sample_rate_hz
        self._window_s = windows.window_s
        self._max_s = manifest.limits.audio_s
        self._file, self._threshold = folder / windows.file, windows.threshold
        self._detectors = threading.local()  # a detector has a state: one for each thread
        self._detector()

    def __call__(self, item: Item) -> Sound:
        """Raises `InputError`, `CorruptMedia`, `TooLarge`."""
        self._names.check(item)
        data = item.get(self._field.name)
        if data is None:
            raise MissingInput(where=self._field.name, expected=describe(self._field))
        if not isinstance(data, bytes | bytearray):
            raise WrongDatatype(where=self._field.name, expected=describe(self._field), found=shown(data))
        samples = decode_audio(bytes(data), rate_hz=self._rate_hz, max_s=self._max_s, where=self._field.name)
        found = self._detector().speech(samples)
        return Sound(
            audio_s=len(samples) / self._rate_hz,
            windows=tuple(windows(samples, found, rate_hz=self._rate_hz, window_s=self._window_s)),
        )

    def _detector(self) -> VoiceActivity:
        detector = getattr(self._detectors, "one", None)
        if detector is None:
            detector = self._detectors.one = VoiceActivity(self._file, threshold=self._threshold)
        return detector


def windows(samples: Array, speech: Sequence[tuple[float, float]], *, rate_hz: int, window_s: float) -> list[Window]:
    """The stretches of speech, given by begin and end in seconds, put together into windows of at most `window_s`.

    A stretch that is longer is cut where it is quietest near the end of a window.
    """
    groups: list[list[tuple[float, float]]] = []
    length_s = 0.0
    for begins_s, ends_s in _cut_up(samples, speech, rate_hz, window_s):
        lasts_s = ends_s - begins_s
        if not groups or length_s + SPACE_S + lasts_s > window_s:
            groups.append([])
            length_s = -SPACE_S
        groups[-1].append((begins_s, ends_s))
        length_s += SPACE_S + lasts_s
    return [_window(samples, group, rate_hz) for group in groups]


def _window(samples: Array, group: Sequence[tuple[float, float]], rate_hz: int) -> Window:
    space = np.zeros(int(SPACE_S * rate_hz), np.float32)
    parts: list[Array] = []
    stretches = []
    at = 0
    for begins_s, ends_s in group:
        if parts:
            parts.append(space)
            at += len(space)
        part = samples[round(begins_s * rate_hz) : round(ends_s * rate_hz)]
        stretches.append(Stretch(in_window_s=at / rate_hz, in_sound_s=begins_s, lasts_s=len(part) / rate_hz))
        parts.append(part)
        at += len(part)
    return Window(samples=np.concatenate(parts), stretches=tuple(stretches))


def _cut_up(
    samples: Array, speech: Sequence[tuple[float, float]], rate_hz: int, window_s: float
) -> list[tuple[float, float]]:
    found = []
    for begins_s, ends_s in speech:
        while ends_s - begins_s > window_s:
            at_s = _quietest(samples, begins_s + window_s * 0.7, begins_s + window_s, rate_hz)
            found.append((begins_s, at_s))
            begins_s = at_s
        found.append((begins_s, ends_s))
    return found


def _quietest(samples: Array, from_s: float, to_s: float, rate_hz: int) -> float:
    """The middle of the quietest 50 ms between two times."""
    width = rate_hz // 20
    part = np.square(samples[round(from_s * rate_hz) : round(to_s * rate_hz)])
    energy = part[: len(part) // width * width].reshape(-1, width).sum(axis=1)
    return from_s + (int(energy.argmin()) + 0.5) * width / rate_hz
