"""From sound to windows of speech: they have all of it, in order, none is too long, and times are the sound's."""

from __future__ import annotations

import io
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onward.errors import CorruptMedia, MissingInput, PackageError, TooLarge, UnknownInput, WrongDatatype
from onward.package.manifest import parse_manifest
from onward.prepare.transcription import SPACE_S, SoundPreparation, Window, windows
from onward.types import Array

RATE_HZ = 1000
WINDOW_S = 27.0
MANIFEST = Path("gallery/transcriber/onward.toml")
SAMPLES_S = 0.002
"""Times are rounded to samples."""


@st.composite
def speech(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Stretches in order, none touching the next, as the detector gives them."""
    found, at_s = [], 0.0
    for pause_s, lasts_s in draw(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0.2, 90)), max_size=12)):
        found.append((at_s + pause_s, at_s + pause_s + lasts_s))
        at_s += pause_s + lasts_s
    return found


def sound(stretches: list[tuple[float, float]]) -> Array:
    """Samples that are told apart: noise, as long as the stretches reach."""
    size = round(max((ends_s for _, ends_s in stretches), default=1.0) * RATE_HZ)
    return np.random.default_rng(size).uniform(-1, 1, size).astype(np.float32)


def cut(found: list[Window]) -> list[tuple[float, float]]:
    return [(one.in_sound_s, one.in_sound_s + one.lasts_s) for window in found for one in window.stretches]


@given(speech())
def test_windows_have_all_speech_in_order_and_none_is_too_long(stretches: list[tuple[float, float]]) -> None:
    found = windows(sound(stretches), stretches, rate_hz=RATE_HZ, window_s=WINDOW_S)
    assert all(0 < len(window.samples) <= (WINDOW_S + SAMPLES_S * len(window.stretches)) * RATE_HZ for window in found)
    joined: list[list[float]] = []
    for begins_s, ends_s in cut(found):
        if joined and begins_s - joined[-1][1] < SAMPLES_S:  # cut out of one stretch
            joined[-1][1] = ends_s
        else:
            joined.append([begins_s, ends_s])
    assert len(joined) == len(stretches)
    for (begins_s, ends_s), (wanted_s, until_s) in zip(joined, stretches, strict=True):
        assert begins_s == pytest.approx(wanted_s, abs=SAMPLES_S) and ends_s == pytest.approx(
            until_s, abs=2 * SAMPLES_S
        )


@given(speech())
def test_a_stretch_is_where_its_times_say_in_the_window_and_in_the_sound(stretches: list[tuple[float, float]]) -> None:
    samples = sound(stretches)
    for window in windows(samples, stretches, rate_hz=RATE_HZ, window_s=WINDOW_S):
        silent = np.ones(len(window.samples), bool)
        for one in window.stretches:
            here, there, size = (
                round(one.in_window_s * RATE_HZ),
                round(one.in_sound_s * RATE_HZ),
                round(one.lasts_s * RATE_HZ),
            )
            assert np.array_equal(window.samples[here : here + size], samples[there : there + size])
            silent[here : here + size] = False
        assert not window.samples[silent].any()
        assert silent.sum() == (len(window.stretches) - 1) * int(SPACE_S * RATE_HZ)


def test_a_long_stretch_is_cut_where_it_is_quietest() -> None:
    samples = np.ones(40 * RATE_HZ, np.float32)
    samples[round(22.0 * RATE_HZ) : round(22.2 * RATE_HZ)] = 0.01
    first, second = windows(samples, [(0.0, 40.0)], rate_hz=RATE_HZ, window_s=WINDOW_S)
    assert 22.0 <= first.stretches[0].lasts_s <= 22.2
    assert second.stretches[0].in_sound_s == pytest.approx(first.stretches[0].lasts_s)


def test_no_speech_is_no_window() -> None:
    assert windows(np.zeros(1000, np.float32), [], rate_hz=RATE_HZ, window_s=WINDOW_S) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A detector of Silero's signature that takes what is loud for speech."""
    state, found = [2, 1, 128], helper.make_tensor_value_info
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMax", ["loud"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["rate", "rate"], ["nothing"]),
        helper.make_node("Add", ["most", "nothing"], ["output"]),
        helper.make_node("Identity", ["state"], ["stateN"]),
    ]
    graph = helper.make_graph(
        nodes, "vad",
        [found("input", TensorProto.FLOAT, [1, 576]), found("state", TensorProto.FLOAT, state),
         found("sr", TensorProto.INT64, [])],
        [found("output", TensorProto.FLOAT, [1, 1]), found("stateN", TensorProto.FLOAT, state)],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "vad.onnx"
    )
    return tmp_path


