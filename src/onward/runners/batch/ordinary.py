"""Columns whose values are all of the kind that is wanted: made at once, instead of value by value."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

KINDS: tuple[tuple[pa.DataType, frozenset[type]], ...] = (
    (pa.bool_(), frozenset({bool})), (pa.int64(), frozenset({int})), (pa.float64(), frozenset({int, float})),
    (pa.string(), frozenset({str})), (pa.binary(), frozenset({bytes})), (pa.date32(), frozenset({datetime.date})),
    (pa.timestamp("us"), frozenset({datetime.datetime})),
    (pa.timestamp("us", "UTC"), frozenset({datetime.datetime})),
)  # fmt: skip
"""Each type with the kinds of values that are it as they are."""


def ordinary(values: Sequence[Any], type_: pa.DataType | None) -> pa.Array | None:
    """The column; None where a value is of another kind, or beyond the type, so that they have to be looked at."""
    if type_ is None:
        return None
    kinds = set(map(type, values))
    kinds.discard(type(None))
    if not any(type_ == one and kinds <= known for one, known in KINDS):
        return None
    try:
        return pa.array(values, type_)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
