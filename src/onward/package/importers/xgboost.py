"""Imports XGBoost's models from its JSON and UBJSON files, and from estimators and boosters in this process.

The file is read here, by XGBoost's published schema; XGBoost itself only answers the rows to compare with, where it is
installed. It compares in FP32, as the graph does: `x < threshold` goes left, a missing value where training sent it.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.forest import Forest, Leaf, Link, Member, Node, Split, check_forest
from onward.package.importers.frame import Frame, Kind
from onward.package.importers.tabular import Original
from onward.package.importers.treemodel import (
    WRONG,
    TreeColumn,
    TreeModel,
    check_sizes,
    draft_of_trees,
    frame_of_model,
    named_classes,
    original_of,
)
from onward.package.importers.treeoriginal import answers_of_file
from onward.package.importers.ubjson import read_ubjson
from onward.package.records import PackageInfo
from onward.types import Array

_KINDS: Mapping[str, Kind] = {"int": "integer", "i": "boolean", "float": "number", "q": "number", "c": "category"}
_LINKS: Mapping[str, Link] = {
    "reg:squarederror": "identity", "reg:linear": "identity", "reg:squaredlogerror": "identity",
    "reg:pseudohubererror": "identity", "reg:absoluteerror": "identity", "reg:quantileerror": "identity",
    "reg:expectileerror": "identity", "rank:pairwise": "identity", "rank:ndcg": "identity", "rank:map": "identity",
    "binary:logitraw": "identity", "reg:logistic": "sigmoid", "binary:logistic": "sigmoid", "binary:hinge": "step",
    "count:poisson": "exp", "reg:gamma": "exp", "reg:tweedie": "exp", "survival:cox": "exp", "survival:aft": "exp",
    "multi:softprob": "softmax", "multi:softmax": "softmax",
}  # fmt: skip
_EXPECTED = "an XGBoost model of trees, saved by save_model() to .json or .ubj"


def draft_of_xgboost_file(
    path: Path, info: PackageInfo, *, sample: Any = None, labels: Path | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of a `.json` or `.ubj` file; `labels` names the classes, one a line.

    Compared where XGBoost is installed, on the sample or on rows made of the trees. Raises `PackageError` for what the
    file does not say, or what no graph is written for.
    """
    document = _parsed(path.read_bytes(), str(path))
    model = read_xgboost(document, labels=labels, categories=_pandas_categories(sample), where=str(path))
    check_forest(model.forest, str(path))  # before rows are made of it, and a native reader sees it
    frame = frame_of_model(model, sample)
    original = _answers_of_file(path, document, model, frame)
    return draft_of_trees(model, info, frame=frame, original=original, tolerance=tolerance, where=str(path))


