"""Trees as records, and the ONNX graph that answers as they do. It knows no library's files.

A graph takes the FP32 matrix of the `table` step, and its splits compare FP32 numbers. Where a library compares FP64
numbers, a threshold becomes the largest FP32 number not above it: `x <= threshold` then means the same for every FP32
x. But a number that was typed with decimals is FP64 in the library and FP32 here. For those the nearest FP32 number is
right: rounding keeps the order, so that what was not above the threshold is not above it either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from onward.errors import PackageError
from onward.package.importers.derived import Derived, write_derived
from onward.package.importers.extra import need
from onward.package.importers.tablegraph import MATRIX
from onward.types import Array

MOST_NODES = 20_000_000
MOST_CATEGORY = 1 << 31
_PURPOSE = "packing a tree model"

ZERO = 1e-35
"""What LightGBM takes for zero."""
Rounding: TypeAlias = Literal["down", "nearest"]
Rule: TypeAlias = Literal["BRANCH_LT", "BRANCH_LEQ", "BRANCH_GT"]
Link: TypeAlias = Literal["identity", "sigmoid", "softmax", "exp", "softplus", "signed_square", "step"]


@dataclass(frozen=True, slots=True)
class Split:
    """A node that compares a feature: on to the node `yes`, or `no`; a missing value goes to `yes` if told.

    The value of BRANCH_LT is an FP32 number, that of the others may be an FP64 one.
    """

    feature: int
    rule: Rule
    value: float
    yes: int
    no: int
    missing_yes: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A node that asks whether a feature is one of some whole numbers."""

    feature: int
    members: tuple[int, ...]
    yes: int
    no: int
    missing_yes: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a leaf adds, by target."""

    weights: tuple[tuple[int, float], ...]


Node: TypeAlias = Split | Member | Leaf
Tree: TypeAlias = Sequence[Node]
"""Nodes by their number; the first is the root."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Trees over `features` columns whose leaves sum up to `targets` margins.

    A margin is the sum times `scale` plus `base`; the answer is the link's value of it. With `pair` the one target is
    the second of two classes, and the answer has both. Zeros of the columns `zeros_missing` are
    missing values. `derived` columns follow the given ones.
    """

    trees: Sequence[Tree]
    features: int
    targets: int = 1
    base: tuple[float, ...] = ()
    scale: float = 1.0
    link: Link = "identity"
    pair: bool = False
    zeros_missing: tuple[int, ...] = ()
    derived: Sequence[Derived] = ()

    @property
    def width(self) -> int:
        """How many columns splits may ask for: those given and those derived of them."""
        return self.features + sum(one.width for one in self.derived)

    def splits(self) -> Iterator[Split | Member]:
        """Every node that is no leaf."""
        return (node for tree in self.trees for node in tree if not isinstance(node, Leaf))


def check_forest(forest: Forest, where: str = "") -> None:
    """Raise `PackageError` for what no library writes.

    A node that leads nowhere or back, a column that is none, or what is no number among those that are added and
    compared.
    """
    total = sum(len(tree) for tree in forest.trees)
    total += sum(len(node.members) for node in forest.splits() if isinstance(node, Member))
    if not forest.trees or total > MOST_NODES:
        raise PackageError("a model of no trees or too many", where=where, expected=f"1 to {MOST_NODES} nodes")
    # The base is divided by the scale when it becomes a leaf.
    scaled = [base / forest.scale for base in (1.0, *forest.base)] if forest.scale else [np.inf]
    if not np.isfinite([forest.scale, *forest.base, *scaled]).all():
        raise PackageError("the trees begin or are scaled with what is no number", where=where,
                           expected="a finite base, a finite scale other than 0",
                           found=f"base {list(forest.base[:3])}, scale {forest.scale}")  # fmt: skip
    if not all(0 <= column < forest.features for column in forest.zeros_missing):
        raise PackageError("zeros are missing in a column that is none", where=where, expected="a file that is whole")
    for number, tree in enumerate(forest.trees):
        problem = _problem(tree, forest)
        if problem:
            raise PackageError(f"tree {number} is broken: {problem}", where=where, expected="a file that is whole")


def _problem(tree: Tree, forest: Forest) -> str:
    seen = bytearray(len(tree))
    ahead = [0]
    while ahead:
        place = ahead.pop()
        if not 0 <= place < len(tree):
            return f"there is no node {place}"
        if seen[place]:
            return f"node {place} is reached twice"
        seen[place] = 1
        node = tree[place]
        if isinstance(node, Leaf):
            if any(not 0 <= target < forest.targets or not np.isfinite(weight) for target, weight in node.weights):
                return f"leaf {place} adds {node.weights[:3]}"
            continue
        if not 0 <= node.feature < forest.width:
            return f"node {place} asks for column {node.feature}"
        if isinstance(node, Split) and math.isnan(node.value):
            return f"node {place} compares with {node.value}"
        if isinstance(node, Member) and any(not 0 <= member < MOST_CATEGORY for member in node.members):
            return f"node {place} asks for a category that is none"
        ahead += [node.yes, node.no]
    return ""


def write_forest(forest: Forest, output: str, *, exact: bool = False, rounding: Rounding = "down") -> bytes:
    """The serialised ONNX model: FP32 [batch, features] in, FP32 [batch], or [batch, targets] where several, out.

    With `exact` the sum of the leaves, and the link, are computed in FP64. `rounding` is how thresholds become
    FP32 numbers.
    """
    onnx = need("onnx", _PURPOSE)
    writer = _Writer(onnx, exact=exact, rounding=rounding)
    margin = writer.margin(forest)
    writer.answer(forest, margin, output)
    helper, types = onnx.helper, onnx.TensorProto
    width = 2 if forest.pair else forest.targets
    shape = ["batch", width] if forest.pair or forest.targets > 1 or forest.link == "softmax" else ["batch"]
    graph = helper.make_graph(
        writer.nodes,
        "onward",
        [helper.make_tensor_value_info(MATRIX, types.FLOAT, ["batch", forest.features])],
        [helper.make_tensor_value_info(output, types.FLOAT, shape)],
        writer.constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def float32_below(value: float) -> float:
    """The largest FP32 number that is not above an FP64 one: `x <= value` then means the same for FP32 x."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
    return float(np.nextafter(nearest, np.float32(-np.inf)) if float(nearest) > value else nearest)


