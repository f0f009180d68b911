"""An ONNX graph whose weights are written with fewer bits. Names, types and shapes of inputs and outputs stay.

Matrices that inputs are multiplied by, tables that rows are looked up in, and convolutions' filters are found; each can
be written in the ways below. What is small, or used in another way as well, stays as it is. Needs `onnx`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onward.runners.edge.quantized_weights import BLOCK, dividing, in_blocks, in_rows
from onward.types import Array

Kind = Literal["matrix", "table", "filter"]
EXACT_BITS = 7
"""With 8 bits for both factors, older x86 processors add two products in 16 bits and cut off what exceeds them."""
_LEAST_NUMBERS = 256
_LEAST_SHARE = 0.002
"""Smaller weights save nothing, and are often the most sensitive ones: a classifier's head, a final merge."""
_CONTRIB = "com.microsoft"
_ROUNDED_INPUTS = 4  # MatMulNBits: the inputs, too, may be rounded to 8 bits, by blocks of each row


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A constant and its node. A matrix's `values` are (outputs, inputs), its `bias` "" where it has none."""

    kind: Kind
    name: str
    node: Any
    values: Array
    bias: str = ""

    @property
    def input(self) -> str:
        """What is multiplied or looked up."""
        return str(self.node.input[1] if self.kind == "table" else self.node.input[0])

    @property
    def output(self) -> str:
        """The node's output."""
        return str(self.node.output[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounded:
    """The names that an input has when it is rounded: `given` is what was, after it was evened out."""

    name: str
    given: str

    @property
    def steps(self) -> str:
        return f"{self.name}.rounded"

    @property
    def scale(self) -> str:
        return f"{self.name}.rounded.scale"

    @property
    def zero(self) -> str:
        return f"{self.name}.rounded.zero"


class QuantizedGraph:
    """A model to be rewritten; `weights` are what can be, in the order of nodes, which is that to rewrite them in."""

    def __init__(self, file: Path) -> None:
        self._model = onnx.load(str(file))
        graph = self._model.graph
        self._constants = dict(_constants(graph))
        self.weights = self._found()
        del graph.initializer[:]  # kept aside: they are most of a model, and what is written has few of them
        self.clear()

    def clear(self) -> None:
        """Have nothing rewritten again."""
        self._before: dict[str, Any] = {}
        self._instead: dict[str, list[Any]] = {}
        self._rounded: set[str] = set()
        self._made: dict[str, Any] = {}

    def of(self, *kinds: Kind) -> Iterator[Weights]:
        """The weights of these kinds."""
        return (one for one in self.weights if one.kind in kinds)

    def as_blocks(self, one: Weights, bits: int) -> None:
        """Keep a matrix in blocks of 8 or 4 bits; the product unpacks them as it goes."""
        steps, scale = in_blocks(one.values, bits)
        kept = f"{one.name}.blocks{bits}"
        inputs = [one.input, self._keep(kept, steps), self._keep(f"{kept}.scales", scale)]
        inputs += ["", "", one.bias] if one.bias else []
        outputs, width = one.values.shape
        node = helper.make_node(
            "MatMulNBits", inputs, [one.output], name=f"{one.output}.blocks", domain=_CONTRIB,
            K=width, N=outputs, bits=bits, block_size=BLOCK, accuracy_level=_ROUNDED_INPUTS,
        )  # fmt: skip
        self._put(one, [node])

    def as_integers(self, one: Weights, spread: Array | None = None, *, twice: bool = False) -> None:
        """Multiply a matrix in whole numbers; inputs are rounded to 8 bits, by their range in each call.

        `spread` (inputs,) divides the inputs and multiplies the weights before both are rounded, which evens out
        inputs of very different size; all that is multiplied by the same input must have the same one. With `twice`
        what the inputs lost is rounded and multiplied as well: as good as 16 bits, for a second product.
        """
        out = one.output
        steps, scale = in_rows(one.values if spread is None else one.values * spread, EXACT_BITS)
        weights = self._keep(f"{out}.steps", np.ascontiguousarray(steps.T))
        scales = self._keep(f"{out}.scales", scale.reshape(-1))
        nodes, rounded = self._rounding(one.input, spread)
        total = f"{out}.product"
        products = _product(rounded, weights, scales, total)
        if twice:
            more, lost = self._losing(rounded)
            nodes += more
            products += _product(lost, weights, scales, f"{out}.lost")
            products.append(helper.make_node("Add", [total, f"{out}.lost"], [f"{out}.total"], f"{out}.total"))
            total = f"{out}.total"
        if one.bias:
            products.append(helper.make_node("Add", [total, one.bias], [out], f"{out}.sum"))
        else:
            products[-1].output[0] = out
        self._put(one, [*nodes, *products])

    def as_rows(self, one: Weights) -> None:
        """Keep a table in 8 bits with a scale a row; only the rows looked up become floats."""
        steps, scale = in_rows(one.values)
        kept, scales = self._keep(f"{one.name}.rows", steps), self._keep(f"{one.name}.rows.scales", scale)
        out = one.output
        self._put(one, [
            helper.make_node("Gather", [kept, one.input], [f"{out}.steps"], f"{out}.steps"),
            helper.make_node("Gather", [scales, one.input], [f"{out}.scale"], f"{out}.scale"),
            helper.make_node("Cast", [f"{out}.steps"], [f"{out}.float"], f"{out}.float", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], f"{out}.row"),
        ])  # fmt: skip

    def as_row_blocks(self, one: Weights) -> None:
        """Keep a table in blocks of 4 bits, where its rows are whole blocks; only the rows looked up become floats."""
        if one.values.shape[1] % BLOCK:
            self.as_rows(one)
            return
        steps, scale = in_blocks(one.values, 4)
        kept = self._keep(f"{one.name}.rows4", steps.reshape(len(steps), -1))
        node = helper.make_node(
            "GatherBlockQuantized", [kept, one.input, self._keep(f"{one.name}.rows4.scales", scale)], [one.output],
            name=f"{one.output}.blocks", domain=_CONTRIB, bits=4, block_size=BLOCK, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        self._put(one, [node])

    def as_stored(self, one: Weights) -> None:
        """Store a filter in 8 bits with a scale for each block; it becomes floats when the model is loaded.

        By operators that every runtime folds into a constant then, as it does not DequantizeLinear.
        """
        steps, scale = in_rows(one.values.reshape(-1, dividing(one.values[0].size)))
        kept, scales = self._keep(f"{one.name}.stored", steps), self._keep(f"{one.name}.stored.scales", scale)
        shape = self._keep(f"{one.name}.shape", np.array(one.values.shape, np.int64))
        cast, blocks, again = (f"{one.name}.{what}" for what in ("float", "blocks", "again"))
        self._before[cast] = helper.make_node("Cast", [kept], [cast], cast, to=TensorProto.FLOAT)
        self._before[blocks] = helper.make_node("Mul", [cast, scales], [blocks], blocks)
        self._before[again] = helper.make_node("Reshape", [blocks, shape], [again], again)
        self._put(one, [_taking(one.node, one.name, again)])

    def as_float16(self, one: Weights) -> None:
        """Store 16 bits, that become floats when the model is loaded; of a table, only the rows looked up do, later."""
        half = self._keep(f"{one.name}.half", numpy_helper.to_array(self._constants[one.name]).astype(np.float16))
        out = f"{one.output}.half" if one.kind == "table" else f"{one.name}.again"
        if one.kind == "table":
            self._put(one, [
                _taking(one.node, one.name, half, out),
                helper.make_node("Cast", [out], [one.output], f"{one.output}.again", to=TensorProto.FLOAT),
            ])  # fmt: skip
            return
        self._before[out] = helper.make_node("Cast", [half], [out], out, to=TensorProto.FLOAT)
        self._put(one, [_taking(one.node, one.name, out)])

    def written(self) -> bytes:
        """The model with what was put in the place of nodes, and without the constants that nothing takes any more."""
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        graph = made.graph
        nodes = [*self._before.values()]
        for node in self._model.graph.node:
            nodes += self._instead.get(node.output[0], [node])
        del graph.node[:]
        graph.node.extend(nodes)
        gone = {one.name for one in self.weights if one.output in self._instead} - set(_taken(graph))
        kept = (tensor for name, tensor in self._constants.items() if name not in gone)
        graph.initializer.extend([*kept, *self._made.values()])
        if any(node.domain == _CONTRIB for node in nodes):
            _import(made, _CONTRIB, 1)
        written: bytes = made.SerializeToString()
        return written

    def _rounding(self, name: str, spread: Array | None) -> tuple[list[Any], _Rounded]:
        """The nodes that round an input, none where it is rounded already, and what they make."""
        made = _Rounded(given=name if spread is None else f"{name}.even", name=name)
        if name in self._rounded:
            return [], made
        self._rounded.add(name)
        nodes = []
        if spread is not None:
            share = self._keep(f"{name}.spread", (1 / spread).astype(np.float32))
            nodes.append(helper.make_node("Mul", [name, share], [made.given], made.given))
        outputs = [made.steps, made.scale, made.zero]
        return [*nodes, helper.make_node("DynamicQuantizeLinear", [made.given], outputs, made.steps)], made

    def _losing(self, rounded: _Rounded) -> tuple[list[Any], _Rounded]:
        """The nodes that round what an input lost when it was rounded, and what they make."""
        back, lost = f"{rounded.name}.back", f"{rounded.name}.lost"
        if lost in self._rounded:
            return self._rounding(lost, None)
        steps = [rounded.steps, rounded.scale, rounded.zero]
        nodes, again = self._rounding(lost, None)
        return [
            helper.make_node("DequantizeLinear", steps, [back], back),
            helper.make_node("Sub", [rounded.given, back], [lost], lost),
            *nodes,
        ], again

    def _keep(self, name: str, values: Array) -> str:
        self._made[name] = numpy_helper.from_array(values, name)
        return name

    def _put(self, one: Weights, nodes: Sequence[Any]) -> None:
        self._instead[one.output] = list(nodes)

    def _found(self) -> tuple[Weights, ...]:
        graph = self._model.graph
        given = {value.name for value in graph.input}
        numbers = {name: int(np.prod(tensor.dims)) for name, tensor in self._constants.items() if _is_float(tensor)}
        least = max(_LEAST_NUMBERS, _LEAST_SHARE * sum(numbers.values()))
        large = {name for name, count in numbers.items() if count >= least and name not in given}
        found = []
        for node in graph.node:
            name, kind = _weights_of(node)
            if kind and name in large:
                one = self._weights(node, name, kind)
                found += [one] if one else []
        # One that a node takes which was not found would have to be kept as well.
        users, uses = Counter(one.name for one in found), Counter(_taken(graph))
        return tuple(one for one in found if uses[one.name] == users[one.name])

    def _weights(self, node: Any, name: str, kind: Kind) -> Weights | None:
        values = numpy_helper.to_array(self._constants[name])
        if kind == "filter":
            return Weights(kind=kind, name=name, node=node, values=values)
        if values.ndim != 2:
            return None
        if kind == "table":
            return Weights(kind=kind, name=name, node=node, values=values)
        options = _options(node)
        matrix = values if options.get("transB", 0) else values.T
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias:
            constant = self._constants.get(bias)
            if constant is None or list(constant.dims) != [len(matrix)]:
                return None
        return Weights(kind=kind, name=name, node=node, values=np.ascontiguousarray(matrix), bias=bias)


def _product(rounded: _Rounded, weights: str, scales: str, out: str) -> list[Any]:
    """The product of a rounded input and weights as floats, in a pattern that onnxruntime makes one operator of."""
    return [
        helper.make_node("MatMulInteger", [rounded.steps, weights, rounded.zero], [f"{out}.whole"], f"{out}.whole"),
        helper.make_node("Cast", [f"{out}.whole"], [f"{out}.float"], f"{out}.float", to=TensorProto.FLOAT),
        helper.make_node("Mul", [rounded.scale, scales], [f"{out}.scale"], f"{out}.scale"),
        helper.make_node("Mul", [f"{out}.float", f"{out}.scale"], [out], out),
    ]


def _weights_of(node: Any) -> tuple[str, Kind | None]:
    """The input of a node that may be weights, and what for; None where the node takes none, or not in a plain way."""
    options = _options(node)
    if node.op_type == "MatMul":
        return node.input[1], "matrix"
    if node.op_type == "Gemm" and not options.get("transA", 0):
        plain = options.get("alpha", 1.0) == 1 and options.get("beta", 1.0) == 1
        return node.input[1], "matrix" if plain else None
    if node.op_type == "Gather" and options.get("axis", 0) == 0:
        return node.input[0], "table"
    return (node.input[1], "filter") if node.op_type == "Conv" else ("", None)


def _constants(graph: Any) -> Iterator[tuple[str, Any]]:
    """The graph's constants by name; those that nodes make are moved to the others."""
    nodes = []
    for node in graph.node:
        value = _options(node).get("value") if node.op_type == "Constant" else None
        if isinstance(value, TensorProto):
            value.name = node.output[0]
            graph.initializer.append(value)
        else:
            nodes.append(node)
    if len(nodes) < len(graph.node):
        others = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(others)
    for tensor in graph.initializer:
        kept = TensorProto()
        kept.CopyFrom(tensor)
        yield kept.name, kept


def _taken(graph: Any) -> Iterator[str]:
    """The names that nodes take, those in graphs inside them too, and those that are outputs, once for each use."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _taken(inner)
    yield from (value.name for value in graph.output)


def _taking(node: Any, old: str, new: str, output: str = "") -> Any:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for index, name in enumerate(made.input):
        if name == old:
            made.input[index] = new
    if output:
        made.output[0] = output
    return made


def _options(node: Any) -> Mapping[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def _import(model: Any, domain: str, version: int) -> None:
    if all(one.domain != domain for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(domain, version))


def _is_float(tensor: Any) -> bool:
    return bool(tensor.data_type == TensorProto.FLOAT)
