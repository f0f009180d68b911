"""The graph of the fraud package: trees as arrays, and trees as ONNX operators.

Knows nothing of data, training or libraries that grow trees; `train.py` hands over `Trees`.

    features [n, 30] ── without Time ──┬── classifier ── score ── calibration ── probability ── cost matrix ── fraud
                                       ├── attribution of the same trees ── contributions
                                       └── isolation forest ── path length ── unusual_score ── unusual
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gallery.fraud.fields import CONTRIBUTIONS, FIELDS, LEARNED

OPSET = 17
ML_OPSET = 3
LEAF = -1
#: An input with a default, which the onnx backend sets where the output is asked for (docs/reference/manifest.md).
CONTRIBUTIONS_WANTED = "contributions.wanted"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """One binary tree as parallel arrays over its nodes; node 0 is the root.

    feature: column of `LEARNED` that is compared, `LEAF` at a leaf.
    threshold: a row goes left where its value <= threshold.
    left, right: indices of the children, unused at a leaf.
    value: what a leaf adds to the sum, unused elsewhere.
    cover: number of training rows that reached the node.
    """

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    cover: Floats

    def expectations(self) -> Floats:
        """Mean leaf value of the training rows below each node."""
        mean = self.value.astype(np.float64).copy()
        for node in self._children_first():
            left, right = self.left[node], self.right[node]
            total = self.cover[left] + self.cover[right]
            mean[node] = (self.cover[left] * mean[left] + self.cover[right] * mean[right]) / total
        return mean

    def attributions(self, bias: int) -> dict[int, dict[int, float]]:
        """Per leaf, what each column (and the column `bias`) contributed to the leaf's value.

        A step down the path changes the expectation; the change is credited to the column that was compared
        (Saabas' path attribution). The credits of a leaf therefore add up to its value exactly.
        """
        mean = self.expectations()
        credit: dict[int, dict[int, float]] = {}
        open_paths: list[tuple[int, dict[int, float]]] = [(0, {bias: float(mean[0])})]
        while open_paths:
            node, path = open_paths.pop()
            if self.feature[node] == LEAF:
                credit[node] = path
                continue
            column = int(self.feature[node])
            for child in (int(self.left[node]), int(self.right[node])):
                change = float(mean[child] - mean[node])
                open_paths.append((child, {**path, column: path.get(column, 0.0) + change}))
        return credit

    def _children_first(self) -> list[int]:
        order: list[int] = []
        waiting = [0]
        while waiting:
            node = waiting.pop()
            if self.feature[node] != LEAF:
                order.append(node)
                waiting += [int(self.left[node]), int(self.right[node])]
        return order[::-1]


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Everything the graph is made of, fitted.

    classifier: trees whose leaf values add up to the score, a log-odds.
    slope, intercept: calibration, probability = sigmoid(slope * score + intercept).
    review_cost, missed_fee: cost matrix in euros; a missed fraud costs Amount + missed_fee, a review costs review_cost.
    isolation: trees whose leaf values add up to a row's path length, `isolation_norm` being the length that scores 0.5.
    unusual_above: unusual_score from which a row is called unusual.
    """

    classifier: Sequence[Tree]
    slope: float
    intercept: float
    review_cost: float
    missed_fee: float
    isolation: Sequence[Tree]
    isolation_norm: float
    unusual_above: float


def floor_to_float32(threshold: Floats) -> NDArray[np.float32]:
    """Largest float32 not above each threshold.

    A float32 `x` satisfies `x <= threshold` in float64 exactly if it satisfies `x <= floor` in float32; rounding to
    nearest would send the rows that lie between the two the other way.
    """
    nearest = threshold.astype(np.float32)
    above = nearest.astype(np.float64) > threshold
    return np.where(above, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)


def fraud_graph(detector: Detector) -> onnx.ModelProto:
    """The whole package as one model: features FP32 [n, 30] → the outputs listed in the manifest, [n] or [n, 30]."""
    nodes = [
        helper.make_node("Slice", ["features", "after_time", "all_columns", "columns_axis"], ["learned"]),
        *_classifier_nodes(detector),
        _contributions_node(detector),
        *_isolation_nodes(detector),
    ]
    constants = {
        "after_time": np.array([1], np.int64),
        "all_columns": np.array([len(FIELDS)], np.int64),
        "columns_axis": np.array([1], np.int64),
        "flat": np.array([-1], np.int64),
        "slope": np.float32(detector.slope),
        "intercept": np.float32(detector.intercept),
        "amount_column": np.int64(FIELDS.index("Amount")),
        "missed_fee": np.float32(detector.missed_fee),
        "review_cost": np.float32(detector.review_cost),
        "minus_one_by_norm": np.float32(-1.0 / detector.isolation_norm),
        "two": np.float32(2.0),
        "unusual_above": np.float32(detector.unusual_above),
        CONTRIBUTIONS_WANTED: np.bool_(False),
    }
    floats, flags = TensorProto.FLOAT, TensorProto.BOOL
    graph = helper.make_graph(
        nodes,
        "fraud",
        [
            helper.make_tensor_value_info("features", floats, ["n", len(FIELDS)]),
            helper.make_tensor_value_info(CONTRIBUTIONS_WANTED, flags, []),
        ],
        [
            helper.make_tensor_value_info("probability", floats, ["n"]),
            helper.make_tensor_value_info("fraud", flags, ["n"]),
            helper.make_tensor_value_info("unusual", flags, ["n"]),
            helper.make_tensor_value_info("unusual_score", floats, ["n"]),
            helper.make_tensor_value_info("score", floats, ["n"]),
            helper.make_tensor_value_info("contributions", floats, ["n", len(CONTRIBUTIONS)]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        producer_name="onward-gallery",
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def _classifier_nodes(detector: Detector) -> list[onnx.NodeProto]:
    return [
        _ensemble(
            [(tree, _own_values(tree)) for tree in detector.classifier],
            source="learned",
            output="score_column",
            targets=1,
        ),
        helper.make_node("Reshape", ["score_column", "flat"], ["score"]),
        helper.make_node("Mul", ["score", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "intercept"], ["log_odds"]),
        helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
        helper.make_node("Gather", ["features", "amount_column"], ["amount"], axis=1),
        helper.make_node("Add", ["amount", "missed_fee"], ["cost_if_missed"]),
        helper.make_node("Mul", ["probability", "cost_if_missed"], ["expected_loss"]),
        helper.make_node("GreaterOrEqual", ["expected_loss", "review_cost"], ["fraud"]),
    ]


def _contributions_node(detector: Detector) -> onnx.NodeProto:
    """The attribution trees, run only where `contributions.wanted` says so: they cost as much as all the rest."""
    trees = _ensemble(
        [(tree, tree.attributions(len(LEARNED))) for tree in detector.classifier],
        source="learned",
        output="attributed",
        targets=len(CONTRIBUTIONS),
    )
    nothing = numpy_helper.from_array(np.zeros((0, len(CONTRIBUTIONS)), np.float32))
    default = helper.make_node("Constant", [], ["nothing"], value=nothing)
    branches = {
        name: helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, len(CONTRIBUTIONS)])]
        )
        for name, node, output in (("then_branch", trees, "attributed"), ("else_branch", default, "nothing"))
    }
    return helper.make_node("If", [CONTRIBUTIONS_WANTED], ["contributions"], name="contributions", **branches)


