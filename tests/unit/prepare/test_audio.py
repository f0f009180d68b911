"""Sound files as samples: any form, rate and channels; what is no sound is refused; memory has a bound."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from onward.errors import CorruptMedia, MissingExtra, TooLarge
from onward.prepare.audio import decode_audio
from onward.types import Array

soxr = pytest.importorskip("soxr", reason="sound needs the extra `speech`")
soundfile = pytest.importorskip("soundfile", reason="sound needs the extra `speech`")


RATE_HZ = 16_000
TONE_HZ = 440.0


def tone(rate_hz: int, lasts_s: float = 1.0) -> Array:
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(round(lasts_s * rate_hz)) / rate_hz)).astype(np.float32)


def file_of(samples: Array, rate_hz: int, form: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=form, subtype=subtype)
    return file.getvalue()


def pitch_hz(samples: Array) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE_HZ / len(samples))


def wav(rate_hz: int, data: bytes, *, claimed: int) -> bytes:
    """A WAV whose header claims so many bytes of sound."""
    form = struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", claimed + 36)
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", claimed)
        + data
    )


@pytest.mark.parametrize(
    ("form", "subtype", "rate_hz"),
    [
        ("WAV", "PCM_U8", 8000),
        ("WAV", "PCM_16", 16_000),
        ("WAV", "PCM_24", 44_100),
        ("WAV", "FLOAT", 22_050),
        ("WAV", "DOUBLE", 96_000),
        ("WAV", "ULAW", 8000),
        ("FLAC", "PCM_16", 192_000),
        ("OGG", "VORBIS", 48_000),
        ("OGG", "OPUS", 48_000),
        ("MP3", "MPEG_LAYER_III", 44_100),
    ],
)
def test_every_form_and_rate_is_the_same_tone(form: str, subtype: str, rate_hz: int) -> None:
    samples = decode_audio(file_of(tone(rate_hz), rate_hz, form, subtype), rate_hz=RATE_HZ, max_s=5)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert len(samples) == pytest.approx(RATE_HZ, abs=RATE_HZ * 0.1)
    assert pitch_hz(samples) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.03)


def test_a_file_of_the_wanted_rate_is_taken_to_the_bit() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 700_000).astype(np.float32)
    assert np.array_equal(decode_audio(file_of(sound, RATE_HZ, subtype="FLOAT"), rate_hz=RATE_HZ, max_s=60), sound)


def test_resampling_in_blocks_is_resampling_at_once() -> None:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, 44_100 * 20).astype(np.float32)
    samples = decode_audio(file_of(sound, 44_100, subtype="FLOAT"), rate_hz=RATE_HZ, max_s=60)
    whole = soxr.resample(sound, 44_100, RATE_HZ)
    assert len(samples) == pytest.approx(20 * RATE_HZ, abs=1)
    size = min(len(samples), len(whole))
    assert np.abs(samples[:size] - whole[:size]).max() < 1e-3


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed_into_their_mean(channels: int) -> None:
    sounds = np.random.default_rng(0).uniform(-1, 1, (5000, channels)).astype(np.float32)
    samples = decode_audio(file_of(sounds, RATE_HZ, subtype="FLOAT"), rate_hz=RATE_HZ, max_s=5)
    np.testing.assert_allclose(samples, sounds.mean(axis=1), atol=1e-6)


def test_samples_are_never_beyond_one() -> None:
    samples = decode_audio(file_of(tone(RATE_HZ) * 20, RATE_HZ, subtype="FLOAT"), rate_hz=RATE_HZ, max_s=5)
    assert samples.max() == 1.0 and samples.min() == -1.0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Dear sir or madam, " * 50,
        b"RIFF",
        file_of(tone(RATE_HZ), RATE_HZ)[:20],
        file_of(tone(RATE_HZ), RATE_HZ, "FLAC")[:30],
        file_of(np.zeros(0, np.float32), RATE_HZ),
        file_of(np.full(1000, np.nan, np.float32), RATE_HZ, subtype="FLOAT"),
        file_of(np.full(1000, np.inf, np.float32), 8000, subtype="FLOAT"),
    ],
    ids=[
        "nothing",
        "a text",
        "four bytes",
        "half a header",
        "half a FLAC header",
        "no samples",
        "no numbers",
        "infinite",
    ],
)
def test_what_is_no_sound_is_corrupt_media(data: bytes) -> None:
    with pytest.raises(CorruptMedia) as refused:
        decode_audio(data, rate_hz=RATE_HZ, max_s=5, where="clip")
    assert refused.value.where == "clip"


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_that_breaks_off_is_what_there_is_or_corrupt_media(form: str) -> None:
    whole = file_of(tone(RATE_HZ, 3.0), RATE_HZ, form)
    for share in range(1, 20):
        try:
            samples = decode_audio(whole[: len(whole) * share // 20], rate_hz=RATE_HZ, max_s=5)
        except CorruptMedia:
            continue
        assert 0 < len(samples) <= 3.2 * RATE_HZ and np.isfinite(samples).all()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG"])
def test_noise_in_a_file_never_gets_out_as_another_error(form: str) -> None:
    whole = file_of(tone(RATE_HZ), RATE_HZ, form)
    random = np.random.default_rng(0)
    for _ in range(60):
        spoilt = bytearray(whole)
        for at in random.integers(0, min(len(whole), 400), 8):
            spoilt[at] = random.integers(256)
        try:
            samples = decode_audio(bytes(spoilt), rate_hz=RATE_HZ, max_s=5)
        except (CorruptMedia, TooLarge):
            continue
        assert np.isfinite(samples).all() and np.abs(samples).max() <= 1.0


def test_a_sound_longer_than_the_limit_is_too_large_and_one_of_the_limit_is_taken() -> None:
    assert len(decode_audio(file_of(tone(RATE_HZ, 2.0), RATE_HZ), rate_hz=RATE_HZ, max_s=2.0)) == 2 * RATE_HZ
    with pytest.raises(TooLarge) as refused:
        decode_audio(file_of(tone(RATE_HZ, 2.1), RATE_HZ), rate_hz=RATE_HZ, max_s=2.0, where="clip")
    assert refused.value.where == "clip"


def test_a_header_is_believed_for_nothing_but_a_refusal() -> None:
    second = bytes(2 * RATE_HZ)
    assert len(decode_audio(wav(RATE_HZ, second, claimed=2**32 - 40), rate_hz=RATE_HZ, max_s=5)) == RATE_HZ


def test_a_rate_of_one_sample_a_second_is_no_reason_to_fall() -> None:
    assert len(decode_audio(file_of(tone(RATE_HZ)[:3], 1), rate_hz=RATE_HZ, max_s=5)) == pytest.approx(
        3 * RATE_HZ, abs=RATE_HZ
    )


MEMORY = """
import io, resource, sys
import numpy as np, soundfile
from onward.prepare.audio import decode_audio
rate_hz, lasts_s, channels = map(int, sys.argv[1:])
file = io.BytesIO()
with soundfile.SoundFile(file, "w", rate_hz, channels, "PCM_16", format="FLAC") as writer:
    for _ in range(lasts_s):
        writer.write(np.zeros((rate_hz, channels), "i2"))
data = file.getvalue()
del file
decode_audio(data[:1000] + data[1000:], rate_hz=16_000, max_s=3600)
print(len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize(("rate_hz", "channels"), [(655_350, 1), (48_000, 8)])
def test_the_rate_and_channels_of_a_file_cost_no_memory(rate_hz: int, channels: int) -> None:
    """Of 60 s more, only the samples at 16 kHz are kept: 3.8 MB, where the file's own would be 150 MB and more."""

    def told(lasts_s: int) -> tuple[int, int]:
        run = subprocess.run(
            [sys.executable, "-c", MEMORY, str(rate_hz), str(lasts_s), str(channels)],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
        )
        size, peak_kib = run.stdout.split()
        return int(size), int(peak_kib)

    (small, before_kib), (large, after_kib) = told(2), told(62)
    assert after_kib - before_kib < 40_000 + (large - small) / 1024


def test_it_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(MissingExtra) as refused:
        decode_audio(b"", rate_hz=RATE_HZ, max_s=5)
    assert "onward[speech]" in str(refused.value)
