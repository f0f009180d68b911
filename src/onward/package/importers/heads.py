"""Appends a linear head to an encoder's graph: logits, and probabilities by softmax.

Embedding and intent then come from one run of one graph. This module does not know how a head was trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onward.package.importers.graph import Array, UnsupportedModel

if TYPE_CHECKING:
    import onnx


def add_linear_head(
    model: onnx.ModelProto,
    weight: Array,
    bias: Array,
    *,
    embedding_name: str = "sentence_embedding",
    output_name: str = "probabilities",
    logits_name: str = "logits",
    keep_embedding: bool = True,
    keep_logits: bool = False,
) -> onnx.ModelProto:
    """A copy of `model` with `output_name` = softmax(embedding x weight transposed + bias), FP32 [batch, classes].

    weight: [classes, hidden] as scikit-learn's `coef_`; bias: [classes] as its `intercept_`. A single row, the form
    of a two-class scikit-learn model, is refused: give both rows. The embedding stays an output where
    `keep_embedding` is set, and the logits become one where `keep_logits` is set.
    Raises UnsupportedModel when the shapes do not fit, or a name is taken.
    """
    import onnx
    from onnx import helper, numpy_helper

    hidden = _embedding_width(model, embedding_name)
    classes = weight.shape[0] if weight.ndim == 2 else 0
    if weight.shape != (classes, hidden) or bias.shape != (classes,) or classes < 2:
        raise UnsupportedModel(
            "the head does not fit the embedding",
            where=output_name,
            expected=f"weight [classes, {hidden}] and bias [classes], two classes or more",
            found=f"weight {list(weight.shape)} and bias {list(bias.shape)}",
        )
    if not (np.all(np.isfinite(weight)) and np.all(np.isfinite(bias))):
        raise UnsupportedModel("the head holds NaN or infinity", where=output_name)
    names = {"weight": f"{output_name}.weight", "bias": f"{output_name}.bias"}
    _require_free(model, [output_name, logits_name, *names.values()])

    headed = onnx.ModelProto()
    headed.CopyFrom(model)
    graph = headed.graph
    for part, value in (("weight", weight), ("bias", bias)):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), names[part]))
    inputs = [embedding_name, names["weight"], names["bias"]]
    graph.node.append(helper.make_node("Gemm", inputs, [logits_name], name=logits_name, transB=1))
    graph.node.append(helper.make_node("Softmax", [logits_name], [output_name], name=output_name, axis=-1))
    if not keep_embedding:
        kept = [each for each in graph.output if each.name != embedding_name]
        del graph.output[:]
        graph.output.extend(kept)
    for name in [output_name] + ([logits_name] if keep_logits else []):
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", classes]))
    onnx.checker.check_model(headed, full_check=True)
    return headed


def _embedding_width(model: onnx.ModelProto, name: str) -> int:
    """The fixed last dimension of the graph output `name`, whose shape is [batch, hidden]."""
    for output in model.graph.output:
        dimensions = output.type.tensor_type.shape.dim
        if output.name == name and len(dimensions) == 2 and dimensions[1].dim_value > 0:
            return int(dimensions[1].dim_value)
    found = ", ".join(output.name for output in model.graph.output)
    raise UnsupportedModel("the graph has no such output of shape [batch, hidden]", where=name, found=found)


def _require_free(model: onnx.ModelProto, names: list[str]) -> None:
    taken = {each.name for each in [*model.graph.initializer, *model.graph.input]}
    taken.update(output for node in model.graph.node for output in node.output)
    for index, name in enumerate(names):
        if name in taken or name in names[:index]:
            raise UnsupportedModel("the name belongs to another tensor of the graph", where=name)
