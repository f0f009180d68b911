"""Imports CatBoost's models from its JSON and `.cbm` files, and from estimators in this process.

JSON is read here; a `.cbm` file is turned into it by CatBoost, in a child process. Numbers are compared in FP32,
`x > border`; what a missing one is, each column says. The file knows categories by their hashes only, so that a model
with categories needs a sample that shows every one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import MissingExtra, PackageError, UsageError
from onward.package.importers.catboost_categories import Category, category_of, derived_of, place_of
from onward.package.importers.draft import Draft
from onward.package.importers.forest import Forest, Leaf, Link, Member, Node, Split, check_forest
from onward.package.importers.frame import Frame, frame_of
from onward.package.importers.treemodel import (
    WRONG,
    TreeColumn,
    TreeModel,
    draft_of_trees,
    frame_of_model,
    named_classes,
    original_of,
)
from onward.package.importers.treeoriginal import answers_of_file, converted_file
from onward.package.records import PackageInfo

_LINKS: Mapping[str, Link] = {
    "Logloss": "sigmoid", "CrossEntropy": "sigmoid", "Focal": "sigmoid", "MultiClass": "softmax",
    "MultiClassOneVsAll": "sigmoid",
    "Poisson": "exp", "Tweedie": "exp", "LogLinQuantile": "exp",
    "RMSE": "identity", "MAE": "identity", "Quantile": "identity", "MAPE": "identity", "Huber": "identity",
    "Lq": "identity", "Expectile": "identity", "MultiRMSE": "identity", "YetiRank": "identity", "LogCosh": "identity",
    "YetiRankPairwise": "identity", "PairLogit": "identity", "PairLogitPairwise": "identity",
    "QueryRMSE": "identity", "QuerySoftMax": "identity", "MultiQuantile": "identity",
}  # fmt: skip
_EXPECTED = "a CatBoost model as save_model(…, format='json') writes it"


def draft_of_catboost_file(
    path: Path, info: PackageInfo, *, sample: Any = None, labels: Path | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of a `.json` or `.cbm` file; `labels` names the classes, one a line.

    Compared where CatBoost is installed, on the sample or on rows made of the trees. Raises `PackageError` for what the
    file does not say, or what no graph is written for, `MissingExtra` for `.cbm` without CatBoost.
    """
    data = path.read_bytes()
    kind = "json" if data[:1] == b"{" else "cbm"
    if kind == "cbm":
        converted = converted_file(path, "catboost", format=kind)
        if converted is None:
            raise MissingExtra("reading a .cbm file needs CatBoost", where=str(path),
                               expected="pip install catboost, or the model saved with format='json'")  # fmt: skip
        data = converted
    model, frame = _read_with(_parsed(data, str(path)), sample, str(path))
    if labels is not None:
        if not model.classes:
            raise UsageError("the model has no classes", where=str(labels), expected="no labels")
        model = replace(model, classes=named_classes(len(model.classes), labels))
    check_forest(model.forest, str(path))  # before a native reader sees it
    values = answers_of_file(
        path, "catboost", _rows(frame), format=kind, prediction=_prediction(model),
        categorical=[index for index, column in enumerate(model.columns) if _is_category(column)],
    )  # fmt: skip
    original = None if values is None else original_of(model, values)
    return draft_of_trees(model, info, frame=frame, original=original, tolerance=tolerance, where=str(path))


def draft_of_catboost(model: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of a fitted estimator in this process, with the sample's column names as inputs."""
    read, frame = _read_with(_saved(model), sample, "")
    if read.classes and hasattr(model, "predict_proba"):
        labels = tuple(map(str, np.asarray(model.predict(sample)).ravel()))
        original = original_of(read, model.predict_proba(sample), labels)
    else:
        original = original_of(read, model.predict(sample, prediction_type=_prediction(read)))
    return draft_of_trees(read, info, frame=frame, original=original, tolerance=tolerance)


def model_of_estimator(model: Any) -> TreeModel:
    """The model of an estimator in this process that takes no categories."""
    return read_catboost(_saved(model))


def _saved(model: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="onward-import-") as folder:
        file = Path(folder) / "model.json"
        try:
            model.save_model(str(file), format="json")
        except Exception as error:  # CatBoost's own kind, which is not importable here without it
            raise PackageError(f"CatBoost cannot save this model as JSON: {error}") from None
        return _parsed(file.read_bytes(), "the model")


def _parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"not JSON: {error}", where=where, expected=_EXPECTED) from None