class _Writer:
    def __init__(self, onnx: Any, *, exact: bool, rounding: Rounding) -> None:
        self._onnx = onnx
        self._exact = exact
        self._rounding = rounding
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def margin(self, forest: Forest) -> str:
        """Sums the trees, FP32 or FP64 [batch, targets], and adds the base."""
        matrix = self._without_zeros(forest) if forest.zeros_missing else MATRIX
        matrix = write_derived(forest.derived, matrix, self.add, self.keep)
        trees = list(forest.trees)
        if any(forest.base):
            # The base is the first leaf, as libraries begin their sums with it: a sum may be small beside its parts.
            base = np.broadcast_to(np.asarray(forest.base) / forest.scale, forest.targets)
            trees.insert(0, [Leaf(tuple(enumerate(base.tolist())))])
        attributes = _attributes(trees, self._rounding)
        if self._exact:
            matrix = self.add("Cast", matrix, to=self._onnx.TensorProto.DOUBLE)
            for name in ("nodes_values", "target_weights"):
                attributes[f"{name}_as_tensor"] = self._doubles(name, attributes.pop(name))
        margin = self.add(
            "TreeEnsembleRegressor", matrix, domain="ai.onnx.ml", n_targets=forest.targets, aggregate_function="SUM",
            post_transform="NONE", **attributes,
        )  # fmt: skip
        if self._exact:
            margin = self.add("Cast", margin, to=self._onnx.TensorProto.DOUBLE)
        if forest.scale != 1.0:
            margin = self.add("Mul", margin, self.constant(np.float64(forest.scale)))
        return margin

    def _doubles(self, name: str, values: list[float]) -> Any:
        return self._onnx.numpy_helper.from_array(np.array(values, dtype=np.float64), name)

    def _without_zeros(self, forest: Forest) -> str:
        asked = np.zeros(forest.features, dtype=bool)
        asked[list(forest.zeros_missing)] = True
        zero, missing = self.keep(np.array(ZERO, np.float32)), self.keep(np.array(np.nan, np.float32))
        small = self.add("Not", self.add("Greater", self.add("Abs", MATRIX), zero))
        return self.add("Where", self.add("And", small, self.keep(asked)), missing, MATRIX)

    def answer(self, forest: Forest, margin: str, output: str) -> None:
        """Puts the link's value of the margins under the output's name."""
        value = self._link(forest.link, margin)
        if forest.pair:
            value = self.add("Concat", self.add("Sub", self.constant(np.float64(1.0)), value), value, axis=1)
        elif forest.targets == 1 and forest.link != "softmax":
            value = self.add("Reshape", value, self.keep(np.array([-1], np.int64)))
        self.nodes.append(
            self._onnx.helper.make_node(
                "Cast", [value], [output], name="onward_answer", to=self._onnx.TensorProto.FLOAT
            )
        )

    def _link(self, link: Link, margin: str) -> str:
        if link == "softmax":
            return self.add("Softmax", margin, axis=1)
        if link == "signed_square":
            return self.add("Mul", self.add("Sign", margin), self.add("Mul", margin, margin))
        if link == "step":
            positive = self.add("Greater", margin, self.constant(np.float64(0.0)))
            return self.add("Cast", positive, to=self._onnx.TensorProto.FLOAT)
        if link == "softplus" and self._exact:  # onnxruntime has it for FP32 only
            power = self.add("Exp", self.add("Neg", self.add("Abs", margin)))
            rest = self.add("Log", self.add("Add", power, self.constant(np.float64(1.0))))
            return self.add("Add", self.add("Max", margin, self.constant(np.float64(0.0))), rest)
        operators = {"sigmoid": "Sigmoid", "exp": "Exp", "softplus": "Softplus"}
        return self.add(operators[link], margin) if link in operators else margin

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of what it gives."""
        name = f"onward_{len(self.nodes)}_{operator.lower()}"
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a constant, in the type that sums have."""
        return self.keep(np.asarray(value, dtype=np.float64 if self._exact else np.float32))

    def keep(self, value: Any) -> str:
        """Add a constant as it is."""
        name = f"onward_constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(value, name))
        return name


