"""Voices: the same words sound the same, piece by piece is the whole, and no text is said at more than one breath."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gallery.voice import build as voice
from onward.errors import PackageError
from onward.execute.piper import (
    CONFIG_FILE,
    MOST_PHONEMES,
    NOISE_SHAPE,
    PiperBackend,
    VoiceConfig,
    _pcm,
    breaths,
    settings,
    wav,
)
from onward.prepare.speech import speech_of
from onward.types import CancelToken, Event

RATE_HZ = 22_050
SAID = "The last bus leaves at midnight."
LONG = f"{SAID} She learned to swim in a lake, behind the school! The garden looks best in May."
TOLD: dict[str, Any] = {
    "audio": {"sample_rate": RATE_HZ, "quality": "medium"},
    "espeak": {"voice": "en-us"},
    "inference": {"noise_scale": 0.6, "length_scale": 1.1, "noise_w": 0.7},
    "phoneme_id_map": {"^": [1], "$": [2], "_": [0], "a": [14, 15]},
    "num_speakers": 1,
    "dataset": "somewhere",
}


@given(st.lists(st.sampled_from("abc  "), max_size=200), st.integers(1, 50))
def test_breaths_lose_no_phoneme_and_none_is_too_long(phonemes: list[str], most: int) -> None:
    found = [list(breath) for breath in breaths(phonemes, most)]
    assert [phoneme for breath in found for phoneme in breath] == phonemes
    assert all(len(breath) <= most for breath in found) and (len(phonemes) > most or len(found) == 1)


def test_a_breath_ends_between_words_where_there_are_any() -> None:
    assert ["".join(breath) for breath in breaths("one two three", 9)] == ["one two ", "three"]
    assert ["".join(breath) for breath in breaths("onetwo", 4)] == ["onet", "wo"]


def test_pcm_is_as_loud_as_it_can_be_and_silence_stays_quiet() -> None:
    samples = np.frombuffer(_pcm(np.array([0.1, -0.05, 0.0], np.float32)), "<i2")
    assert samples.tolist() == pytest.approx([32_767, -16_383, 0], abs=1)
    assert np.abs(np.frombuffer(_pcm(np.full(9, 1e-5, np.float32)), "<i2")).max() < 50
    assert _pcm(np.zeros(0, np.float32)) == b""


@given(st.binary(max_size=400).map(lambda data: data[: len(data) // 2 * 2]), st.sampled_from([8000, 16_000, RATE_HZ]))
def test_a_wav_is_read_back_as_it_was(pcm: bytes, rate_hz: int) -> None:
    with wave.open(io.BytesIO(wav(pcm, rate_hz))) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, rate_hz)
        assert reader.readframes(reader.getnframes()) == pcm


def config_of(folder: Path, text: str) -> VoiceConfig:
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    return VoiceConfig.read(folder / CONFIG_FILE)


def test_settings_are_read_as_piper_writes_them(tmp_path: Path) -> None:
    config = config_of(tmp_path, json.dumps(TOLD))
    assert (config.rate_hz, config.espeak_voice, config.ids["a"]) == (RATE_HZ, "en-us", (14, 15))
    assert (config.noise_scale, config.length_scale, config.noise_w) == (0.6, 1.1, 0.7)


def test_settings_that_are_kept_are_read_alike(tmp_path: Path) -> None:
    kept = settings(TOLD)
    assert "dataset" not in kept and config_of(tmp_path, json.dumps(kept)) == config_of(tmp_path, json.dumps(TOLD))


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", "[]", "3", "{}", json.dumps(TOLD | {"num_speakers": 2}), json.dumps(TOLD | {"audio": {}}),
     json.dumps(TOLD | {"phoneme_id_map": {"a": [1]}}), json.dumps(TOLD | {"phoneme_id_map": {"^": 1, "$": 2, "_": 0}}),
     json.dumps(TOLD | {"audio": {"sample_rate": "fast"}}), json.dumps(TOLD | {"inference": []})],
)  # fmt: skip
def test_other_settings_are_a_package_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(PackageError) as refused:
        config_of(tmp_path, text)
    assert CONFIG_FILE in str(refused.value)


def test_settings_that_are_missing_are_a_package_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError):
        VoiceConfig.read(tmp_path / CONFIG_FILE)


def test_another_graph_is_a_package_error(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "other", value[:1], value[1:])
    other, broken = tmp_path / "other.onnx", tmp_path / "broken.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), other)
    broken.write_bytes(b"no model")
    config = config_of(tmp_path, json.dumps(TOLD))
    for file in (other, broken):
        with pytest.raises(PackageError):
            PiperBackend(file, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("piper", reason="a voice needs the extra `phonemes`")
    made = tmp_path_factory.mktemp("voice") / "1.0.0"
    voice.build(made, progress=lambda step, share: None)
    return made


def opened(folder: Path, threads: int = 2) -> PiperBackend:
    return PiperBackend(folder / "model.onnx", VoiceConfig.read(folder / CONFIG_FILE), threads=threads)


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[PiperBackend]:
    made = opened(folder)
    yield made
    made.close()
    made.close()


def say(backend: PiperBackend, text: str, speed: float = 1.0) -> list[Event]:
    return list(backend.stream(speech_of(text, speed=speed), CancelToken()))


def sound(backend: PiperBackend, text: str, speed: float = 1.0) -> bytes:
    return bytes(say(backend, text, speed)[-1].attributes["answer"]["audio"].data)


@pytest.mark.weights
def test_the_same_words_are_the_same_bytes_in_every_instance(folder: Path, backend: PiperBackend) -> None:
    first = sound(backend, SAID)
    assert first == sound(backend, SAID) != sound(backend, "Another text.")
    other = opened(folder)
    try:
        assert sound(other, SAID) == first
    finally:
        other.close()


@pytest.mark.weights
def test_many_at_once_sound_as_each_alone(backend: PiperBackend) -> None:
    texts = [SAID, "My coffee was cold.", "He forgot his keys again.", "The soup needs more salt."]
    alone = [sound(backend, text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: sound(backend, text), texts * 4)) == alone * 4


@pytest.mark.weights
def test_the_pieces_in_order_are_the_whole(backend: PiperBackend) -> None:
    asked = speech_of(LONG)
    *blobs, end = say(backend, LONG)
    assert tuple(event.text for event in blobs) == asked.pieces and len(blobs) >= 3
    assert {event.blob.media_type for event in blobs if event.blob} == {f"audio/L16;rate={RATE_HZ};channels=1"}
    answer = end.attributes["answer"]
    with wave.open(io.BytesIO(answer["audio"].data)) as reader:
        whole = reader.readframes(reader.getnframes())
        assert reader.getframerate() == backend.rate_hz == RATE_HZ
    assert whole == b"".join(event.blob.data for event in blobs if event.blob)
    assert answer["audio_s"] == pytest.approx(len(whole) / 2 / RATE_HZ, abs=0.001)
    assert answer["prompt_tokens"] == backend.admit(asked).prompt_tokens == len(LONG)


@pytest.mark.weights
def test_it_sounds_and_is_not_cut_off(backend: PiperBackend) -> None:
    samples = np.frombuffer(sound(backend, SAID)[44:], "<i2").astype(np.float64)
    assert np.abs(samples).max() == pytest.approx(32_767, abs=1)
    assert np.sqrt(np.square(samples).mean()) > 1000 and (np.abs(samples) > 32_700).mean() < 0.001


@pytest.mark.weights
def test_speed_is_about_how_many_times_shorter_it_is(backend: PiperBackend) -> None:
    """About: no phoneme and no gap between two is shorter than a frame of 12 ms, so very fast speech is slower."""
    usual = len(sound(backend, SAID))
    for speed, least, most in ((0.25, 0.25, 0.35), (0.5, 0.5, 0.6), (2.0, 1.4, 2.0), (4.0, 1.8, 4.0)):
        assert least < usual / len(sound(backend, SAID, speed)) <= most


@pytest.mark.weights
def test_cancelled_it_ends_without_an_end_and_the_next_is_said(backend: PiperBackend) -> None:
    cancel = CancelToken()
    stream = backend.stream(speech_of(LONG), cancel)
    assert next(stream).kind == "blob"
    cancel.cancel()
    assert list(stream) == [] and list(backend.stream(speech_of(LONG), cancel)) == []
    assert sound(backend, SAID)


@pytest.mark.weights
@pytest.mark.parametrize("text", ["www." * 60, "漢" * 240], ids=["www", "Chinese"])
def test_words_of_many_phonemes_are_said_breath_by_breath(
    backend: PiperBackend, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """A piece of 240 characters can have 1,700 phonemes: at one go, five minutes of sound and gigabytes of memory."""
    counts: list[int] = []
    said = backend._sound

    def counting(phonemes: Any, speed: float) -> bytes:
        counts.append(len(phonemes))
        return said(phonemes, speed) if len(counts) < 3 else b"\0\0"

    monkeypatch.setattr(backend, "_sound", counting)
    assert say(backend, text, 0.25)[-1].kind == "end"
    assert sum(counts) > 1000 and max(counts) <= MOST_PHONEMES // 2


@pytest.mark.weights
def test_the_longest_breath_has_noise_to_its_end_at_the_slowest_speed(backend: PiperBackend) -> None:
    slowest = backend._sound(["ɔ"] * (MOST_PHONEMES // 2), 0.25)
    assert 0 < len(slowest) // 2 // 256 < NOISE_SHAPE[2] / 2


@pytest.mark.weights
def test_a_sound_the_voice_has_not_is_left_out(backend: PiperBackend) -> None:
    assert backend._sound(["ʘ̃"], 1.0) == b"" == backend._sound([], 1.0)
    assert say(backend, "♪ a ♪")[-1].attributes["answer"]["audio_s"] > 0.1


@pytest.mark.weights
def test_its_golden_example_is_as_long_as_it_says(backend: PiperBackend) -> None:
    assert say(backend, voice.SAID)[-1].attributes["answer"]["audio_s"] == pytest.approx(voice.LASTS_S, abs=0.03)


@pytest.mark.weights
def test_closing_ends_its_phonemiser(folder: Path) -> None:
    made = opened(folder)
    assert Path(f"/proc/{made.phonemiser_pid}").exists()
    made.close()
    assert made.phonemiser_pid == 0
