"""Writes the two multilayer perceptrons of the bench as ONNX files, the same bytes every time.

Both take `x` FP32 (batch, inputs) and give `y` FP32 (batch, outputs). Weights are random but seeded: a server's
speed does not depend on what a model has learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.layout import MODELS

OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True, kw_only=True)
class Perceptron:
    """A fully connected network: its layer widths from input to output."""

    name: str
    widths: tuple[int, ...]
    sigmoid: bool
    seed: int


SMALL = Perceptron(name="mlp-small", widths=(30, 64, 32, 1), sigmoid=True, seed=7)
LARGE = Perceptron(name="mlp-large", widths=(384, 2048, 2048, 2048, 64), sigmoid=False, seed=11)


def graph_of(perceptron: Perceptron) -> onnx.ModelProto:
    """Build the ONNX model: Gemm and Relu per hidden layer, Gemm (and Sigmoid) at the end."""
    random = np.random.default_rng(perceptron.seed)
    nodes, weights = [], []
    value = "x"
    layers = list(zip(perceptron.widths[:-1], perceptron.widths[1:], strict=True))
    for index, (rows, columns) in enumerate(layers):
        last = index == len(layers) - 1
        scale = np.sqrt(2.0 / rows)  # keeps activations near 1 through the relus, so a wrong answer is visible
        weight = (random.standard_normal((rows, columns)) * scale).astype(np.float32)
        bias = (random.standard_normal(columns) * 0.1).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"w{index}"), numpy_helper.from_array(bias, f"b{index}")]
        linear = "y" if last and not perceptron.sigmoid else f"h{index}"
        nodes.append(helper.make_node("Gemm", [value, f"w{index}", f"b{index}"], [linear], name=f"gemm{index}"))
        value = linear
        if not last:
            nodes.append(helper.make_node("Relu", [value], [f"a{index}"], name=f"relu{index}"))
            value = f"a{index}"
        elif perceptron.sigmoid:
            nodes.append(helper.make_node("Sigmoid", [value], ["y"], name="sigmoid"))
    graph = helper.make_graph(
        nodes,
        perceptron.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", perceptron.widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", perceptron.widths[-1]])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="onward-bench")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def ensure_model(perceptron: Perceptron) -> Path:
    """Return a folder that holds `model.onnx` of this network, writing it on first use."""
    folder = MODELS / perceptron.name
    path = folder / "model.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(graph_of(perceptron).SerializeToString(deterministic=True))
        partial.rename(path)
    return folder
