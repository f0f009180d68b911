"""Speech as files: every form is read back by libsndfile, whole or piece by piece."""

from __future__ import annotations

import io
import struct
import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import MissingExtra
from onward.generate.audio import FORMS, OPUS_HZ, WHOLE, Encoder, encode
from onward.types import Array

soundfile = pytest.importorskip("soundfile", reason="encoding needs the extra `speech`")
pytest.importorskip("soxr", reason="encoding needs the extra `speech`")

RATE_HZ = 22_050
FILES = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "opus": "OGG"}
EXACT = ("wav", "flac")


def tone(lasts_s: float = 1.0, rate_hz: int = RATE_HZ) -> bytes:
    at_s = np.arange(round(lasts_s * rate_hz)) / rate_hz
    return (16_000 * np.sin(2 * np.pi * 440 * at_s)).astype("<i2").tobytes()


def piecewise(pcm: bytes, form: str, sizes: list[int]) -> list[bytes]:
    """What an encoder gives of PCM in pieces of so many samples, the rest in the last; and its end."""
    encoder, given, at = Encoder(RATE_HZ, form), [], 0
    for size in sizes:
        given.append(encoder.feed(pcm[at : at + 2 * size]))
        at += 2 * size
    return [*given, encoder.feed(pcm[at:]), encoder.finish()]


def read(data: bytes, form: str) -> tuple[Array, int]:
    """FP64 samples and their rate. A stream's WAV says to be as long as can be, which is for players to ignore."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.format == FILES[form] and file.channels == 1
        return file.read(dtype="float64"), file.samplerate


def pitch_hz(samples: Array, rate_hz: int) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate_hz / len(samples))


@pytest.mark.parametrize("form", FILES)
def test_a_whole_file_is_read_back_as_the_same_sound(form: str) -> None:
    samples, rate_hz = read(encode(tone(), RATE_HZ, form), form)
    assert rate_hz == (OPUS_HZ if form == "opus" else RATE_HZ)
    assert len(samples) / rate_hz == pytest.approx(1.0, abs=0.1)
    assert pitch_hz(samples, rate_hz) == pytest.approx(440, abs=3)
    assert np.abs(samples[rate_hz // 4 : rate_hz // 2]).max() == pytest.approx(16_000 / 32_768, abs=0.03)


@given(st.lists(st.integers(0, 5000), max_size=6), st.integers(0, 1000))
@settings(max_examples=30)
def test_forms_without_loss_are_the_same_samples_however_they_come(sizes: list[int], more: int) -> None:
    count = sum(sizes) + more
    pcm = np.random.default_rng(count).integers(-32_768, 32_768, count).astype("<i2").tobytes()
    for form in EXACT:
        whole = encode(pcm, RATE_HZ, form)
        if count:
            samples, _ = read(whole, form)
            assert (samples * 32_768).astype("<i2").tobytes() == pcm
    assert b"".join(piecewise(pcm, "flac", sizes)) == encode(pcm, RATE_HZ, "flac")
    assert b"".join(piecewise(pcm, "pcm", sizes)) == encode(pcm, RATE_HZ, "pcm") == pcm
    streamed = b"".join(piecewise(pcm, "wav", sizes))
    assert streamed[44:] == pcm and streamed[:4] == b"RIFF"


@pytest.mark.parametrize("form", FORMS)
def test_piece_by_piece_it_is_the_same_sound(form: str) -> None:
    pcm = tone(2.0)
    data = b"".join(piecewise(pcm, form, [10_000, 1, 15_000]))
    if form == "pcm":
        assert data == pcm
        return
    samples, rate_hz = read(data, form)
    assert len(samples) / rate_hz == pytest.approx(2.0, abs=0.1)
    assert pitch_hz(samples, rate_hz) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in WHOLE])
def test_what_streams_is_sent_before_its_end(form: str) -> None:
    *pieces, last = piecewise(tone(4.0), form, [RATE_HZ] * 3)
    assert len(b"".join(pieces[:2])) > 0.2 * len(b"".join([*pieces, last]))


@pytest.mark.parametrize("form", WHOLE)
def test_what_goes_back_to_its_beginning_comes_whole_at_the_end(form: str) -> None:
    *pieces, last = piecewise(tone(), form, [1000])
    assert not any(pieces) and last == encode(tone(), RATE_HZ, form)


def test_opus_is_whole_pages_from_the_first_to_the_last() -> None:
    """Every piece begins a page of Ogg, or goes on with one; the last page says that it is the last."""
    data = b"".join(piecewise(tone(3.0), "opus", [RATE_HZ]))
    at, flags = 0, []
    while at < len(data):
        assert data[at : at + 4] == b"OggS"
        flags.append(data[at + 5])
        segments = data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])
    assert at == len(data) and flags[0] & 2 and flags[-1] & 4 and not any(flag & 4 for flag in flags[:-1])


def test_a_whole_wav_says_how_long_it_is_and_a_streamed_one_that_it_is_not_known() -> None:
    whole = encode(tone(), RATE_HZ, "wav")
    assert struct.unpack("<I", whole[4:8])[0] == len(whole) - 8 and struct.unpack("<I", whole[40:44])[0] == len(tone())
    with wave.open(io.BytesIO(whole)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, RATE_HZ)
        assert reader.readframes(reader.getnframes()) == tone()
    streamed = b"".join(piecewise(tone(), "wav", []))
    assert streamed[4:8] == streamed[40:44] == b"\xff" * 4


@pytest.mark.parametrize("rate_hz", [16_000, RATE_HZ, 24_000, 48_000])
def test_opus_of_any_rate_is_as_long_as_its_sound_to_the_millisecond(rate_hz: int) -> None:
    samples, found_hz = read(encode(tone(1.0, rate_hz), rate_hz, "opus"), "opus")
    assert len(samples) / found_hz == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("form", ["flac", "mp3", "opus"])
def test_without_libsndfile_it_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtra) as refused:
        encode(tone(), RATE_HZ, form)
    assert "onward[speech]" in str(refused.value)


@pytest.mark.parametrize("form", ["wav", "pcm"])
def test_bare_forms_need_no_extra(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    assert encode(tone(), RATE_HZ, form).endswith(tone())
    assert b"".join(piecewise(tone(), form, [])).endswith(tone())
