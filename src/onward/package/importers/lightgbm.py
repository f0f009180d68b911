"""Imports LightGBM's models from its text files, and from estimators and boosters in this process.

The text is read here; LightGBM itself only answers the rows to compare with, where it is installed. It compares in
FP64, `x <= threshold` goes left, and each split says what a missing value is: a zero, or something of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.forest import ZERO, Forest, Leaf, Link, Member, Node, Split, check_forest
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
from onward.package.records import PackageInfo

_LINKS: Mapping[str, Link] = {
    "regression": "identity", "regression_l1": "identity", "huber": "identity", "fair": "identity",
    "quantile": "identity", "mape": "identity", "lambdarank": "identity", "rank_xendcg": "identity",
    "": "identity", "poisson": "exp", "gamma": "exp", "tweedie": "exp", "binary": "sigmoid",
    "cross_entropy": "sigmoid", "cross_entropy_lambda": "softplus", "multiclass": "softmax", "multiclassova": "sigmoid",
}  # fmt: skip
_CLASSIFIERS = ("binary", "multiclass", "multiclassova")
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_ZERO, _MISSING_NAN = 1, 2
_TINY = float(np.float32(ZERO))
_EXPECTED = "a LightGBM model as save_model() writes it"


def draft_of_lightgbm_file(
    path: Path, info: PackageInfo, *, sample: Any = None, labels: Path | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of a text file; `labels` names the classes, one a line.

    Compared where LightGBM is installed, on the sample or on rows made of the trees. Raises `PackageError` for what the
    file does not say, or what no graph is written for.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PackageError(f"not text: {error}", where=str(path), expected=_EXPECTED) from None
    names = tuple(map(str, getattr(sample, "columns", ())))
    model = read_lightgbm(text, names=names, columns=_category_columns(sample), where=str(path))
    if labels is not None:
        if not model.classes:
            raise UsageError("the model has no classes", where=str(labels), expected="no labels")
        model = replace(model, classes=named_classes(len(model.classes), labels))
    check_forest(model.forest, str(path))  # before rows are made of it, and a native reader sees it
    frame = frame_of_model(model, sample)
    values = answers_of_file(path, "lightgbm", frame.exact_matrix())
    original = original_of(model, values) if values is not None else None
    return draft_of_trees(model, info, frame=frame, original=original, tolerance=tolerance, where=str(path))


def draft_of_lightgbm(model: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of a trained model, with the sample's column names as inputs.

    Columns that pandas calls categorical become categories. Raises like `draft_of_sklearn`.
    """
    names = tuple(map(str, getattr(sample, "columns", ())))
    read = model_of_estimator(model, names=names, columns=_category_columns(sample))
    if hasattr(model, "predict_proba"):
        original = original_of(read, model.predict_proba(sample), tuple(map(str, model.predict(sample))))
    else:
        original = original_of(read, model.predict(sample))
    return draft_of_trees(read, info, frame=frame_of_model(read, sample), original=original, tolerance=tolerance)


def model_of_estimator(model: Any, *, names: Sequence[str] = (), columns: Sequence[str] | None = None) -> TreeModel:
    """The model of an estimator or a booster in this process."""
    read = read_lightgbm(getattr(model, "booster_", model).model_to_string(), names=names, columns=columns)
    if not hasattr(model, "predict_proba"):
        return read
    if not read.classes:
        raise UsageError("the classifier gives no probabilities", expected=", ".join(_CLASSIFIERS),
                         found="an objective of its own")  # fmt: skip
    return replace(read, classes=tuple(str(name) for name in model.classes_))  # of any type


def read_lightgbm(
    text: str, *, names: Sequence[str] = (), columns: Sequence[str] | None = None, where: str = ""
) -> TreeModel:
    """The model that a text describes.

    `names` are the columns' own names, which the text has without spaces; `columns` are those of a sample that pandas
    calls categorical.
    """
    try:
        with np.errstate(all="ignore"):  # a number that is none is refused with the trees
            return _read(text, names, columns, where)
    except WRONG as error:
        problem = f"not a LightGBM model: {type(error).__name__} {str(error)[:200]}"
        raise PackageError(problem, where=where, expected=_EXPECTED) from None


def _read(text: str, names: Sequence[str], sampled: Sequence[str] | None, where: str) -> TreeModel:
    sections = list(_sections(text))
    head, blocks = sections[0], [section for section in sections[1:] if "Tree" in section]
    objective, *options = head.get("objective", "").split() or [""]
    if objective not in _LINKS:
        raise PackageError(f"no graph is written for objective {objective}", where=where, expected=", ".join(_LINKS))
    targets = int(head["num_tree_per_iteration"])
    stored = head["feature_names"].split(" ")
    check_sizes(len(stored), targets, len(blocks), where)
    spaceless = [name.replace(" ", "_") for name in names]
    unnamed = [f"Column_{index}" for index in range(len(stored))]
    names = names if spaceless == stored or (stored == unnamed and len(names) == len(stored)) else stored
    trees = [_tree(block, number % targets, where) for number, block in enumerate(blocks)]
    link, scale = _LINKS[objective], 1.0
    if link == "identity" and "sqrt" in options:
        link = "signed_square"
    steep = [option.removeprefix("sigmoid:") for option in options if option.startswith("sigmoid:")]
    if steep and link == "sigmoid":
        scale = float(steep[0])
    if "average_output" in head:
        scale /= len(blocks) / targets
    zeros = sorted({int(feature) for block in blocks for feature in _features(block, _MISSING_ZERO)})
    seen = {int(feature) for block in blocks for feature in _features(block, _MISSING_NAN)} | set(zeros)
    columns = _columns(head, names, _pandas_categories(text), sampled, seen, where)
    forest = Forest(
        trees=trees, features=len(columns), targets=targets, scale=scale, link=link, pair=objective == "binary",
        zeros_missing=tuple(zeros),
    )  # fmt: skip
    classes = named_classes(max(2, targets), None) if objective in _CLASSIFIERS else ()
    return TreeModel(columns=columns, forest=forest, classes=classes, unknown="nan")


