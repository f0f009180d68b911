"""The voice activity detector over a small graph of the same signature: chunks, context, state, pieces of speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onward.errors import RefusedGraph
from onward.prepare.vad import CHUNK_SAMPLES, RATE_HZ, VoiceActivity

CHUNK_S = CHUNK_SAMPLES / RATE_HZ


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The loudest sample of a window of 576 is the probability, plus what the state counts: chunks / 1000."""
    state, found = [2, 1, 128], helper.make_tensor_value_info
    nodes = [
        helper.make_node("Abs", ["input"], ["loud"]),
        helper.make_node("ReduceMax", ["loud"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Add", ["state", "one"], ["stateN"]),
        helper.make_node("ReduceMax", ["stateN"], ["count"], keepdims=0),
        helper.make_node("Mul", ["count", "thousandth"], ["small"]),
        helper.make_node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rate", "zero"], ["nothing"]),
        helper.make_node("Add", ["most", "small"], ["more"]),
        helper.make_node("Add", ["more", "nothing"], ["output"]),
    ]
    constants = {"one": 1.0, "thousandth": 0.001, "zero": 0.0}
    graph = helper.make_graph(
        nodes, "vad",
        [found("input", TensorProto.FLOAT, [1, 576]), found("state", TensorProto.FLOAT, state),
         found("sr", TensorProto.INT64, [])],
        [found("output", TensorProto.FLOAT, [1, 1]), found("stateN", TensorProto.FLOAT, state)],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()],
    )  # fmt: skip
    path = tmp_path / "vad.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def tone(*levels: float) -> np.ndarray:
    """A constant level for each chunk: FP32."""
    return np.repeat(np.array(levels, np.float32), CHUNK_SAMPLES)


def test_a_chunk_is_heard_with_the_end_of_the_one_before_it(file: Path) -> None:
    detector = VoiceActivity(file)
    heard = [detector.probability(chunk) for chunk in tone(0.5, 0.0, 0.0).reshape(3, -1)]
    assert heard == pytest.approx([0.501, 0.502, 0.003])


def test_the_state_is_kept_until_it_is_reset(file: Path) -> None:
    detector = VoiceActivity(file)
    assert [round(detector.probability(tone(0.0)), 3) for _ in range(3)] == [0.001, 0.002, 0.003]
    detector.reset()
    assert detector.probability(tone(0.0)) == pytest.approx(0.001)


def test_pieces_of_speech_have_bounds_in_seconds_and_short_pauses_are_part_of_them(file: Path) -> None:
    levels = [0.0] * 10 + [0.8] * 10 + [0.0] * 5 + [0.8] * 10 + [0.0] * 30 + [0.8] * 10 + [0.0] * 10
    first, second = VoiceActivity(file).speech(tone(*levels))
    assert first == pytest.approx((10 * CHUNK_S - 0.1, 36 * CHUNK_S + 0.1))
    assert second == pytest.approx((65 * CHUNK_S - 0.1, 76 * CHUNK_S + 0.1))


def test_speech_that_lasts_to_the_end_ends_with_the_sound(file: Path) -> None:
    waveform = tone(*[0.0] * 10, *[0.8] * 10)[:-100]
    assert VoiceActivity(file).speech(waveform) == [pytest.approx((10 * CHUNK_S - 0.1, len(waveform) / RATE_HZ))]


def test_silence_a_click_and_nothing_are_no_speech(file: Path) -> None:
    detector = VoiceActivity(file)
    assert detector.speech(tone(*[0.0] * 50)) == []
    assert detector.speech(tone(*[0.0] * 10, 0.8, *[0.0] * 10)) == []
    assert detector.speech(np.zeros(0, np.float32)) == []


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(RefusedGraph):
        VoiceActivity(path)