def draft_of_xgboost(estimator: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of an estimator or a booster in this process, with the sample's column names as inputs."""
    names = tuple(map(str, getattr(sample, "columns", ())))
    booster, document = _booster_of(estimator)
    model = model_of_estimator(estimator, names=names, categories=_pandas_categories(sample))
    frame = frame_of_model(model, sample)
    if hasattr(estimator, "predict_proba"):
        labels = tuple(map(str, estimator.predict(sample)))
        original = original_of(model, estimator.predict_proba(sample), labels)
    elif booster is estimator:
        original = original_of(model, _answers(estimator, document, sample))
    else:
        original = original_of(model, estimator.predict(sample))
    return draft_of_trees(model, info, frame=frame, original=original, tolerance=tolerance)


def model_of_estimator(
    estimator: Any, *, names: Sequence[str] = (), categories: Mapping[str, Sequence[str]] | None = None
) -> TreeModel:
    """The model of an estimator or a booster in this process.

    Raises `UsageError` where a number stands for missing values.
    """
    missing = getattr(estimator, "missing", math.nan)
    if missing is not None and missing == missing:
        expected = "an estimator trained with missing = NaN"
        raise UsageError("the estimator takes a number for missing", expected=expected, found=f"missing = {missing}")
    _, document = _booster_of(estimator)
    model = read_xgboost(document, names=names, categories=categories)
    if hasattr(estimator, "classes_") and model.classes:
        model = _with_classes(model, tuple(str(name) for name in estimator.classes_))
    return model


def _booster_of(estimator: Any) -> tuple[Any, Any]:
    """The booster and what it would write to a file."""
    booster = estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    document = read_ubjson(bytes(booster.save_raw("ubj")), "the booster")
    if booster is not estimator:  # what its own files say by this
        document["learner"].setdefault("attributes", {}).setdefault("scikit_learn", "")
    return booster, document


def read_xgboost(
    document: Any,
    *,
    labels: Path | None = None,
    names: Sequence[str] = (),
    categories: Mapping[str, Sequence[str]] | None = None,
    where: str = "",
) -> TreeModel:
    """The model that a file's document describes. `names` and `categories` fill in what the file leaves open."""
    try:
        with np.errstate(all="ignore"):  # a number that is none is refused with the trees
            return _read(document, labels, names, categories or {}, where)
    except WRONG as error:
        problem = f"not an XGBoost model: {type(error).__name__} {str(error)[:200]}"
        raise PackageError(problem, where=where, expected=_EXPECTED) from None


def _parsed(data: bytes, where: str) -> Any:
    if data[:1] == b"{" and data[1:2] not in (b"L", b"i", b"U", b"I", b"l", b"#", b"$"):
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise PackageError(f"not JSON: {error}", where=where, expected=_EXPECTED) from None
    if data[:1] != b"{":
        expected = f"{_EXPECTED}: load an older file in XGBoost and save it again"
        raise PackageError("not a file of XGBoost's JSON formats", where=where, expected=expected)
    return read_ubjson(data, where)


def _read(
    document: Any, labels: Path | None, names: Sequence[str], categories: Mapping[str, Sequence[str]], where: str
) -> TreeModel:
    learner = document["learner"]
    parameters, objective = learner["learner_model_param"], str(learner["objective"]["name"])
    if objective not in _LINKS:
        raise PackageError(f"no graph is written for objective {objective}", where=where,
                           expected=", ".join(sorted(_LINKS)))  # fmt: skip
    booster, weights = learner["gradient_booster"], None
    if booster["name"] == "dart":
        booster, weights = booster["gbtree"], booster["weight_drop"]
    elif booster["name"] != "gbtree":
        raise PackageError(f"booster {booster['name']} has no trees", where=where, expected="gbtree or dart")
    ensemble = booster["model"]
    targets = max(1, int(parameters["num_class"]), int(parameters.get("num_target", 1)))
    check_sizes(int(parameters["num_feature"]), targets, len(ensemble["trees"]), where)
    kept = _trees_kept(learner, ensemble)
    trees = [
        _tree(tree, int(target), 1.0 if weights is None else float(weights[index]), where)
        for index, (tree, target) in enumerate(zip(ensemble["trees"][:kept], ensemble["tree_info"][:kept], strict=True))
    ]
    link = _LINKS[objective]
    base = _base(str(parameters["base_score"]), objective)
    columns = _columns(learner, ensemble, int(parameters["num_feature"]), names, categories, where)
    pair = objective in ("binary:logistic", "binary:hinge")
    classes: tuple[str, ...] = ()
    if pair or link == "softmax":
        classes = named_classes(2 if pair else targets, labels)
    elif labels is not None:
        raise UsageError(f"objective {objective} has no classes", where=str(labels), expected="no labels")
    forest = Forest(trees=trees, features=len(columns), targets=targets, base=base, link=link, pair=pair)
    return TreeModel(columns=columns, forest=forest, classes=classes, double=False)


def _trees_kept(learner: Any, ensemble: Any) -> int | None:
    """How many trees answer: scikit-learn's estimators stop at the best iteration, a plain booster takes all."""
    attributes = learner.get("attributes", {})
    if "scikit_learn" not in attributes or "best_iteration" not in attributes:
        return None
    rounds, best = ensemble.get("iteration_indptr"), int(attributes["best_iteration"]) + 1
    if rounds is None:
        raise PackageError("the file does not say which trees are of which round", expected="XGBoost 2 or later")
    return int(rounds[min(best, len(rounds) - 1)])


def _base(text: str, objective: str) -> tuple[float, ...]:
    """The margins that trees start from: the file has them as answers."""
    scores = np.array(json.loads(text) if text.startswith("[") else [float(text)], dtype=np.float32)
    if _LINKS[objective] == "exp":
        return tuple(float(np.log(score)) for score in scores)
    if _LINKS[objective] == "sigmoid":
        return tuple(float(-np.log(np.float32(1) / score - np.float32(1))) for score in scores)
    return tuple(map(float, scores))


def _tree(tree: Any, target: int, weight: float, where: str) -> list[Node]:
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise PackageError("a leaf of several targets", where=where, expected="multi_strategy = one_output_per_tree")
    left, right, features = tree["left_children"], tree["right_children"], tree["split_indices"]
    conditions, default_left = tree["split_conditions"], tree["default_left"]
    kinds = tree.get("split_type") or [0] * len(left)
    if sum(map(int, tree.get("categories_sizes", ()))) > len(tree.get("categories", ())):
        raise ValueError("sets of categories lie upon each other")
    sets = {
        int(node): tuple(map(int, tree["categories"][start : start + size]))
        for node, start, size in zip(
            tree.get("categories_nodes", ()), tree.get("categories_segments", ()), tree.get("categories_sizes", ()),
            strict=True,
        )
    }  # fmt: skip
    nodes: list[Node] = []
    for place in range(len(left)):
        if left[place] == -1:
            nodes.append(Leaf(((target, float(np.float32(conditions[place]) * np.float32(weight))),)))
        elif kinds[place]:  # categories in the set go right
            nodes.append(Member(int(features[place]), sets[place], int(right[place]), int(left[place]),
                                not default_left[place]))  # fmt: skip
        else:
            value = float(np.float32(conditions[place]))
            nodes.append(Split(int(features[place]), "BRANCH_LT", value, int(left[place]), int(right[place]),
                               bool(default_left[place])))  # fmt: skip
    return nodes


def _columns(
    learner: Any, ensemble: Any, width: int, names: Sequence[str], categories: Mapping[str, Sequence[str]], where: str
) -> tuple[TreeColumn, ...]:
    names = [str(name) for name in learner.get("feature_names") or names or [f"x{index}" for index in range(width)]]
    kinds = [str(kind) for kind in learner.get("feature_types") or ["float"] * width]
    if len(names) != width or len(kinds) != width or not set(kinds) <= set(_KINDS):
        raise PackageError("the file's columns do not fit", where=where, expected=f"{width} names and types")
    stored = _stored_categories(ensemble.get("cats"), width)
    columns = []
    for name, kind, found in zip(names, kinds, stored, strict=True):
        known = _known(name, found, tuple(map(str, categories.get(name, ()))), where) if kind == "c" else ()
        # A file before XGBoost 3.1 has categories as numbers only, and so has a matrix of them.
        as_kind: Kind = "integer" if kind == "c" and not known else _KINDS[kind]
        optional = as_kind in ("number", "category")  # training saw no missing whole number: they are NaN
        columns.append(TreeColumn(name=name, kind=as_kind, categories=known, optional=optional))
    return tuple(columns)


def _stored_categories(stored: Any, width: int) -> list[tuple[bytes, ...]]:
    """The categories of each column: texts one after the other, as bytes, or numbers."""
    columns = (stored or {}).get("enc") or [{}] * width
    found = []
    for column in columns:
        values, offsets = column.get("values", []), column.get("offsets")
        if offsets:
            data = bytes(value & 255 for value in values)
            found.append(tuple(data[start:end] for start, end in pairwise(offsets)))
        else:
            found.append(tuple(str(value).encode() for value in values))
    return found


def _known(name: str, stored: tuple[bytes, ...], sampled: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The categories of a column: the file's, or else the sample's.

    XGBoost 3.2 cuts a text off after as many bytes as it has characters, so one that is not ASCII cannot be told.
    """
    if all(category.isascii() for category in stored):
        return tuple(category.decode() for category in stored) or sampled
    if len(sampled) != len(stored):
        problem = f'the file does not hold the categories of "{name}": XGBoost cuts off text that is not ASCII'
        raise PackageError(problem, where=where, expected="a sample with the column's dtype category, as in training")
    return sampled


def _pandas_categories(sample: Any) -> dict[str, tuple[str, ...]]:
    if not hasattr(sample, "dtypes") or not hasattr(sample, "columns"):
        return {}
    pairs = zip(sample.columns, sample.dtypes, strict=True)
    return {str(name): tuple(map(str, dtype.categories)) for name, dtype in pairs if str(dtype) == "category"}


def _with_classes(model: TreeModel, classes: tuple[str, ...]) -> TreeModel:
    if len(classes) != len(model.classes):
        found = f"{len(classes)} for {len(model.classes)}"
        raise UsageError("the estimator's classes are not its booster's", expected="a name for each class", found=found)
    return replace(model, classes=classes)


def _answers_of_file(path: Path, document: Any, model: TreeModel, frame: Frame) -> Original | None:
    attributes = document["learner"].get("attributes", {})
    asked: dict[str, Any] = {"margin": _is_softmax(document)}
    if "scikit_learn" in attributes and "best_iteration" in attributes:
        asked["rounds"] = (0, int(attributes["best_iteration"]) + 1)
    values = answers_of_file(path, "xgboost", frame.exact_matrix(), **asked)
    return None if values is None else original_of(model, _softmax(values) if asked["margin"] else values)


def _answers(booster: Any, document: Any, rows: Any) -> Array:
    """The booster's answers to a data frame or a matrix of numbers."""
    described = {"feature_names": booster.feature_names, "feature_types": booster.feature_types}
    if hasattr(rows, "columns"):
        described = {}
    xgboost = sys.modules["xgboost"]  # the booster is from there
    data = xgboost.DMatrix(rows, enable_categorical=True, **described)
    margin = _is_softmax(document)
    values = np.asarray(booster.predict(data, output_margin=margin))
    return _softmax(values) if margin else values


def _is_softmax(document: Any) -> bool:
    """Whether a booster answers the best class alone."""
    return bool(document["learner"]["objective"]["name"] == "multi:softmax")


def _softmax(margins: Array) -> Array:
    powers = np.exp(margins.astype(np.float64) - margins.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
