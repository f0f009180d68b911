"""A voice with its noise as an input is the same network: what it draws is what it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from gallery.fetch import load_source
from gallery.voice.build import GRAPH, SOURCE
from onward.errors import PackageError
from onward.package.importers.piper import deterministic_voice
from onward.types import Array


def graph_of(folder: Path, *, draws: int = 2, inputs: tuple[str, ...] = ("input", "input_lengths", "scales")) -> Path:
    """A graph of a voice's inputs that adds what it draws for two shapes, [1, 3, 5] and [1, 2, 7], to zeros."""
    given = {"input": (TensorProto.INT64, [1, "length"]), "input_lengths": (TensorProto.INT64, [1]),
             "scales": (TensorProto.FLOAT, [3]), "sid": (TensorProto.INT64, [1])}  # fmt: skip
    shapes = [[1, 3, 5], [1, 2, 7], [1, 2, 2]][:draws]
    nodes, outputs, constants = [], [], []
    for at, shape in enumerate(shapes):
        constants.append(helper.make_tensor(f"zeros_{at}", TensorProto.FLOAT, shape, [0.0] * int(np.prod(shape))))
        nodes.append(helper.make_node("RandomNormalLike", [f"zeros_{at}"], [f"drawn_{at}"], name=f"draw_{at}"))
        nodes.append(helper.make_node("Add", [f"drawn_{at}", f"zeros_{at}"], [f"out_{at}"]))
        outputs.append(helper.make_tensor_value_info(f"out_{at}", TensorProto.FLOAT, shape))
    values = [helper.make_tensor_value_info(name, *given[name]) for name in inputs]
    graph = helper.make_graph(nodes, "voice", values, outputs, constants)
    path = folder / "voice.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def feeds(
    noise: Array, ids: tuple[int, ...] = (1, 0, 2), scales: tuple[float, float, float] = (0.0, 1.0, 0.0)
) -> dict[str, Array]:
    return {"input": np.array([ids], np.int64), "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32), "noise": noise}  # fmt: skip


def noise_of(seed: int, frames: int = 4096) -> Array:
    return np.random.default_rng(seed).standard_normal((1, 192, frames), np.float32)


def session(graph: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def test_each_draw_takes_the_beginning_of_the_noise_in_its_own_shape(tmp_path: Path) -> None:
    noise = noise_of(1)
    one, other = session(deterministic_voice(graph_of(tmp_path))).run(None, feeds(noise))
    assert np.array_equal(one, noise[:, :3, :5]) and np.array_equal(other, noise[:, :2, :7])


def test_nothing_random_is_left_and_the_noise_is_the_last_input(tmp_path: Path) -> None:
    graph = onnx.load_from_string(deterministic_voice(graph_of(tmp_path))).graph
    assert not [node for node in graph.node if node.op_type.startswith("Random")]
    assert [value.name for value in graph.input] == ["input", "input_lengths", "scales", "noise"]


@pytest.mark.parametrize("draws", [0, 1, 3])
def test_a_graph_that_draws_more_or_less_often_is_refused(tmp_path: Path, draws: int) -> None:
    with pytest.raises(PackageError, match="no voice of Piper"):
        deterministic_voice(graph_of(tmp_path, draws=draws))


@pytest.mark.parametrize("inputs", [("input", "input_lengths"), ("input", "input_lengths", "scales", "sid")])
def test_a_graph_of_other_inputs_is_refused(tmp_path: Path, inputs: tuple[str, ...]) -> None:
    with pytest.raises(PackageError, match="one speaker"):
        deterministic_voice(graph_of(tmp_path, inputs=inputs))


@pytest.mark.weights
def test_without_noise_the_voice_says_what_the_original_says() -> None:
    """With both noise scales at zero the original draws numbers and uses none: both are the same network."""
    file = load_source(SOURCE)[GRAPH]
    ids = (1, 0, 20, 0, 59, 0, 24, 0, 120, 0, 27, 0, 100, 0, 10, 0, 2)
    asked = feeds(noise_of(1), ids)
    ours = session(deterministic_voice(file))
    (said,) = ours.run(None, asked)
    original = session(str(file))
    (expected,) = original.run(None, {name: asked[name] for name in ("input", "input_lengths", "scales")})
    assert said.shape == expected.shape and np.abs(expected).max() > 0.01
    np.testing.assert_allclose(said, expected, atol=1e-4)


@pytest.mark.weights
def test_with_noise_the_voice_depends_on_it_alone() -> None:
    ours = session(deterministic_voice(load_source(SOURCE)[GRAPH]))
    ids, scales = (1, 0, 20, 0, 59, 0, 24, 0, 120, 0, 27, 0, 100, 0, 10, 0, 2), (0.667, 1.0, 0.8)
    first, again, other = (ours.run(None, feeds(noise_of(seed), ids, scales))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other, atol=1e-3)
