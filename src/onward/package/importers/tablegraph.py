"""Puts a converted estimator between one matrix of numbers and the outputs of a package.

Converters make graphs with an input for every column, text among them, and outputs under names of their own. The
served graph takes the matrix that the `table` step makes, FP32 [rows, columns], and gives what the manifest says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.errors import PackageError
from onward.package.importers.extra import need
from onward.package.importers.frame import Frame

MATRIX = "features"
PREFIX = "estimator_"
UNKNOWN_CATEGORY = "onward:unknown"
"""What a category that is missing or unknown (NaN in the matrix) is called inside the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOutput:
    """An output to give: the converter's name for it, the package's, and the shape of one item.

    `pair`: the converter gives the margin of the second of two classes, and the first one's is its negative.
    """

    source: str
    name: str
    shape: tuple[int, ...]
    pair: bool = False


def surround(
    model: Any,
    frame: Frame,
    outputs: Sequence[GraphOutput],
    *,
    double: bool = False,
    ids: Mapping[str, str] | None = None,
) -> bytes:
    """Rebuild a converted model (`onnx.ModelProto`) around the matrix.

    The model has either one input, the matrix itself or its text, or one for each column in their order. Inputs named
    in `ids` are columns of texts: each is that tensor of token ids, INT64 [batch, length].
    With `double` its numbers are computed in FP64. Returns the serialised model.
    """
    onnx = need("onnx", "packing an estimator")
    # Converters and columns choose names freely: a prefix keeps theirs and ours apart.
    model = need("onnx.compose", "packing an estimator").add_prefix(model, PREFIX, rename_functions=False)
    writer = _Writer(onnx, frame, "DOUBLE" if double else "FLOAT")
    ids = ids or {}
    named = {PREFIX + name: tensor for name, tensor in ids.items()}
    for name, tensor in named.items():
        writer.same(tensor, name)
    writer.feed([tensor for tensor in model.graph.input if tensor.name not in named])
    nodes = [*writer.nodes, *model.graph.node]
    for output in outputs:
        nodes += writer.give(output)
    helper, types = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        _needed(nodes, [output.name for output in outputs]),
        "onward",
        [
            *(
                helper.make_tensor_value_info(name, types.INT64, ["batch", "length"])
                for name in dict.fromkeys(ids.values())
            ),
            *([helper.make_tensor_value_info(MATRIX, types.FLOAT, ["batch", len(frame.table)])] if frame.table else []),
        ],
        [helper.make_tensor_value_info(output.name, types.FLOAT, ["batch", *output.shape]) for output in outputs],
        [*model.graph.initializer, *writer.constants],
    )
    rebuilt = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=min(model.ir_version, 8))
    rebuilt.functions.extend(model.functions)
    onnx.checker.check_model(rebuilt)
    data: bytes = rebuilt.SerializeToString(deterministic=True)
    return data


