"""A sample of rows as a package sees it: named columns, items, and one matrix.

Takes a data frame (pandas or polars), a 2-D array or a list of rows; imports neither library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from onward.errors import UsageError
from onward.types import Array, Field, Item

MIN_ROWS = 3
"""Each package gets at least three golden examples, and they come from the sample."""

Kind = Literal["number", "integer", "boolean", "category", "text"]
_DATATYPES: Mapping[Kind, str] = {"number": "FP32", "integer": "INT64", "boolean": "BOOL", "category": "BYTES",
                                     "text": "BYTES"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: `values` as the package takes them, None where one is missing."""

    name: str
    kind: Kind
    values: tuple[Any, ...]
    categories: tuple[str, ...] = ()

    @property
    def has_missing(self) -> bool:
        """Whether a value of the sample is missing."""
        return None in self.values

    def field(self) -> Field:
        """The column as an input of a manifest."""
        return Field(
            name=self.name,
            datatype=_DATATYPES[self.kind],
            content="text" if self.kind == "text" else "value",
            categories=self.categories,
            required=not self.has_missing,
        )

    def numbers(self) -> Array:
        """The column as FP64 [rows]: categories as their index, NaN where missing or unknown."""
        if self.kind == "category":
            index = {category: float(position) for position, category in enumerate(self.categories)}
            return np.array([index.get(value, np.nan) for value in self.values], dtype=np.float64)
        return np.array([np.nan if value is None else value for value in self.values], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The columns of a sample. `is_named` says whether the sample itself named them."""

    columns: tuple[Column, ...]
    is_named: bool

    @property
    def table(self) -> tuple[Column, ...]:
        """The columns of the matrix: all but texts."""
        return tuple(column for column in self.columns if column.kind != "text")

    def only(self, names: Collection[str]) -> Frame:
        """The columns of these names alone."""
        return replace(self, columns=tuple(column for column in self.columns if column.name in names))

    def fields(self) -> tuple[Field, ...]:
        """The columns as inputs of a manifest."""
        return tuple(column.field() for column in self.columns)

    def matrix(self) -> Array:
        """The sample as the `table` step will make it: FP32 [rows, columns]."""
        return self.exact_matrix().astype(np.float32)

    def exact_matrix(self) -> Array:
        """The sample as it was given, FP64 [rows, columns]."""
        return np.stack([column.numbers() for column in self.table], axis=1)

    def items(self) -> tuple[Item, ...]:
        """The rows as items; a missing value is left out."""
        rows = zip(*(column.values for column in self.columns), strict=True)
        names = [column.name for column in self.columns]
        return tuple({name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows)


def frame_of(
    sample: Any,
    *,
    names: Sequence[str] = (),
    categories: Mapping[str, Sequence[Any]] | None = None,
    texts: Sequence[str] = (),
) -> Frame:
    """Read a sample.

    `names` name the columns of an array; `categories` are those a column was trained with, which a sample need not
    show in full; `texts` are columns of texts, or the one column that the sample is. Raises `UsageError` for what is
    not a table of at least three rows.
    """
    is_named = hasattr(sample, "columns")
    if texts and not is_named and np.ndim(np.asarray(sample, dtype=object)) == 1:
        given, raw = list(texts), [np.asarray(sample, dtype=object)]
    elif is_named:
        given = [str(name) for name in sample.columns]
        raw = [_raw(sample[name]) for name in sample.columns]
    else:
        array = _array(sample)
        given = [str(name) for name in names] or [f"x{position}" for position in range(array.shape[1])]
        raw = list(array.T)
    if len(given) != len(raw) or len(set(given)) != len(given):
        raise UsageError(
            "the sample's columns are not those of the model", expected=", ".join(given), found=str(len(raw))
        )
    if not raw or len(raw[0]) < MIN_ROWS:
        found = f"{len(raw[0]) if raw else 0} rows"
        raise UsageError("the sample is too small", expected=f"at least {MIN_ROWS} rows", found=found)
    known = categories or {}
    columns = (
        _text(name, values) if name in texts else _column(name, values, known.get(name))
        for name, values in zip(given, raw, strict=True)
    )
    return Frame(columns=tuple(columns), is_named=is_named)


def _array(sample: Any) -> Array:
    if hasattr(sample, "tocsr"):
        raise UsageError("the sample is a sparse matrix", expected="a dense one: sample.toarray()")
    try:
        array = np.asarray(sample)
    except ValueError:
        raise UsageError("the sample's rows differ in length", expected="rows of equal length") from None
    if array.ndim != 2:
        expected = "a data frame, or an array of shape [rows, columns]"
        raise UsageError("the sample is not a table", expected=expected, found=f"shape {list(array.shape)}")
    return array


def _raw(series: Any) -> Array:
    values = series.to_numpy() if hasattr(series, "to_numpy") else np.asarray(series)
    return np.asarray(values)


def _text(name: str, values: Array) -> Column:
    plain = values.tolist()
    strange = sorted({type(value).__name__ for value in plain if not isinstance(value, str)})
    if strange:
        raise UsageError(
            f'column "{name}" is not texts alone', expected="a text in every row", found=", ".join(strange)
        )
    return Column(name=name, kind="text", values=tuple(plain))


def _column(name: str, values: Array, categories: Sequence[Any] | None) -> Column:
    kind = values.dtype.kind
    plain = tuple(None if _is_missing(value) else value for value in values.tolist())
    if categories is None and kind not in "biuf":
        present = [value for value in plain if value is not None]
        if all(isinstance(value, bool) for value in present) and present:
            kind = "b"
        elif all(isinstance(value, int | float) for value in present):
            kind = "f"
        elif all(isinstance(value, str) for value in present):
            categories = sorted(set(present))
        else:
            types = ", ".join(sorted({type(value).__name__ for value in present}))
            raise UsageError(f'column "{name}" is not one of numbers, booleans or text', found=types)
    if categories is not None:
        texts = tuple(None if value is None else str(value) for value in plain)
        return Column(name=name, kind="category", values=texts, categories=tuple(map(str, categories)))
    if kind == "b":
        return Column(name=name, kind="boolean", values=plain)
    if kind in "iu":
        return Column(name=name, kind="integer", values=plain)
    return Column(name=name, kind="number", values=tuple(None if value is None else float(value) for value in plain))


def _is_missing(value: Any) -> bool:
    return (
        value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
    )
