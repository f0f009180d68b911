"""Voices of Piper (VITS as ONNX): a text piece by piece as sound, each as soon as it is made.

The graph is that of `onward.package.importers.piper`: its noise is an input, so that the same words always sound the
same. Phonemes come from a process of its own.
"""

from __future__ import annotations

import io
import json
import os
import wave
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onward.errors import ExecutionError, PackageError
from onward.execute.backend import Admission
from onward.execute.phonemes import Phonemiser
from onward.package.manifest import Manifest
from onward.prepare.speech import Speech
from onward.types import Array, Blob, CancelToken, Event

CONFIG_FILE = "voice.json"
NOISE_FRAMES = 16_384
"""How long a piece may sound, in frames of 256 samples: three minutes at 22,050 Hz."""
NOISE_SHAPE = (1, 192, NOISE_FRAMES)
MOST_PHONEMES = 320
"""What is said at one go: a sentence has fewer, but "www." has thirty, and a second of sound takes 25 MB to make."""
PAUSE_S = 0.15
_QUIETEST = 0.01
_BEGIN, _END, _BETWEEN = "^", "$", "_"


@dataclass(frozen=True, slots=True, kw_only=True)
class VoiceConfig:
    """A voice's `voice.json`, as Piper writes it: sample rate, eSpeak's voice, ids of phonemes, and three scales."""

    rate_hz: int
    espeak_voice: str
    ids: Mapping[str, tuple[int, ...]]
    noise_scale: float
    length_scale: float
    noise_w: float

    @classmethod
    def read(cls, file: Path) -> VoiceConfig:
        """Raises `PackageError` where the file is not one."""
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            scales = told.get("inference", {})
            if told.get("num_speakers", 1) > 1:
                raise ValueError("it has several speakers")
            if missing := {_BEGIN, _END, _BETWEEN} - set(told["phoneme_id_map"]):
                raise ValueError(f"it has no sound for {' and '.join(sorted(missing))}")
            return cls(
                rate_hz=int(told["audio"]["sample_rate"]),
                espeak_voice=str(told["espeak"]["voice"]),
                ids={name: tuple(map(int, ids)) for name, ids in told["phoneme_id_map"].items()},
                noise_scale=float(scales.get("noise_scale", 0.667)),
                length_scale=float(scales.get("length_scale", 1.0)),
                noise_w=float(scales.get("noise_w", 0.8)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            expected = "what Piper writes beside a voice of one speaker"
            raise PackageError(f"not a voice's settings: {error}", where=file.name, expected=expected) from None


class PiperBackend:
    """A voice behind the protocol `Streaming`: what it is asked is a `Speech`."""

    def __init__(self, file: Path, config: VoiceConfig, *, threads: int = 0) -> None:
        """Load it and start its phonemiser. Raises `PackageError`, `MissingExtra`."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 4
        # Between two pieces its threads sleep: others need the cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises its own classes
            raise PackageError(f"the voice cannot be loaded: {error}", where=file.name) from None
        names = {node.name for node in self._session.get_inputs()}
        if names != {"input", "input_lengths", "scales", "noise"}:
            expected = "a graph that onward pack made of a Piper voice"
            raise PackageError("no voice", where=file.name, expected=expected, found=", ".join(sorted(names)))
        self._config = config
        self._noise = np.random.default_rng(0).standard_normal(NOISE_SHAPE, np.float32)
        self._phonemiser = Phonemiser()
        self._phonemiser.start()

    @classmethod
    def of(cls, folder: Path, manifest: Manifest) -> PiperBackend:
        """The voice of a package."""
        config = VoiceConfig.read(folder / CONFIG_FILE)
        return cls(folder / manifest.execute.file, config, threads=manifest.execute.threads)

    @property
    def rate_hz(self) -> int:
        """Samples a second of what it says."""
        return self._config.rate_hz

    @property
    def phonemiser_pid(self) -> int:
        """The process of its phonemiser."""
        return self._phonemiser.pid

    def admit(self, asked: Speech, /) -> Admission:
        """A voice reads characters; it writes none."""
        return Admission(prompt_tokens=len(asked.text), max_new_tokens=0)

    def stream(self, asked: Speech, cancel: CancelToken, /) -> Generator[Event, None, None]:
        """Piece by piece: PCM, signed 16 bit, mono. Cancelled, it ends after the breath that it is in."""
        media_type = f"audio/L16;rate={self.rate_hz};channels=1"
        pause = bytes(2 * int(PAUSE_S * self.rate_hz / asked.speed))
        said = []
        for piece in asked.pieces:
            sounds = []
            for sentence in self._phonemiser.phonemes(self._config.espeak_voice, piece):
                for breath in breaths(sentence, int(MOST_PHONEMES * min(1.0, 2 * asked.speed))):
                    if cancel.cancelled:
                        return
                    sounds.append(self._sound(breath, asked.speed))
                if sounds and sounds[-1]:
                    sounds.append(pause)
            if cancel.cancelled:
                return
            pcm = b"".join(sounds)
            said.append(pcm)
            yield Event(kind="blob", text=piece, blob=Blob(data=pcm, media_type=media_type))
        whole = b"".join(said)
        answer = {
            "audio": Blob(data=wav(whole, self.rate_hz), media_type="audio/wav"),
            "audio_s": round(len(whole) / 2 / self.rate_hz, 3),
            "prompt_tokens": len(asked.text),
        }
        yield Event(kind="end", attributes={"answer": answer})

    def close(self) -> None:
        """End the phonemiser; idempotent."""
        self._phonemiser.close()

    def _sound(self, phonemes: Sequence[str], speed: float) -> bytes:
        """One breath as PCM, as loud as it can be; nothing where nothing sounds."""
        config = self._config
        ids = [*config.ids[_BEGIN], *config.ids[_BETWEEN]]
        for phoneme in phonemes:  # what the voice has no sound for, it leaves out
            if phoneme in config.ids:
                ids += [*config.ids[phoneme], *config.ids[_BETWEEN]]
        ids += config.ids[_END]
        if len(ids) <= 3:
            return b""
        feeds = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array([config.noise_scale, config.length_scale / speed, config.noise_w], np.float32),
            "noise": self._noise,
        }
        try:
            (sound,) = self._session.run(None, feeds)  # (1, 1, 1, samples)
        except Exception as error:  # onnxruntime raises its own classes
            raise ExecutionError(f"the voice failed: {error}") from None
        return _pcm(sound.reshape(-1))


def breaths(phonemes: Sequence[str], most: int) -> Iterator[Sequence[str]]:
    """A sentence's phonemes in parts of at most `most`, cut between words where there are any."""
    while len(phonemes) > most:
        at = next((at for at in range(most, 0, -1) if phonemes[at - 1] == " "), most)
        yield phonemes[:at]
        phonemes = phonemes[at:]
    yield phonemes


def _pcm(sound: Array) -> bytes:
    loudest = max(_QUIETEST, float(np.abs(sound).max(initial=0.0)))
    return np.clip(sound * (32_767 / loudest), -32_768, 32_767).astype("<i2").tobytes()


def wav(pcm: bytes, rate_hz: int) -> bytes:
    """PCM, signed 16 bit, mono, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(pcm)
    return file.getvalue()


def settings(told: Any) -> Mapping[str, Any]:
    """What of a voice's settings is kept in its package."""
    kept = ("audio", "espeak", "inference", "phoneme_id_map", "num_speakers", "language")
    return {name: told[name] for name in kept if name in told}
