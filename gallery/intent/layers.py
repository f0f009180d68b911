"""Pools a middle layer of a sentence encoder the way its last layer is pooled, in the same graph.

Middle layers keep more of the wording than the last one, which was trained for meaning alone; a head that reads both
tells neighbouring intents apart better (figures in card.md). This module knows no intents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onward.package.importers.graph import UnsupportedModel

if TYPE_CHECKING:
    import onnx

EMBEDDING = "sentence_embedding"


def pool_layer(model: onnx.ModelProto, layer: int, *, last: int, output: str) -> None:
    """Add FP32 [batch, hidden] `output` to the graph: the states after `layer` (0 is the first), pooled as the last's.

    Whatever the encoder does between its last layer and its embedding is repeated for the middle layer.
    Raises UnsupportedModel when the graph has no such layer.
    """
    from onnx import helper

    graph = model.graph
    end, middle = _states(graph, last), _states(graph, layer)
    renamed = {end: middle}  # tensors that follow from the last layer, and what their copies are called
    copies = []
    for node in graph.node:
        if not any(name in renamed for name in node.input):
            continue
        for name in node.output:
            renamed[name] = output if name == EMBEDDING else f"{output}/{name}"
        inputs = [renamed.get(name, name) for name in node.input]
        outputs = [renamed[name] for name in node.output]
        copy = helper.make_node(node.op_type, inputs, outputs, name=outputs[0])
        copy.attribute.extend(node.attribute)
        copies.append(copy)
    if EMBEDDING not in renamed:
        raise UnsupportedModel("the embedding does not follow from the last layer", where=end)
    graph.node.extend(copies)


def _states(graph: onnx.GraphProto, layer: int) -> str:
    """The tensor that holds the token states after a layer."""
    wanted = f"encoder.layer.{layer}.output.LayerNorm"
    if not any(wanted in node.output for node in graph.node):
        raise UnsupportedModel("the graph has no such layer", where=wanted)
    return wanted