def _read_with(document: Any, sample: Any, where: str) -> tuple[TreeModel, Frame]:
    """The model, and the rows to compare it on."""
    if sample is None:
        model = read_catboost(document, where=where)
        return model, frame_of_model(model)
    frame = frame_of(sample)
    model = read_catboost(document, sample=frame, where=where)
    if not frame.is_named:
        frame = frame_of(sample, names=[column.name for column in model.columns])
    names = [column.name for column in model.columns]
    if [column.name for column in frame.columns] != names:
        raise UsageError("the sample's columns are not those of the model", where="sample", expected=", ".join(names),
                         found=", ".join(column.name for column in frame.columns))  # fmt: skip
    return model, frame


def read_catboost(document: Any, *, sample: Frame | None = None, where: str = "") -> TreeModel:
    """The model that a file's document describes; the sample shows its categories."""
    try:
        with np.errstate(all="ignore"):  # a number that is none is refused with the trees
            return _read(document, sample, where)
    except WRONG as error:
        problem = f"not a CatBoost model: {type(error).__name__} {str(error)[:200]}"
        raise PackageError(problem, where=where, expected=_EXPECTED) from None


def _read(document: Any, sample: Frame | None, where: str) -> TreeModel:
    features, loss = document["features_info"], str(document["model_info"]["params"]["loss_function"]["type"])
    for kind in ("text_features", "embedding_features", "estimated_features"):
        if features.get(kind):
            raise PackageError(
                f"the model has {kind.replace('_', ' ')}", where=where, expected="numbers and categories"
            )
    if loss not in _LINKS:
        raise PackageError(f"no graph is written for loss {loss}", where=where, expected=", ".join(_LINKS))
    scale, bias = document["scale_and_bias"]
    base = tuple(map(float, bias if isinstance(bias, list) else [bias]))
    numbers, texts = features.get("float_features", []), features.get("categorical_features", [])
    columns = _columns([*numbers, *texts], sample)
    categories = [category_of(text, columns, sample, where) for text in texts]
    derived, ctrs = derived_of(document, categories, numbers, len(columns), where)
    splits = _Splits(numbers, categories, ctrs, features)
    targets = _targets(document, len(base))
    trees = [_grown(tree, splits, targets) for tree in document.get("oblivious_trees", ())]
    trees += [_branched(tree, splits, targets) for tree in document.get("trees", ())]
    pair = targets == 1 and _LINKS[loss] == "sigmoid"
    forest = Forest(
        trees=trees, features=len(columns), targets=targets, base=base, scale=float(scale), link=_LINKS[loss],
        pair=pair, derived=derived,
    )  # fmt: skip
    classes: tuple[str, ...] = ()
    if pair or loss in ("MultiClass", "MultiClassOneVsAll"):
        given = document["model_info"].get("class_params", {}).get("class_names") or range(2 if pair else targets)
        classes = tuple(map(str, given))
        if len(classes) != (2 if pair else targets):
            raise ValueError(f"{len(classes)} class names")
    for category in categories:
        columns[category.column] = replace(columns[category.column], kind=category.kind, categories=category.texts)
    return TreeModel(columns=tuple(columns), forest=forest, classes=classes, unknown="nan")


def _columns(features: Sequence[Any], sample: Frame | None) -> list[TreeColumn]:
    by_place = {int(feature["flat_feature_index"]): feature for feature in features}
    if sorted(by_place) != list(range(len(features))):
        raise ValueError("columns are missing")
    columns = []
    for place in range(len(features)):
        feature = by_place[place]
        name = str(feature.get("feature_id") or "")
        if not name or name == str(place):  # trained without names
            name = sample.columns[place].name if sample is not None and sample.is_named else f"x{place}"
        columns.append(TreeColumn(name=name, optional=bool(feature.get("has_nans", False))))
    return columns


