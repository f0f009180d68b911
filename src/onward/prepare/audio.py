"""Sound files as the models take them: one channel of FP32 samples in [-1, 1] at their rate.

WAV, FLAC, OGG (Vorbis, Opus) and MP3 by libsndfile, any number of channels, rate and depth; resampled by soxr. What the
header says is believed only as a reason to refuse: no more than the limit is ever decoded, and every block is resampled
before the next is read, for a small file can hold an hour at 655 kHz. Needs the extra `speech`.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from onward.errors import CorruptMedia, MissingExtra, TooLarge
from onward.types import Array

EXPECTED = "a WAV, FLAC, OGG or MP3 file"
_BLOCK_SAMPLES = 1 << 18
"""Of all channels together: what is held at the rate of the file."""


def decode_audio(data: bytes, *, rate_hz: int, max_s: float, where: str = "audio") -> Array:
    """The samples of a sound file, FP32 (samples,), mono at `rate_hz`.

    Raises `CorruptMedia` for what is no sound file or holds no sound, `TooLarge` for one longer than `max_s` seconds.
    """
    soundfile, soxr = _libraries()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            limit = int(max_s * file.samplerate)
            if file.frames > limit:
                found = f"{file.frames / file.samplerate:.0f} s"
                raise TooLarge(where=where, expected=f"at most {max_s:g} s", found=found)
            blocks, frames = [], 0
            resampled = soxr.ResampleStream(file.samplerate, rate_hz, 1, dtype="float32")
            while len(block := file.read(max(1, _BLOCK_SAMPLES // file.channels), dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > limit:  # longer than its header says
                    raise TooLarge(where=where, expected=f"at most {max_s:g} s", found="more")
                mono = block.mean(axis=1)
                if not np.isfinite(mono).all():
                    raise CorruptMedia(
                        "it holds samples that are no numbers", where=where, expected="samples from -1 to 1"
                    )
                blocks.append(mono if file.samplerate == rate_hz else resampled.resample_chunk(mono))
            if frames and file.samplerate != rate_hz:
                blocks.append(resampled.resample_chunk(np.zeros(0, np.float32), last=True))
    except soundfile.LibsndfileError as error:
        raise CorruptMedia(f"no sound can be read: {error.error_string}", where=where, expected=EXPECTED,
                           found=_beginning(data)) from None  # fmt: skip
    if not blocks:
        raise CorruptMedia("there is no sound in it", where=where, expected=EXPECTED, found="0 samples")
    samples = np.concatenate(blocks)
    kept: Array = np.clip(samples, -1.0, 1.0, out=samples)
    return kept


def _libraries() -> tuple[Any, Any]:
    try:
        import soundfile
        import soxr
    except (ImportError, OSError):
        raise MissingExtra("sound needs libsndfile and soxr", expected="pip install 'onward[speech]'") from None
    return soundfile, soxr


def _beginning(data: bytes) -> str:
    return f"{len(data)} bytes that begin with {data[:8]!r}" if data else "an empty file"