def convert(converter: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a converter; what it cannot convert becomes a `PackageError` with its reason."""
    try:
        return converter(*arguments, **options)
    except Exception as error:  # converters raise whatever their parts raise
        reason = f"{type(error).__name__}: {str(error).strip()[:500]}"
        raise PackageError(f"the model cannot be converted to ONNX: {reason}") from error


def round_thresholds_down(model: Any, thresholds: Iterable[float]) -> None:
    """Make every FP32 threshold of a tree the largest number not above the FP64 one it came from.

    The graph compares FP32 numbers. `x <= threshold` means the same for them after rounding down, but not after
    rounding to the nearest: that may move the threshold up onto a value that ought to go right.
    """
    exact: dict[float, float] = {}
    for threshold in thresholds:
        nearest = float(np.float32(threshold))
        exact[nearest] = max(threshold, exact.get(nearest, threshold))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "nodes_values":
                for index, value in enumerate(attribute.floats):
                    if exact.get(value, value) < value:
                        attribute.floats[index] = float(np.nextafter(np.float32(value), np.float32(-np.inf)))


class _Writer:
    def __init__(self, onnx: Any, frame: Frame, number: str) -> None:
        self._onnx = onnx
        self._frame = frame
        self._number = number
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def feed(self, inputs: Sequence[Any]) -> None:
        """Make each input of the converted model from the matrix."""
        width = len(self._frame.table)
        if not width:
            return
        texts = [tensor.type.tensor_type.elem_type == self._onnx.TensorProto.STRING for tensor in inputs]
        if len(inputs) == 1 and self._width(inputs[0]) == width:
            if texts[0]:
                names = [self._text(index, f"onward_text_{index}") for index in range(width)]
                self._node("Concat", names, inputs[0].name, axis=1)
            else:
                self._cast(MATRIX, inputs[0].name, inputs[0])
            return
        if len(inputs) != width:
            raise PackageError("the converter dropped columns", expected=f"{width} inputs", found=str(len(inputs)))
        for index, (tensor, is_text) in enumerate(zip(inputs, texts, strict=True)):
            if is_text:
                self._text(index, tensor.name)
            else:
                self._cast(self._pick(index), tensor.name, tensor)

    def same(self, tensor: str, name: str) -> None:
        """Make an input of the converted model of a tensor as it is."""
        self._node("Identity", [tensor], name)

    @staticmethod
    def _width(tensor: Any) -> int:
        return int(tensor.type.tensor_type.shape.dim[1].dim_value)

    def give(self, output: GraphOutput) -> list[Any]:
        """The nodes that bring an output to its name, FP32 and shape."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        number, shape = (
            f"onward_{output.name}_number",
            self._constant(f"onward_{output.name}_shape", [-1, *output.shape]),
        )
        source, pair = PREFIX + output.source, []
        if output.pair:
            first, both = f"onward_{output.name}_first", f"onward_{output.name}_both"
            pair = [
                helper.make_node("Neg", [source], [first], name=first),
                helper.make_node("Concat", [first, source], [both], name=both, axis=1),
            ]
            source = both
        return [
            *pair,
            helper.make_node("Cast", [source], [number], to=types.FLOAT, name=f"{number}_cast"),
            helper.make_node("Reshape", [number, shape], [output.name], name=f"onward_{output.name}_reshape"),
        ]

    def _pick(self, index: int) -> str:
        picked = f"onward_column_{index}"
        self._node("Gather", [MATRIX, self._constant(f"{picked}_index", [index])], picked, axis=1)
        return picked

    def _text(self, index: int, name: str) -> str:
        """The categories of a column as text [rows, 1], from their indices."""
        categories = self._frame.table[index].categories
        picked, stem = self._pick(index), f"onward_column_{index}"
        unknown = self._constant(f"{stem}_unknown", np.array(len(categories), dtype=np.float32))
        table = self._constant(f"{stem}_categories", [*categories, UNKNOWN_CATEGORY])
        self._node("IsNaN", [picked], f"{stem}_is_unknown")
        self._node("Where", [f"{stem}_is_unknown", unknown, picked], f"{stem}_filled")
        self._node("Cast", [f"{stem}_filled"], f"{stem}_position", to=self._onnx.TensorProto.INT64)
        self._node("Gather", [table, f"{stem}_position"], name, axis=0)
        return name

    def _cast(self, source: str, name: str, tensor: Any) -> None:
        self._node("Cast", [source], name, to=tensor.type.tensor_type.elem_type)

    def _constant(self, name: str, values: Any) -> str:
        helper, types = self._onnx.helper, self._onnx.TensorProto
        if isinstance(values, np.ndarray):
            self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        elif isinstance(values[0], str):
            texts = [value.encode() for value in values]
            self.constants.append(helper.make_tensor(name, types.STRING, [len(values)], texts))
        else:
            self.constants.append(helper.make_tensor(name, types.INT64, [len(values)], values))
        return name

    def _node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        name = f"onward_node_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [output], name=name, **attributes))


def _needed(nodes: Sequence[Any], outputs: Sequence[str]) -> list[Any]:
    """The nodes that the outputs depend on, in order: converters also compute labels that nobody asks for."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:  # a subgraph may read tensors of the graph around it
                for graph in (attribute.g, *attribute.graphs):
                    wanted.update(name for inner in graph.node for name in inner.input)
    return kept[::-1]
