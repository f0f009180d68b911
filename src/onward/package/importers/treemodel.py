"""A model of boosted trees, whatever library's file it came from, and the draft of its package.

A file has no rows to compare on, so they are made from the trees themselves: values on, just below and just above the
thresholds, every category, and missing ones where the model takes them. That is where a wrong conversion shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.forest import Forest, check_forest, thresholds, write_forest
from onward.package.importers.frame import Column, Frame, Kind, frame_of
from onward.package.importers.tabular import PREDICTION, SCORES, Original, draft_of_table
from onward.package.records import PackageInfo
from onward.types import Array

WRONG = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)
"""What reading a file that is no model raises."""
PROBES = 1024
MOST_FEATURES = 1 << 20
MOST_COLUMNS = 1 << 16
"""Of the features of trees, those that are inputs of a package of their own."""
_MOST_PROBED = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeColumn:
    """One column that a model was trained on, as far as its file tells; `optional` where it may be missing."""

    name: str
    kind: Kind = "number"
    categories: tuple[str, ...] = ()
    optional: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeModel:
    """What a file tells: columns, trees and, for a classifier, its classes.

    `unknown` says whether the library answers for a category that it was not trained with, `double` whether it sums
    leaves in FP64.
    """

    columns: tuple[TreeColumn, ...]
    forest: Forest
    classes: tuple[str, ...] = ()
    unknown: Literal["error", "nan"] = "error"
    double: bool = True

    @property
    def output(self) -> str:
        """The name of what the package gives."""
        return SCORES if self.classes else PREDICTION


def draft_of_trees(
    model: TreeModel,
    info: PackageInfo,
    *,
    frame: Frame,
    original: Original | None,
    tolerance: float | None,
    where: str = "",
) -> Draft:
    """Make a draft of a model and a sample's rows, compared with the original's answers on them where there are any."""
    check_forest(model.forest, where)
    if len({column.name for column in model.columns}) != len(model.columns):
        raise PackageError("two columns have one name", where=where, expected="a name for each column")
    missing = any(column.kind == "category" and column.has_missing for column in frame.columns)
    unknown: Literal["error", "nan"] = "nan" if missing else model.unknown
    if original is None:
        width = len(model.classes) or model.forest.targets
        shape = (0,) if width == 1 else (0, width)
        original = Original(output=model.output, values=np.empty(shape), classes=model.classes)
        surest = [lambda: write_forest(model.forest, model.output, exact=model.double)]
        return draft_of_table(info, frame, original, surest, unknown=unknown, tolerance=tolerance)
    conversions: list[Callable[[], bytes]] = [
        lambda: write_forest(model.forest, model.output),
        lambda: write_forest(model.forest, model.output, exact=True),
        lambda: write_forest(model.forest, model.output, rounding="nearest"),
        lambda: write_forest(model.forest, model.output, rounding="nearest", exact=True),
    ]
    return draft_of_table(info, frame, original, conversions, unknown=unknown, tolerance=tolerance)


def check_sizes(features: int, targets: int, trees: int, where: str) -> None:
    """Raise `PackageError` for sizes that a file claims beyond reason, before anything is made of such a size."""
    if not 0 <= features <= MOST_FEATURES:
        raise PackageError("a model of too many features", where=where, expected=f"at most {MOST_FEATURES}",
                           found=str(features)[:20])  # fmt: skip
    if not 1 <= targets <= max(trees, 1):
        raise PackageError("a model of fewer trees than classes or targets", where=where,
                           expected=f"at most {trees}", found=str(targets)[:20])  # fmt: skip


def frame_of_model(model: TreeModel, sample: Any = None) -> Frame:
    """The sample as the model's columns, or rows made of its trees where there is none.

    Raises `PackageError` for more columns than a package takes and for a column of categories without any,
    `UsageError` for a sample of other columns.
    """
    if len(model.columns) > MOST_COLUMNS:
        raise PackageError("a model of too many columns", expected=f"at most {MOST_COLUMNS} inputs",
                           found=str(len(model.columns)))  # fmt: skip
    empty = [column.name for column in model.columns if column.kind == "category" and not column.categories]
    if empty:
        raise PackageError(f'column "{empty[0]}" has no categories', expected="at least one")
    if sample is None:
        return Frame(columns=tuple(_probes(model)), is_named=True)
    categories = {column.name: column.categories for column in model.columns if column.categories}
    names = [column.name for column in model.columns]
    frame = frame_of(sample, names=names, categories=categories)
    found = [column.name for column in frame.columns]
    if found != names:
        raise UsageError("the sample's columns are not those of the model", where="sample", expected=", ".join(names),
                         found=", ".join(found))  # fmt: skip
    for column in frame.columns:
        if column.kind == "category" and column.name not in categories:
            expected = "numbers, or a column of dtype category as in training"
            raise UsageError(f'column "{column.name}" is text', expected=expected)
    return frame


def original_of(model: TreeModel, values: Array, labels: Sequence[str] = ()) -> Original:
    """What the original gave, in the shape of the package: both classes of two, and the best one's label."""
    values = np.asarray(values)
    if not model.classes:
        return Original(output=model.output, values=values)
    if values.ndim == 1:  # the probability of the second of two classes
        values = np.stack([1 - values, values], axis=1)
    best = labels or tuple(model.classes[int(index)] for index in np.argmax(values, axis=1))
    return Original(output=model.output, values=values, classes=model.classes, labels=tuple(best))


def named_classes(found: int, labels: Path | None) -> tuple[str, ...]:
    """The names of classes: those of a file, one a line, or their numbers."""
    if labels is None:
        return tuple(map(str, range(found)))
    names = tuple(labels.read_text(encoding="utf-8").splitlines())
    if len(names) != found:
        raise UsageError("not the model's classes", where=str(labels), expected=f"{found} names, one a line",
                         found=str(len(names)))  # fmt: skip
    return names


def _probes(model: TreeModel) -> list[Column]:
    """Rows spread over the thresholds of every column."""
    random = np.random.default_rng(0)
    rows = min(PROBES, max(1, _MOST_PROBED // max(1, len(model.columns))))
    by_feature = thresholds(model.forest)
    columns = []
    for feature, column in enumerate(model.columns):
        pool = _pool(column, by_feature.get(feature, np.zeros(1, np.float32)))
        values: list[Any] = [pool[index] for index in random.integers(0, len(pool), rows)]
        if column.optional:
            missing = np.flatnonzero(random.random(rows) < 0.1)
            for row in missing:
                values[row] = None
        columns.append(Column(name=column.name, kind=column.kind, values=tuple(values), categories=column.categories))
    return columns


def _pool(column: TreeColumn, found: Array) -> list[Any]:
    if column.kind == "category":
        return list(column.categories)
    if column.kind == "boolean":
        return [False, True]
    found = found[np.abs(found) < 1e30] if len(found) else found
    found = found if len(found) else np.zeros(1, np.float32)
    if column.kind == "integer":
        whole = np.unique(np.concatenate([np.floor(found), np.ceil(found), np.ceil(found) + 1]))
        return [int(value) for value in whole if abs(value) < 1 << 24] or [0]
    beside = [np.nextafter(found, np.float32(end)) for end in (-np.inf, np.inf)]
    ends = np.array([found.min() - 1, found.max() + 1], np.float32)
    return [float(value) for value in np.concatenate([found, *beside, ends])]