def _targets(document: Any, biases: int) -> int:
    """How many numbers a leaf has."""
    for tree in document.get("oblivious_trees", ()):
        return len(tree["leaf_values"]) >> len(tree.get("splits") or ())
    return biases


class _Splits:
    """Makes a node of each kind of split."""

    def __init__(
        self, numbers: Sequence[Any], categories: Sequence[Category], ctrs: Sequence[int], features: Any
    ) -> None:
        self._numbers = {int(feature["feature_index"]): feature for feature in numbers}
        self._categories = categories
        # splits of derived columns are numbered behind those of numbers and categories, border after border
        before = sum(len(feature.get("borders") or ()) for feature in numbers)
        before += sum(len(feature.get("values") or ()) for feature in features.get("categorical_features", ()))
        self._ctrs: dict[int, tuple[int, float]] = {}
        for column, ctr in zip(ctrs, features.get("ctrs") or (), strict=True):
            for border in ctr["borders"]:
                self._ctrs[before] = (column, float(border))
                before += 1

    def node(self, split: Any, yes: int, no: int) -> Split | Member:
        """The node of a split, on to `yes` where it is true."""
        kind = split["split_type"]
        if kind == "FloatFeature":
            feature = self._numbers[int(split["float_feature_index"])]
            missing = feature["nan_value_treatment"] == "AsTrue"
            border = float(np.float32(split["border"]))
            return Split(int(feature["flat_feature_index"]), "BRANCH_GT", border, yes, no, missing)
        if kind == "OneHotFeature":
            category = self._categories[int(split["cat_feature_index"])]
            place = place_of(category, int(split["value"]))
            return Member(category.coded, () if place is None else (place,), yes, no, False)
        if kind == "OnlineCtr":
            column, border = self._ctrs[int(split["split_index"])]
            if np.float32(border) != np.float32(split["border"]):
                raise ValueError("borders are in another order")
            return Split(column, "BRANCH_GT", float(np.float32(border)), yes, no, False)
        raise ValueError(f"a split by {kind}")


def _leaf(values: Sequence[float]) -> Leaf:
    return Leaf(tuple((target, float(value)) for target, value in enumerate(values)))


def _grown(tree: Any, splits: _Splits, targets: int) -> list[Node]:
    """A tree whose every level asks the same: level by level from the last split, whose answer is the highest bit."""
    levels, values = list(tree.get("splits") or ()), tree["leaf_values"]
    count = 1 << len(levels)
    if len(values) != count * targets:
        raise ValueError(f"{len(values)} leaf values")
    nodes: list[Node] = []
    for level, split in enumerate(reversed(levels)):
        first = (1 << level + 1) - 1  # where the next level begins
        for place in range(1 << level):
            nodes.append(splits.node(split, first + 2 * place + 1, first + 2 * place))
    return nodes + [_leaf(values[index * targets : (index + 1) * targets]) for index in range(count)]


def _branched(tree: Any, splits: _Splits, targets: int) -> list[Node]:
    nodes: list[Node] = [Leaf(())]
    ahead = [(tree, 0)]
    while ahead:
        branch, place = ahead.pop()
        if "split" not in branch:
            value = branch["value"]
            values = value if isinstance(value, list) else [value]
            if len(values) != targets:
                raise ValueError(f"a leaf of {len(values)} values")
            nodes[place] = _leaf(values)
            continue
        no, yes = len(nodes), len(nodes) + 1
        nodes += [Leaf(()), Leaf(())]
        nodes[place] = splits.node(branch["split"], yes, no)
        ahead += [(branch["left"], no), (branch["right"], yes)]
    return nodes


def _is_category(column: TreeColumn) -> bool:
    return column.kind in ("category", "integer")


def _prediction(model: TreeModel) -> str:
    if model.classes:
        return "Probability"
    return "Exponent" if model.forest.link == "exp" else "RawFormulaVal"


def _rows(frame: Frame) -> list[list[Any]]:
    """The sample as CatBoost takes it: numbers, and categories as texts or whole numbers."""
    return [[float("nan") if value is None else value for value in row]
            for row in zip(*(column.values for column in frame.columns), strict=True)]  # fmt: skip
