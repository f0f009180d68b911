"""CatBoost's categories: how it hashes them, and the numbers that it has counted for them or for combinations of them.

A model has the counts by hash. Here they become tables by category, for every combination of the categories that the
sample shows; a hash of which no category is known shows that the sample lacks one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onward.errors import PackageError, UsageError
from onward.package.importers.cityhash import cityhash64
from onward.package.importers.derived import Codes, Derived, Lookup
from onward.package.importers.frame import Frame, Kind
from onward.package.importers.treemodel import TreeColumn
from onward.types import Array

MOST_PLACES = 1 << 20
"""More combinations of categories than these make too large a table."""
MOST_NUMBERS = 1 << 25
_MULTIPLIER = np.uint64(0x4906BA494954CB65)
_EMPTY = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A column of categories: `hashes` in the order of `texts` or `numbers`; `coded` is the column of their places."""

    name: str
    column: int
    coded: int
    kind: Kind
    hashes: tuple[int, ...]
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def category_of(feature: Any, columns: Sequence[TreeColumn], sample: Frame | None, where: str) -> Category:
    """A column of categories by the sample, which must show every one that the model asks for."""
    place = int(feature["flat_feature_index"])
    name = columns[place].name
    if sample is None:
        problem = f'the file has the categories of "{name}" as hashes only'
        raise UsageError(problem, where=where, expected="from Python: onward.pack(…, sample=rows with every category)")
    column = sample.columns[place]
    texts: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    if column.kind == "category":
        texts = tuple(sorted({value for value in column.values if value is not None}))
    elif column.kind == "integer":
        numbers = tuple(sorted({int(value) for value in column.values}))
        if any(abs(number) > 1 << 24 for number in numbers):
            raise PackageError(f'the categories of "{name}" are numbers too large', where=where, expected="texts")
    else:
        raise UsageError(f'column "{name}" holds categories', where="sample", expected="texts or whole numbers",
                         found=column.kind)  # fmt: skip
    hashes = tuple(_hash(str(value)) for value in texts or numbers)
    unknown = {int(value) & 0xFFFFFFFF for value in feature.get("values") or ()} - set(hashes)
    if unknown:
        raise _lacking(name, len(unknown))
    return Category(name=name, column=place, coded=place, kind=column.kind, hashes=hashes, texts=texts, numbers=numbers)


def place_of(category: Category, value: int) -> int | None:
    """The place of the category with a hash, as a signed number."""
    value &= 0xFFFFFFFF
    return category.hashes.index(value) if value in category.hashes else None


def derived_of(
    document: Any, categories: list[Category], numbers: Sequence[Any], width: int, where: str
) -> tuple[list[Derived], list[int]]:
    """The derived columns, and for each of the model's counted features the column where it is.

    Categories that are numbers are given the column of their places, in the list.
    """
    derived: list[Derived] = []
    for index, category in enumerate(categories):
        if category.numbers:
            derived.append(Codes(column=category.column, keys=category.numbers))
            categories[index] = replace(category, coded=width)
            width += 1
    by_elements: dict[str, list[int]] = {}
    ctrs = document["features_info"].get("ctrs") or []
    for index, ctr in enumerate(ctrs):
        by_elements.setdefault(json.dumps(ctr["elements"], sort_keys=True), []).append(index)
    places = [0] * len(ctrs)
    numbers_held = 0
    for indices in by_elements.values():
        keys = _Keys(ctrs[indices[0]]["elements"], categories, numbers, where)
        numbers_held += len(keys.hashes) * len(indices)
        if numbers_held > MOST_NUMBERS:
            problem = "the model's counts of categories make too large tables"
            raise PackageError(problem, where=where, expected=f"at most {MOST_NUMBERS} numbers")
        table = np.stack([_counted(ctrs[index], document["ctr_data"], keys) for index in indices], axis=1)
        derived.append(Lookup(categories=keys.columns, above=keys.above, matches=keys.matches, table=table))
        for index in indices:
            places[index] = width
            width += 1
    return derived, places


def _hash(text: str) -> int:
    return cityhash64(text.encode()) & 0xFFFFFFFF


def _lacking(name: str, count: int) -> UsageError:
    problem = f"the sample does not show every category of {name}"
    return UsageError(problem, where="sample", expected="rows with each category of training",
                      found=f"{count} of which it shows none")  # fmt: skip


