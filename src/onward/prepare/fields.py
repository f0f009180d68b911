"""Bring one value to the datatype and shape that its field declares, or say precisely why it does not fit.

Knows nothing of models or bodies: values are what JSON, Python or numpy give.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onward.errors import MissingInput, OutOfRange, UnknownInput, WrongDatatype, WrongShape
from onward.types import NUMPY_OF_DATATYPE, Array, Field, Item

# The kinds of numpy array (`dtype.kind`) that each kind of field takes without losing anything.
_ACCEPTED_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "OUS"}


class ItemNames:
    """The names that an item may and must have."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._names = frozenset(field.name for field in fields)
        self._needed = tuple(field for field in fields if field.required and field.default is None)

    def check(self, item: Item) -> None:
        """Raise `UnknownInput` or `MissingInput` where the item's keys are not the fields' names."""
        if item.keys() == self._names:
            return
        for name in item:
            if name not in self._names:
                expected = f"one of {', '.join(sorted(self._names))}"
                raise UnknownInput(where=str(name), expected=expected, found=repr(name))
        for field in self._needed:
            if field.name not in item:
                raise MissingInput(where=field.name, expected=describe(field))


def value_of(field: Field, item: Item) -> Any:
    """The item's value, or the default where it is missing or null; None for an optional field without one.

    Raises `MissingInput`.
    """
    value = item.get(field.name)
    if value is None:
        value = field.default
        if value is None and field.required:
            raise MissingInput(where=field.name, expected=describe(field))
    return value


def field_array(field: Field, value: Any) -> Array:
    """The value as an array of the field's datatype and item shape; NaN for an optional field that is missing."""
    dtype = NUMPY_OF_DATATYPE[field.datatype]
    if dtype.kind == "O":
        array = _bytes_array(field, value)
    elif value is None and not field.required and dtype.kind == "f" and -1 not in field.shape:
        return np.full(field.shape, math.nan, dtype)
    else:
        try:
            array = np.asarray(value)
        except ValueError:
            raise WrongShape(where=field.name, expected=describe(field), found="a ragged list") from None
        if array.dtype.kind == "O" and dtype.kind in "fiu":
            array = _large_integers(field, array, dtype, value)
        elif array.size == 0 and array.dtype.kind == "f":
            array = array.astype(dtype)
        if array.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        array = _cast(field, array, dtype)
    if not _fits(array.shape, field.shape):
        raise WrongShape(where=field.name, expected=f"shape {list(field.shape)}", found=f"shape {list(array.shape)}")
    check_range(field, array)
    return array


def check_range(field: Field, array: Array) -> None:
    """Raise `OutOfRange` when a number lies outside the field's allowed range; NaN (missing) passes."""
    if field.minimum is not None and array.size and bool((below := array < field.minimum).any()):
        raise OutOfRange(where=field.name, expected=f"at least {field.minimum:g}", found=f"{array[below].min():g}")
    if field.maximum is not None and array.size and bool((above := array > field.maximum).any()):
        raise OutOfRange(where=field.name, expected=f"at most {field.maximum:g}", found=f"{array[above].max():g}")


def describe(field: Field) -> str:
    """A field's type in words for an error: `FP32 of shape [3]`."""
    if field.categories:
        return f"one of {', '.join(field.categories)}"
    words = {"text": "text", "image": "an image file", "audio": "an audio file"}
    if field.content in words:
        return words[field.content]
    return f"{field.datatype} of shape {list(field.shape)}" if field.shape else f"one {field.datatype}"


def shown(value: Any) -> str:
    """A value as found, short enough for an error message."""
    if isinstance(value, str | bytes | list | tuple) and len(value) > 1000:
        value = value[:100]  # the whole of a large body need not be written out to show its beginning
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        text = "of thousands of digits"
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _bytes_array(field: Field, value: Any) -> Array:
    if isinstance(value, str | bytes):
        return _object_array(field, [value]).reshape(())
    if isinstance(value, np.ndarray | list | tuple):
        try:
            nested = np.array(value, dtype=object)
        except ValueError:
            raise WrongShape(where=field.name, expected=describe(field), found="a ragged list") from None
        return _object_array(field, nested.ravel().tolist()).reshape(nested.shape)
    raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))


def _object_array(field: Field, values: list[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        if isinstance(value, str):
            try:
                value = value.encode()
            except UnicodeEncodeError:  # lone surrogates have no UTF-8 form
                expected = "valid Unicode text"
                raise WrongDatatype(where=field.name, expected=expected, found=ascii(value[:60])) from None
        elif not isinstance(value, bytes):
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        array[index] = value
    return array


def _large_integers(field: Field, array: Array, dtype: np.dtype[Any], value: Any) -> Array:
    """Integers of more than 64 bits, which numpy keeps as Python objects: as floating point, if that is wanted."""
    numbers = array.ravel().tolist()
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
    try:
        if dtype.kind == "f":
            return array.astype(np.float64)
    except OverflowError:
        pass
    raise OutOfRange(where=field.name, expected=f"numbers that fit {field.datatype}", found=shown(value))


def _cast(field: Field, array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            outside = low if low < limits.min else high
            raise OutOfRange(where=field.name, expected=f"{limits.min} to {limits.max}", found=str(outside))
    if dtype.kind != "f" or array.dtype == dtype:
        return array.astype(dtype, copy=False)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    # What was finite may not silently become infinity.
    if bool((infinite := np.isinf(cast)).any()) and bool((lost := infinite & ~np.isinf(array)).any()):
        found = f"{array[lost].flat[0]:g}"
        raise OutOfRange(where=field.name, expected=f"numbers that fit {field.datatype}", found=found)
    return cast


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (-1, size) for size, want in zip(shape, expected, strict=True))