def _sections(text: str) -> Iterator[dict[str, str]]:
    """The blocks of `key=value` lines: the head, and one for each tree."""
    section: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("Tree=") or line == "end of trees":
            yield section
            section = {}
        if line == "end of trees":
            return
        key, _, value = line.partition("=")
        if key:
            section[key] = value
    raise ValueError("the text ends before its trees do")


def _pandas_categories(text: str) -> list[Any]:
    at = text.rfind("\npandas_categorical:")
    found = json.loads(text[at:].partition(":")[2].splitlines()[0]) if at >= 0 else None
    return list(found or ())


def _features(block: Mapping[str, str], missing: int) -> Iterator[str]:
    """The columns of a tree's numerical splits to which this counts as missing."""
    if "split_feature" in block:
        for feature, decision in zip(block["split_feature"].split(), block["decision_type"].split(), strict=True):
            if int(decision) >> 2 & 3 == missing and not int(decision) & _CATEGORICAL:
                yield feature


def _columns(
    head: Mapping[str, str],
    names: Sequence[str],
    categories: Sequence[Sequence[Any]],
    sampled: Sequence[str] | None,
    missing: set[int],
    where: str,
) -> tuple[TreeColumn, ...]:
    ranges = head["feature_infos"].split(" ")
    listed = [name for name, values in zip(names, ranges, strict=True) if values[:1] not in ("[", "n")]
    by_pandas = list(sampled) if sampled is not None else listed
    if categories and len(by_pandas) != len(categories):  # a column of one category is not listed
        problem = "the columns of categories are not those of training"
        expected = f"a sample with {len(categories)} columns of dtype category, as in training"
        raise UsageError(problem, where=where, expected=expected, found=str(len(by_pandas)))
    known = dict(zip(by_pandas, categories, strict=True)) if categories else {}
    columns = []
    for index, name in enumerate(names):
        if name in known:
            texts = tuple(map(str, known[name]))
            columns.append(TreeColumn(name=name, kind="category", categories=texts))
        elif name in listed:
            columns.append(TreeColumn(name=name, kind="integer", optional=False))
        else:
            columns.append(TreeColumn(name=name, optional=index in missing))
    return tuple(columns)


def _tree(block: Mapping[str, str], target: int, where: str) -> list[Node]:
    if block.get("is_linear", "0") != "0":
        raise PackageError("the trees have linear leaves", where=where, expected="linear_tree = false")
    leaves = [Leaf(((target, float(value)),)) for value in block["leaf_value"].split()]
    if len(leaves) != int(block["num_leaves"]):
        raise ValueError(f"{len(leaves)} leaves of {block['num_leaves']}")
    if len(leaves) == 1:
        return [*leaves]
    inner = len(leaves) - 1
    sets = _sets(block)
    nodes: list[Node] = []
    columns = (
        block[key].split() for key in ("split_feature", "threshold", "decision_type", "left_child", "right_child")
    )
    for feature, threshold, decision, left, right in zip(*columns, strict=True):
        kind = int(decision)
        yes, no = (inner - 1 - child if child < 0 else child for child in (int(left), int(right)))
        if kind & _CATEGORICAL:
            nodes.append(Member(int(feature), sets.pop(int(threshold)), yes, no, False))
        else:
            value = float(threshold)
            if value == -_TINY:  # it is zero by the time that it is compared
                value = float(np.nextafter(np.float32(value), np.float32(-1)))
            missing = bool(kind & _DEFAULT_LEFT) if kind >> 2 & 3 else value >= 0.0
            nodes.append(Split(int(feature), "BRANCH_LEQ", value, yes, no, missing))
    if len(nodes) != inner:
        raise ValueError(f"{len(nodes)} splits for {len(leaves)} leaves")
    return [*nodes, *leaves]


def _sets(block: Mapping[str, str]) -> dict[int, tuple[int, ...]]:
    """The sets of categories of a tree, as bits of words; each belongs to one split."""
    boundaries = [int(value) for value in block.get("cat_boundaries", "0").split()]
    words = [int(value) for value in block.get("cat_threshold", "").split()]
    if boundaries[0] != 0 or boundaries != sorted(boundaries) or boundaries[-1] != len(words):
        raise ValueError("sets of categories lie upon each other")
    return {
        place: tuple(
            32 * (at - start) + bit for at in range(start, end) for bit in range(32) if words[at] >> bit & 1
        )
        for place, (start, end) in enumerate(pairwise(boundaries))
    }  # fmt: skip


def _category_columns(sample: Any) -> list[str] | None:
    """The sample's columns that pandas calls categorical, None where it is no data frame of pandas."""
    if not hasattr(sample, "dtypes") or not hasattr(sample, "columns"):
        return None
    pairs = zip(sample.columns, sample.dtypes, strict=True)
    return [str(name) for name, dtype in pairs if str(dtype) == "category"]
