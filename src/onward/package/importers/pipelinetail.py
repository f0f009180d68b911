"""Pipelines of scikit-learn that end in boosted trees of another library: the trees are joined to the steps before."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from onward.errors import UsageError
from onward.package.importers.extra import need
from onward.package.importers.forest import Rounding, check_forest, write_forest
from onward.package.importers.histogram import has_categories
from onward.package.importers.tablegraph import MATRIX
from onward.package.importers.treemodel import TreeModel

LIBRARIES = ("xgboost", "lightgbm", "catboost")
HISTOGRAM = "histogram"
_PURPOSE = "packing a pipeline that ends in boosted trees"
_PREFIX = "trees_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The trees, and the pipeline of what comes before them. `zeros_missing`: a zero is a missing value to them."""

    front: Any
    model: TreeModel
    zeros_missing: bool


def tail_of(estimator: Any, sample: Any) -> Tail | None:
    """The boosted trees at the end of a fitted pipeline; None where there are none, or nothing before them.

    The sample shows what the steps before hand on: XGBoost takes what a sparse matrix does not hold for missing.
    """
    steps = list(getattr(estimator, "steps", None) or ())
    kinds = [kind for kind in LIBRARIES if steps and any(base.__module__.split(".")[0] == kind
                                                         for base in type(steps[-1][1]).__mro__)]  # fmt: skip
    if len(steps) < 2:
        return None
    front = copy.copy(estimator)
    front.steps = steps[:-1]
    last = steps[-1][1]
    if has_categories(last):
        kinds = [HISTOGRAM]
    if not kinds:
        return None
    module = import_module(f"onward.package.importers.{kinds[0]}")
    model: TreeModel = module.model_of_estimator(last)
    check_forest(model.forest)
    if any(column.kind == "category" for column in model.columns):
        raise UsageError(
            "the trees at the end of the pipeline take categories", expected="numbers from the step before"
        )
    zeros_missing = kinds[0] == "xgboost" and hasattr(front.transform(sample), "tocsr")
    return Tail(front=front, model=model, zeros_missing=zeros_missing)


def join_tail(front: Any, tail: Tail, output: str, *, exact: bool, rounding: Rounding = "down") -> Any:
    """The ONNX model of the steps before, with the trees behind it."""
    onnx, compose = need("onnx", _PURPOSE), need("onnx.compose", _PURPOSE)
    forest = tail.model.forest
    if tail.zeros_missing:
        forest = replace(forest, zeros_missing=tuple(range(forest.features)))
    written = write_forest(forest, output, exact=exact, rounding=rounding)
    trees = compose.add_prefix(onnx.load_from_string(written), _PREFIX)
    source = front.graph.output[0].name
    joined = onnx.helper.make_graph(
        [
            *front.graph.node,
            onnx.helper.make_node("Cast", [source], [_PREFIX + MATRIX], to=onnx.TensorProto.FLOAT, name="onward_join"),
            *trees.graph.node,
        ],
        "joined",
        list(front.graph.input),
        list(trees.graph.output),
        [*front.graph.initializer, *trees.graph.initializer],
    )
    opsets: dict[str, int] = {}
    for one in (*trees.opset_import, *front.opset_import):
        opsets[one.domain] = max(one.version, opsets.get(one.domain, 0))
    return onnx.helper.make_model(
        joined, opset_imports=[onnx.helper.make_opsetid(*one) for one in opsets.items()], ir_version=8,
        functions=list(front.functions),
    )  # fmt: skip
