"""A Triton model repository as people have them: small ONNX models with their `config.pbtxt`, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

LABELLED = """
name: "Iris_ONNX"  # Triton lets a name have capitals
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ 3 ], label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
version_policy: { all { } }
parameters: { key: "intra_op_thread_count" value: { string_value: "1" } }
"""
RESHAPED = """
backend: 'onnxruntime' max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 dims: 2 reshape: { shape: [ 4 ] } }
output { name: "y" data_type: TYPE_FP32 dims: [ 3, 1 ] reshape: { shape: 3 } }
"""
NARROWED = """
backend: "onnxruntime" max_batch_size: 8
input { name: "ids" data_type: TYPE_INT64 dims: 5 }
output { name: "sum" data_type: TYPE_INT64 dims: 1 }
"""
SECOND = """
backend: "onnxruntime" max_batch_size: 8
input { name: "p" data_type: TYPE_FP32 dims: 3 }
output { name: "q" data_type: TYPE_FP32 dims: 2 }
"""
ENSEMBLE = """
name: "both" platform: "ensemble" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "MIDDLE" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling { step [
  { model_name: "second" model_version: -1
    input_map { key: "p" value: "MIDDLE" } output_map { key: "q" value: "OUT" } },
  { model_name: "plain" model_version: -1
    input_map { key: "x" value: "IN" } output_map { key: "y" value: "MIDDLE" } } ] }
"""


def weights(inner: int, outer: int, seed: int) -> tuple[Array, Array]:
    """Weights [inner, outer] and bias [outer] of a layer."""
    random = np.random.default_rng(seed)
    drawn = random.standard_normal((inner + 1, outer)).astype(np.float32)
    return drawn[:inner], drawn[inner]


def layer(x: Array, seed: int, outer: int) -> Array:
    """What the models below give: softmax over a linear layer, computed by NumPy."""
    weight, bias = weights(x.shape[-1], outer, seed)
    scores = x @ weight + bias
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (scores / scores.sum(axis=-1, keepdims=True)).astype(np.float32)


def write_layer(
    file: Path, *, inner: int = 4, outer: int = 3, names: tuple[str, str] = ("x", "y"), opset: int = 17, seed: int = 0,
    batch: int | str = "n",
) -> None:  # fmt: skip
    """An ONNX file of one layer, with its scores before the softmax as a second output, `scores`."""
    weight, bias = weights(inner, outer, seed)
    nodes = [
        helper.make_node("Gemm", [names[0], "w", "b"], ["scores"]),
        helper.make_node("Softmax", ["scores"], [names[1]], axis=-1),
    ]
    inputs = [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, inner])]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, outer]) for name in (names[1], "scores")]
    write(file, nodes, inputs, outputs, {"w": weight, "b": bias}, opset=opset)


def write(
    file: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Array], *, opset: int = 17
) -> None:
    """An ONNX file of these nodes."""
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(file))


def write_config(folder: Path, text: str) -> Path:
    """A model's configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(text, "utf-8")
    return folder


def write_repository(root: Path) -> Path:
    """Everything that moves: labels and versions, a reshape, narrower dims, no configuration, an ensemble."""
    write_layer(root / "Iris_ONNX" / "1" / "model.onnx", seed=1)
    write_layer(root / "Iris_ONNX" / "3" / "model.onnx", seed=3)
    write_config(root / "Iris_ONNX", LABELLED)
    (root / "Iris_ONNX" / "labels.txt").write_text("setosa\r\nversicolor\r\nvirginica\r\n", "utf-8", newline="")
    write_layer(root / "reshaped" / "1" / "model.onnx", seed=4)
    write_config(root / "reshaped", RESHAPED)
    write_sum(root / "narrowed" / "1" / "model.onnx")
    write_config(root / "narrowed", NARROWED)
    write_layer(root / "plain" / "1" / "model.onnx")
    write_layer(root / "second" / "1" / "model.onnx", inner=3, outer=2, names=("p", "q"), opset=18, seed=5)
    write_config(root / "second", SECOND)
    write_config(root / "both" / "1", "")
    (root / "both" / "1" / "config.pbtxt").unlink()
    write_config(root / "both", ENSEMBLE)
    return root


def write_sum(file: Path) -> None:
    """An ONNX file that adds up as many whole numbers as there are."""
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "length"])]
    outputs = [helper.make_tensor_value_info("sum", TensorProto.INT64, ["n", 1])]
    nodes = [helper.make_node("ReduceSum", ["ids", "axes"], ["sum"], keepdims=1)]
    write(file, nodes, inputs, outputs, {"axes": np.array([1], np.int64)})