class _Keys:
    """The hashes of every combination of some elements, in the order in which a `Lookup` counts them."""

    def __init__(
        self, elements: Sequence[Any], categories: Sequence[Category], numbers: Sequence[Any], where: str
    ) -> None:
        by_kind: dict[str, list[Any]] = {}
        for element in elements:
            by_kind.setdefault(str(element["combination_element"]), []).append(element)
        chosen = [categories[int(element["cat_feature_index"])] for element in by_kind.pop("cat_feature_value", ())]
        exact = [(categories[int(element["cat_feature_index"])], int(element["value"]))
                 for element in by_kind.pop("cat_feature_exact_value", ())]  # fmt: skip
        by_index = {int(feature["feature_index"]): feature for feature in numbers}
        floats = [(by_index[int(element["float_feature_index"])], float(np.float32(element["border"])))
                  for element in by_kind.pop("float_feature", ())]  # fmt: skip
        if by_kind:
            raise ValueError(f"combinations of {', '.join(by_kind)}")
        self.names = [category.name for category in chosen]
        self.columns = tuple((category.coded, len(category.hashes)) for category in chosen)
        self.above = tuple(
            (int(feature["flat_feature_index"]), border, feature["nan_value_treatment"] == "AsTrue")
            for feature, border in floats
        )
        self.matches = tuple((category.coded, _place(category, value)) for category, value in exact)
        counts = [count + 1 for _, count in self.columns] + [2] * (len(floats) + len(exact))
        if math.prod(counts) > MOST_PLACES:
            problem = "the model counts combinations of too many categories"
            expected = f"at most {MOST_PLACES}; max_ctr_complexity = 1 makes none"
            raise PackageError(problem, where=where, expected=expected, found=str(math.prod(counts)))
        self.hashes, self.known = self._hashed(chosen, counts)

    @staticmethod
    def _hashed(chosen: Sequence[Category], counts: Sequence[int]) -> tuple[Array, Array]:
        """The hash of each place, and whether it has one: unknown categories have none."""
        place = np.arange(math.prod(counts))
        hashes, known = np.zeros(len(place), np.uint64), np.ones(len(place), bool)
        for index, count in enumerate(counts):
            digit, place = place % count, place // count
            if index < len(chosen):
                signed = np.array([*chosen[index].hashes, 0], np.uint32).view(np.int32).astype(np.int64)
                known &= digit < count - 1
                value = signed[digit].view(np.uint64)
            else:
                value = digit.astype(np.uint64)
            hashes = _MULTIPLIER * (hashes + _MULTIPLIER * value)
        return hashes, known


def _place(category: Category, value: int) -> int:
    place = place_of(category, value)
    return len(category.hashes) + 1 if place is None else place  # a place where none is


def _counted(ctr: Any, data: Mapping[str, Any], keys: _Keys) -> Array:
    """What a counted feature is at each place, FP32."""
    stored = data[ctr["identifier"]]
    stride, kind = int(stored["hash_stride"]), str(ctr["ctr_type"])
    rows = np.array([int(value) if index % stride == 0 else 0 for index, value in enumerate(stored["hash_map"])],
                    np.uint64).reshape(-1, stride)[:, 0]  # fmt: skip
    values = np.array([0.0 if index % stride == 0 else float(value) for index, value in enumerate(stored["hash_map"])]
                      ).reshape(-1, stride)[:, 1:]  # fmt: skip
    full = rows != np.uint64(_EMPTY)
    rows, values = rows[full], values[full]
    order = np.argsort(rows)
    at = np.searchsorted(rows[order], keys.hashes).clip(max=max(len(rows) - 1, 0))
    found = keys.known & (rows[order][at] == keys.hashes)
    missing = len(np.setdiff1d(rows, keys.hashes[keys.known]))
    if missing:
        raise _lacking(" and ".join(keys.names), missing)
    counts = np.where(found[:, None], values[order][at], 0.0)  # (places, counts)
    if kind in ("Counter", "FeatureFreq"):
        good, total = counts[:, 0], np.full(len(counts), float(stored["counter_denominator"]))
    elif kind == "Buckets":
        good, total = counts[:, int(ctr["target_border_idx"])], counts.sum(axis=1)
    elif kind == "Borders":
        good, total = counts[:, int(ctr["target_border_idx"]) + 1 :].sum(axis=1), counts.sum(axis=1)
    elif kind in ("BinarizedTargetMeanValue", "FloatTargetMeanValue"):
        good, total = counts[:, 0], counts[:, 1]
    else:
        raise ValueError(f"counts of kind {kind}")
    single = np.float32
    rate = (good.astype(single) + single(ctr["prior_numerator"])) / (
        total.astype(single) + single(ctr["prior_denomerator"])
    )
    result: Array = (rate + single(ctr["shift"])) * single(ctr["scale"])
    return result
