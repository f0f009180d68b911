"""Imports scikit-learn's histogram boosting with categories, which skl2onnx does not convert.

An unknown category is a missing one to it. Columns of categories come first inside; here they are where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onward.errors import UsageError
from onward.package.importers.derived import Codes, Derived
from onward.package.importers.forest import Forest, Leaf, Link, Member, Node, Split
from onward.package.importers.sklearnparts import is_missing
from onward.package.importers.treemodel import TreeColumn, TreeModel

KINDS = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")


def has_categories(estimator: Any) -> bool:
    """Whether this is fitted histogram boosting with columns of categories."""
    flags = getattr(estimator, "is_categorical_", None)
    return type(estimator).__name__ in KINDS and flags is not None and bool(np.any(flags))


def categories_of(estimator: Any) -> list[tuple[int, tuple[Any, ...]]]:
    """The columns of categories, by place, with those of training."""
    places = np.flatnonzero(estimator.is_categorical_).tolist()
    stored = estimator._preprocessor.named_transformers_["encoder"].categories_
    return [
        (place, tuple(value for value in values.tolist() if not is_missing(value)))
        for place, values in zip(places, stored, strict=True)
    ]


def model_of_estimator(estimator: Any) -> TreeModel:
    """The model of a fitted estimator. Categories are texts, or numbers, which are told by their places here."""
    width = int(estimator.n_features_in_)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())] or [
        f"x{place}" for place in range(width)
    ]
    columns = [TreeColumn(name=name) for name in names]
    derived: list[Derived] = []
    categories = categories_of(estimator)
    inside = []  # which column each of the estimator's own is
    for place, values in categories:
        if all(isinstance(value, str) for value in values):
            columns[place] = TreeColumn(name=names[place], kind="category", categories=values)
            inside.append(place)
        elif all(float(value).is_integer() for value in values):
            derived.append(Codes(column=place, keys=tuple(map(int, values))))
            inside.append(width + len(derived) - 1)
        else:
            raise UsageError(f'the categories of "{names[place]}" are neither texts nor whole numbers')
    chosen = {place for place, _ in categories}
    inside += [place for place in range(width) if place not in chosen]
    targets = int(estimator.n_trees_per_iteration_)
    trees = [
        _tree(predictor, inside, target)
        for predictors in estimator._predictors
        for target, predictor in enumerate(predictors)
    ]
    classes = tuple(str(name) for name in getattr(estimator, "classes_", ()))
    link: Link = "exp" if not classes and estimator.loss in ("poisson", "gamma") else "identity"
    if classes:
        link = "sigmoid" if targets == 1 else "softmax"
    forest = Forest(
        trees=trees, features=width, targets=targets, link=link, pair=bool(classes) and targets == 1,
        base=tuple(np.ravel(estimator._baseline_prediction).astype(float).tolist()), derived=derived,
    )  # fmt: skip
    return TreeModel(columns=tuple(columns), forest=forest, classes=classes, unknown="nan")


def _tree(predictor: Any, inside: Sequence[int], target: int) -> list[Node]:
    nodes: list[Node] = []
    for node in predictor.nodes:
        feature, yes, no = int(node["feature_idx"]), int(node["left"]), int(node["right"])
        missing = bool(node["missing_go_to_left"])
        if node["is_leaf"]:
            nodes.append(Leaf(((target, float(node["value"])),)))
        elif node["is_categorical"]:
            words = predictor.raw_left_cat_bitsets[int(node["bitset_idx"])].tolist()
            members = tuple(32 * at + bit for at, word in enumerate(words) for bit in range(32) if word >> bit & 1)
            nodes.append(Member(inside[feature], members, yes, no, missing))
        else:
            nodes.append(Split(inside[feature], "BRANCH_LEQ", float(node["num_threshold"]), yes, no, missing))
    return nodes