def _isolation_nodes(detector: Detector) -> list[onnx.NodeProto]:
    return [
        _ensemble(
            [(tree, _own_values(tree)) for tree in detector.isolation],
            source="learned",
            output="path_length_column",
            targets=1,
        ),
        helper.make_node("Reshape", ["path_length_column", "flat"], ["path_length"]),
        helper.make_node("Mul", ["path_length", "minus_one_by_norm"], ["isolation_exponent"]),
        helper.make_node("Pow", ["two", "isolation_exponent"], ["unusual_score"]),
        helper.make_node("GreaterOrEqual", ["unusual_score", "unusual_above"], ["unusual"]),
    ]


def _own_values(tree: Tree) -> dict[int, dict[int, float]]:
    return {int(leaf): {0: float(tree.value[leaf])} for leaf in np.flatnonzero(tree.feature == LEAF)}


def _ensemble(
    trees: Sequence[tuple[Tree, dict[int, dict[int, float]]]], *, source: str, output: str, targets: int
) -> onnx.NodeProto:
    """One TreeEnsembleRegressor that adds up, per target, what the leaves reached hold for it."""
    columns = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids", "missing_value_tracks_true")
    nodes: dict[str, list[int]] = {key: [] for key in columns}
    thresholds: list[float] = []
    modes: list[str] = []
    leaves: dict[str, list[int]] = {key: [] for key in ("treeids", "nodeids", "ids")}
    weights: list[float] = []
    for number, (tree, per_leaf) in enumerate(trees):
        inner = tree.feature != LEAF
        count = len(tree.feature)
        nodes["treeids"] += [number] * count
        nodes["nodeids"] += range(count)
        nodes["featureids"] += np.where(inner, tree.feature, 0).tolist()
        nodes["truenodeids"] += np.where(inner, tree.left, 0).tolist()
        nodes["falsenodeids"] += np.where(inner, tree.right, 0).tolist()
        # the trees saw no missing value while they grew; where one comes it takes the side of zero
        nodes["missing_value_tracks_true"] += (inner & (tree.threshold >= 0.0)).astype(np.int64).tolist()
        thresholds += floor_to_float32(np.where(inner, tree.threshold, 0.0)).tolist()
        modes += np.where(inner, "BRANCH_LEQ", "LEAF").tolist()
        for leaf, by_target in sorted(per_leaf.items()):
            for target, weight in sorted(by_target.items()):
                leaves["treeids"].append(number)
                leaves["nodeids"].append(leaf)
                leaves["ids"].append(target)
                weights.append(weight)
    attributes: dict[str, Any] = {
        "n_targets": targets,
        "aggregate_function": "SUM",
        "post_transform": "NONE",
        "nodes_values": thresholds,
        "nodes_modes": modes,
        "target_weights": weights,
        **{f"nodes_{key}": value for key, value in nodes.items()},
        **{f"target_{key}": value for key, value in leaves.items()},
    }
    return helper.make_node("TreeEnsembleRegressor", [source], [output], name=output, domain="ai.onnx.ml", **attributes)
