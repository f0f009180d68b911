"""A voice of Piper as a package's graph: the same network, its noise an input instead of a generator inside.

VITS draws random numbers in two places. With generators in the graph the same words never sound the same twice, and
no golden example could hold; here both take what they need from the beginning of one input.
"""

from __future__ import annotations

from pathlib import Path

from onward.errors import PackageError
from onward.package.importers.extra import need

NOISE = "noise"
_CHANNELS = 192


def deterministic_voice(file: Path) -> bytes:
    """The graph with `noise`, FP32 [1, 192, frames], as its fourth input. Raises `PackageError` for another graph."""
    onnx = need("onnx", "packing a voice")
    helper, int64, float32 = onnx.helper, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    model = onnx.load(file)
    graph = model.graph
    inputs = {node.name for node in graph.input}
    drawing = [node for node in graph.node if node.op_type == "RandomNormalLike"]
    if inputs != {"input", "input_lengths", "scales"} or len(drawing) != 2:
        expected = "a voice of one speaker: inputs input, input_lengths and scales"
        raise PackageError("no voice of Piper", where=file.name, expected=expected, found=", ".join(sorted(inputs)))
    for number, node in enumerate(drawing):
        at = list(graph.node).index(node)
        shape, zeros = f"onward_shape_{number}", f"onward_zeros_{number}"
        graph.initializer.append(helper.make_tensor(zeros, int64, [3], [0, 0, 0]))
        graph.node.remove(node)
        graph.node.insert(at, helper.make_node("Slice", [NOISE, zeros, shape], list(node.output), name=node.name))
        graph.node.insert(at, helper.make_node("Shape", [node.input[0]], [shape], name=shape))
    graph.input.append(helper.make_tensor_value_info(NOISE, float32, [1, _CHANNELS, "frames"]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
