"""Named scalar fields → one FP32 matrix.

One matrix instead of a graph input for every name: onnxruntime spends longer on 30 scalar inputs than on the model.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np

from onward.errors import OutOfRange, WrongDatatype
from onward.prepare.fields import describe, shown, value_of
from onward.types import NUMPY_OF_DATATYPE, Array, Field, Item

_LARGEST = float(np.finfo(np.float32).max)


class TablePreparation:
    """Puts an item's values into the columns' order; a category becomes its index, a missing optional value NaN."""

    def __init__(self, fields: tuple[Field, ...], *, columns: tuple[str, ...], output: str, unknown: str) -> None:
        by_name = {field.name: field for field in fields}
        self.fields = fields
        self.columns = tuple(by_name[name] for name in columns)
        self.output = output
        self._unknown_is_nan = unknown == "nan"
        self._indices = {
            field.name: {category: float(index) for index, category in enumerate(field.categories)}
            for field in self.columns
            if field.categories
        }
        self._minimum = np.array([_or(field.minimum, -math.inf) for field in self.columns], np.float32)
        self._maximum = np.array([_or(field.maximum, math.inf) for field in self.columns], np.float32)
        self._bounded = any(field.minimum is not None or field.maximum is not None for field in self.columns)
        self.decoder = self._typed_decoder()
        self.bounded = self._bounded and self.decoder is None  # whether a decoded row's ranges are still unchecked

    def __call__(self, item: Item) -> dict[str, Array]:
        """The item, whose names have been checked, as one row: {output: FP32 [1, columns]}."""
        row = np.array([[self._number(field, item) for field in self.columns]], np.float32)  # (1, columns)
        self.check_range(row)
        return {self.output: row}

    def check_range(self, matrix: Array) -> None:
        """Raise `OutOfRange` for the first value outside its column's range; NaN (missing) passes."""
        if not self._bounded:
            return
        outside = (matrix < self._minimum) | (matrix > self._maximum)
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise _out_of_range(self.columns[column], matrix[row, column])

    def _number(self, field: Field, item: Item) -> float:
        value = value_of(field, item)
        if value is None:
            return math.nan
        if field.categories:
            return self._category(field, value)
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bool) is not (field.datatype == "BOOL") or not isinstance(value, int | float):
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        if field.datatype[0] == "F":
            if -_LARGEST <= value <= _LARGEST or value in (math.inf, -math.inf) or value != value:
                return float(value)
            raise OutOfRange(where=field.name, expected="numbers that fit FP32", found=shown(value))
        if isinstance(value, float) and not value.is_integer():
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        if field.datatype != "BOOL":
            limits = np.iinfo(NUMPY_OF_DATATYPE[field.datatype])
            if not limits.min <= value <= limits.max:
                raise OutOfRange(where=field.name, expected=f"{limits.min} to {limits.max}", found=shown(value))
        return float(value)

    def _category(self, field: Field, value: Any) -> float:
        index = self._indices[field.name].get(value) if isinstance(value, str) else None
        if index is not None:
            return index
        if self._unknown_is_nan and isinstance(value, str):
            return math.nan
        raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))

    def _typed_decoder(self) -> msgspec.json.Decoder[Any] | None:
        """A decoder from a JSON object straight to the row, for tables of nothing but floating-point columns.

        It checks the columns' ranges, too. What it takes, the general path takes and gives the same row for.
        """
        plain = all(field.datatype in ("FP32", "FP64") and not field.categories for field in self.columns)
        named = {field.name for field in self.columns} == {field.name for field in self.fields}
        identifiers = all(field.name.isidentifier() for field in self.columns)
        if not (plain and named and identifiers):
            return None
        members = [_member(field) for field in self.columns]
        return msgspec.json.Decoder(
            msgspec.defstruct("Row", members, forbid_unknown_fields=True, gc=False, kw_only=True)
        )

    def decode_row(self, body: bytes) -> list[float] | None:
        """The row of a JSON body, or None when it needs the slow path (which says what is wrong with it)."""
        if self.decoder is None:
            return None
        try:
            return list(msgspec.structs.astuple(self.decoder.decode(body)))
        except (msgspec.MsgspecError, RecursionError):
            return None


def _member(field: Field) -> Any:
    """A column as msgspec reads it: a float that fits FP32 and the range, with its default or, where optional, NaN."""
    low, high = _or(field.minimum, -_LARGEST), _or(field.maximum, _LARGEST)
    number = Annotated[float, msgspec.Meta(ge=max(low, -_LARGEST), le=min(high, _LARGEST))]
    if field.required and field.default is None:
        return field.name, number
    return field.name, number, math.nan if field.default is None else float(field.default)


def _out_of_range(field: Field, value: float) -> OutOfRange:
    if field.maximum is None:
        expected = f"at least {field.minimum:g}"
    elif field.minimum is None:
        expected = f"at most {field.maximum:g}"
    else:
        expected = f"{field.minimum:g} to {field.maximum:g}"
    return OutOfRange(where=field.name, expected=expected, found=f"{value:.9g}")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
