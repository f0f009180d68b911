"""Small real ONNX models and package folders for the tests of `onward.package`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.array([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.25]], dtype=np.float32)

MANIFEST = """format = 1

[package]
name = "linear"
version = "1.0.0"

[[input]]
name = "x"
datatype = "FP32"
shape = [3]

[[output]]
name = "y"
datatype = "FP32"
shape = [2]
"""


def model(
    nodes: Sequence[Any],
    *,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    initializers: Sequence[Any] = (),
    domains: Sequence[str] = (),
    functions: Sequence[Any] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def linear_model(batch: Any = "batch") -> onnx.ModelProto:
    """y = x @ WEIGHTS."""
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        outputs=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        initializers=[numpy_helper.from_array(WEIGHTS, "w")],
    )


def linear_folder(folder: Path, manifest: str = MANIFEST) -> Path:
    """A folder that `assemble` takes."""
    folder.mkdir(parents=True)
    onnx.save(linear_model(), folder / "model.onnx")
    (folder / "onward.toml").write_text(manifest)
    return folder