def _attributes(trees: Iterable[Tree], rounding: Rounding) -> dict[str, Any]:
    """The attributes of one `TreeEnsembleRegressor`."""
    columns: dict[str, list[Any]] = {name: [] for name in _NODE_COLUMNS}
    targets: dict[str, list[Any]] = {"treeids": [], "nodeids": [], "ids": [], "weights": []}
    for number, tree in enumerate(trees):
        for row in _rows(tree, rounding):
            columns["treeids"].append(number)
            for name, value in zip(_NODE_COLUMNS[1:], row, strict=True):
                columns[name].append(value)
        for place, node in enumerate(tree):
            if isinstance(node, Leaf):
                for target, weight in node.weights:
                    for name, value in zip(targets, (number, place, target, weight), strict=True):
                        targets[name].append(value)
    nodes = {f"nodes_{name}": values for name, values in columns.items()}
    return nodes | {f"target_{name}": values for name, values in targets.items()}


_NODE_COLUMNS = (
    "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true",
)  # fmt: skip


def _rows(tree: Tree, rounding: Rounding) -> Iterator[tuple[int, int, str, float, int, int, int]]:
    """The nodes as ONNX has them: a membership is a chain of equalities that lead to one node."""
    spare = len(tree)
    for place, node in enumerate(tree):
        if isinstance(node, Leaf):
            yield place, 0, "LEAF", 0.0, 0, 0, 0
        elif isinstance(node, Split):
            exact = node.rule == "BRANCH_LT" or rounding == "nearest"
            value = node.value if exact else float32_below(node.value)
            yield place, node.feature, node.rule, value, node.yes, node.no, int(node.missing_yes)
        else:
            here = place
            members = node.members or (-1,)  # none: no category has the number -1
            for index, member in enumerate(members):
                last = index == len(members) - 1
                onward = node.no if last else spare
                yield here, node.feature, "BRANCH_EQ", float(member), node.yes, onward, int(node.missing_yes)
                if not last:
                    here, spare = spare, spare + 1


def thresholds(forest: Forest) -> dict[int, Array]:
    """The FP32 thresholds of each column that splits compare, without repeats and in order."""
    found: dict[int, set[float]] = {}
    for node in forest.splits():
        values = [node.value] if isinstance(node, Split) else [float(member) for member in node.members]
        found.setdefault(node.feature, set()).update(values)
    with np.errstate(over="ignore"):
        return {feature: np.array(sorted(values), dtype=np.float32) for feature, values in found.items()}
