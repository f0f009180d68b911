"""Imports LightGBM models, scikit-learn style estimators and boosters alike, through onnxmltools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onward.errors import UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.extra import need
from onward.package.importers.frame import Frame, frame_of
from onward.package.importers.tablegraph import GraphOutput, convert, round_thresholds_down, surround
from onward.package.importers.tabular import PREDICTION, SCORES, Original, draft_of_table
from onward.package.records import PackageInfo

TARGET_OPSET = 15
SPLIT_TREES = 100
"""Trees summed in FP32 before the sums go on in FP64, where all in FP32 is not close enough."""
_PURPOSE = "packing a LightGBM model"


def draft_of_lightgbm(model: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of a trained model, with the sample's column names as inputs.

    Columns that pandas calls categorical become categories. Raises like `draft_of_sklearn`.
    """
    need("onnxmltools", _PURPOSE)
    booster = getattr(model, "booster_", model)
    categories = _categories(booster, sample)
    frame = frame_of(sample, names=booster.feature_name(), categories=categories)
    for column in frame.columns:
        if column.kind == "category" and column.name not in categories:
            expected = "numbers, or a column of dtype category as in training"
            raise UsageError(f'column "{column.name}" is text', expected=expected)
    original = _original(model, booster, sample)
    conversions: list[Callable[[], bytes]] = [lambda: _converted(booster, frame, original, split=None)]
    if not original.classes:
        conversions.append(lambda: _converted(booster, frame, original, split=SPLIT_TREES))
    return draft_of_table(
        info, frame, original, conversions, unknown="nan" if categories else "error", tolerance=tolerance
    )


def _categories(booster: Any, sample: Any) -> dict[str, tuple[Any, ...]]:
    """The categories of the training data, by column: LightGBM keeps them in the order of the categorical columns."""
    trained = getattr(booster, "pandas_categorical", None) or []
    if not trained or not hasattr(sample, "dtypes"):
        return {}
    names = [str(name) for name, dtype in zip(sample.columns, sample.dtypes, strict=True) if str(dtype) == "category"]
    if len(names) != len(trained):
        expected = f"{len(trained)} columns of dtype category, as in training"
        raise UsageError(
            "the sample's categorical columns are not those of training", expected=expected, found=str(len(names))
        )
    return {name: tuple(values) for name, values in zip(names, trained, strict=True)}


def _original(model: Any, booster: Any, sample: Any) -> Original:
    if hasattr(model, "predict_proba"):
        classes = tuple(str(name) for name in model.classes_)
        values = np.asarray(model.predict_proba(sample))
        labels = tuple(map(str, model.predict(sample)))
        return Original(output=SCORES, values=values, classes=classes, labels=labels)
    values = np.asarray(model.predict(sample))
    objective = str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]
    if model is booster and objective in ("binary", "multiclass", "multiclassova"):
        if values.ndim == 1:  # the probability of the second of two classes
            values = np.stack([1 - values, values], axis=1)
        classes = tuple(map(str, range(values.shape[1])))
        labels = tuple(classes[int(index)] for index in np.argmax(values, axis=1))
        return Original(output=SCORES, values=values, classes=classes, labels=labels)
    return Original(output=PREDICTION, values=values)


def _converted(booster: Any, frame: Frame, original: Original, *, split: int | None) -> bytes:
    onnxmltools = need("onnxmltools", _PURPOSE)
    types = need("onnxmltools.convert.common.data_types", _PURPOSE)
    converted = convert(
        onnxmltools.convert_lightgbm,
        booster,  # not the estimator around it: its classes may be of any type, and labels are not the graph's business
        initial_types=[("every column", types.FloatTensorType([None, len(frame.columns)]))],
        target_opset=TARGET_OPSET,
        zipmap=False,
        split=split,
    )
    trees = booster.dump_model()["tree_info"]
    round_thresholds_down(converted, (value for tree in trees for value in _thresholds(tree["tree_structure"])))
    source = converted.graph.output[1 if original.classes else 0].name
    wanted = GraphOutput(source=source, name=original.output, shape=original.values.shape[1:])
    return surround(converted, frame, [wanted])


def _thresholds(node: dict[str, Any]) -> Iterator[float]:
    if "left_child" in node:
        if node["decision_type"] == "<=":
            yield float(node["threshold"])
        yield from _thresholds(node["left_child"])
        yield from _thresholds(node["right_child"])
