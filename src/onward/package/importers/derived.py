"""Columns that a graph makes of others before its trees look at them: places in a list, and values from a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onward.types import Array

FLOAT, INT64 = 1, 7
"""Numbers of `onnx.TensorProto`, which are stable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """A column of whole numbers as their places in `keys`; NaN for any other. Makes one column."""

    column: int
    keys: tuple[int, ...]

    @property
    def width(self) -> int:
        """How many columns it makes."""
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Rows of a table, FP32 [places, width], each a column.

    The place is counted up by `categories`, columns of so many places and one more for NaN, and then by bits: `above`
    are columns with a border to be above (and what a missing value is), `matches` columns with the place to be at.
    """

    categories: tuple[tuple[int, int], ...]
    above: tuple[tuple[int, float, bool], ...] = ()
    matches: tuple[tuple[int, int], ...] = ()
    table: Array

    @property
    def width(self) -> int:
        """How many columns it makes."""
        return int(self.table.shape[1])


Derived: TypeAlias = Codes | Lookup
Add: TypeAlias = Callable[..., str]
Keep: TypeAlias = Callable[[Any], str]


def write_derived(derived: Sequence[Derived], matrix: str, add: Add, keep: Keep) -> str:
    """Add the nodes that put derived columns behind those of the matrix; the name of the wider matrix.

    `add` adds a node and returns its output's name, `keep` a constant and returns its name.
    """
    for one in derived:
        columns = _codes(one, matrix, add, keep) if isinstance(one, Codes) else _looked_up(one, matrix, add, keep)
        matrix = add("Concat", matrix, columns, axis=1)
    return matrix


def _codes(codes: Codes, matrix: str, add: Add, keep: Keep) -> str:
    column = add("Gather", matrix, keep(np.array([codes.column], np.int64)), axis=1)
    # processors turn NaN into different whole numbers
    other = keep(np.array(max(codes.keys, default=0) + 1, np.float32))
    column = add("Where", add("IsNaN", column), other, column)
    return add(
        "LabelEncoder", add("Cast", column, to=INT64), domain="ai.onnx.ml", keys_int64s=list(codes.keys),
        values_floats=[float(place) for place in range(len(codes.keys))], default_float=float("nan"),
    )  # fmt: skip


def _looked_up(lookup: Lookup, matrix: str, add: Add, keep: Keep) -> str:
    parts, radix = [], 1

    def counted(place: str, times: int) -> None:
        parts.append(add("Mul", add("Cast", place, to=INT64), keep(np.array(times, np.int64))))

    def picked(column: int) -> str:
        return add("Gather", matrix, keep(np.array(column, np.int64)), axis=1)  # (batch)

    for column, count in lookup.categories:
        value = picked(column)
        counted(add("Where", add("IsNaN", value), keep(np.array(count, np.float32)), value), radix)
        radix *= count + 1
    for column, border, missing in lookup.above:
        value = picked(column)
        bit = add("Greater", value, keep(np.array(border, np.float32)))
        counted(add("Or", bit, add("IsNaN", value)) if missing else bit, radix)
        radix *= 2
    for column, place in lookup.matches:
        counted(add("Equal", picked(column), keep(np.array(place, np.float32))), radix)
        radix *= 2
    index = parts[0] if len(parts) == 1 else add("Sum", *(add("Cast", part, to=11) for part in parts))
    return add("Gather", keep(np.asarray(lookup.table, np.float32)), add("Cast", index, to=INT64), axis=0)