@pytest.fixture
def prepare(folder: Path) -> SoundPreparation:
    pytest.importorskip("soundfile", reason="sound needs the extra `speech`")
    pytest.importorskip("soxr", reason="sound needs the extra `speech`")
    text = MANIFEST.read_text(encoding="utf-8").replace("audio_s = 3600.0", "audio_s = 60.0")
    return SoundPreparation(parse_manifest(text), folder)


def clip(*loud_s: tuple[float, float], lasts_s: float) -> bytes:
    """A WAV at 16 kHz that is loud at these times."""
    pcm = np.zeros(round(lasts_s * 16_000), "<i2")
    for begins_s, ends_s in loud_s:
        pcm[round(begins_s * 16_000) : round(ends_s * 16_000)] = 30_000
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 16_000, len(pcm), "NONE", ""))
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


def test_a_file_becomes_its_stretches_of_speech(prepare: SoundPreparation) -> None:
    asked = prepare({"audio": clip((2.0, 4.0), (8.0, 9.0), lasts_s=12.0)})
    assert asked.audio_s == 12.0 and len(asked.windows) == 1
    first, second = asked.windows[0].stretches
    assert first.in_sound_s == pytest.approx(2.0, abs=0.2) and first.lasts_s == pytest.approx(2.0, abs=0.4)
    assert second.in_sound_s == pytest.approx(8.0, abs=0.2) and second.lasts_s == pytest.approx(1.0, abs=0.4)


def test_silence_is_a_sound_without_windows(prepare: SoundPreparation) -> None:
    assert prepare({"audio": clip(lasts_s=3.0)}).windows == ()


def test_many_threads_hear_what_one_hears(prepare: SoundPreparation) -> None:
    clips = [clip((at / 4, at / 4 + 2.0), lasts_s=8.0) for at in range(1, 13)]

    def times(data: bytes) -> list[tuple[float, float]]:
        return cut(list(prepare({"audio": data}).windows))

    alone = [times(data) for data in clips]
    assert all(alone)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(times, clips * 4)) == alone * 4


@pytest.mark.parametrize(
    ("item", "error"),
    [
        ({}, MissingInput),
        ({"audio": "words"}, WrongDatatype),
        ({"audio": None}, MissingInput),
        ({"audio": 3}, WrongDatatype),
        ({"audio": b"words"}, CorruptMedia),
        ({"audio": clip(lasts_s=61.0)}, TooLarge),
        ({"audio": b"", "video": b""}, UnknownInput),
    ],
    ids=["nothing", "a text", "none", "a number", "no sound", "too long", "unknown"],
)
def test_what_is_no_sound_of_the_package_is_refused_where_it_is(
    prepare: SoundPreparation, item: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as refused:
        prepare(item)
    assert "audio" in str(refused.value) or error is UnknownInput


@pytest.mark.parametrize("step", ["decode_audio", "speech_windows"])
def test_a_package_without_one_of_the_steps_is_refused(folder: Path, step: str) -> None:
    text = MANIFEST.read_text(encoding="utf-8")
    begin = text.index(f'[[prepare]]\nstep = "{step}"')
    end = text.index("\n\n", begin)
    with pytest.raises(PackageError):
        SoundPreparation(parse_manifest(text[:begin] + text[end:]), folder)
