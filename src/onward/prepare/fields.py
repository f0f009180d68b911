"""Bring one value to the datatype and shape that its field declares, or say precisely why it does not fit.

Knows nothing of models or bodies: values are what JSON, Python or numpy give.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onward.errors import MissingInput, OutOfRange, UnknownInput, WrongDatatype, WrongShape
from onward.types import NUMPY_OF_DATATYPE, Array, Field, Item

# The kinds of numpy array (`dtype.kind`) that each kind of field takes without losing anything.
_ACCEPTED_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "OUS"}


def check_names(fields: tuple[Field, ...], item: Item) -> None:
    """Raise `UnknownInput` or `MissingInput` when the item's keys are not the fields' names."""
    names = {field.name for field in fields}
    for name in item:
        if name not in names:
            raise UnknownInput(where=str(name), expected=f"one of {', '.join(sorted(names))}", found=repr(name))
    for field in fields:
        if field.required and field.default is None and field.name not in item:
            raise MissingInput(where=field.name, expected=describe(field))


def field_array(field: Field, value: Any) -> Array:
    """The value as an array of the field's datatype and item shape."""
    dtype = NUMPY_OF_DATATYPE[field.datatype]
    if dtype.kind == "O":
        array = _bytes_array(field, value)
    else:
        try:
            array = np.asarray(value)
        except ValueError:
            raise WrongShape(where=field.name, expected=describe(field), found="a ragged list") from None
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(dtype)
        if array.dtype.kind not in _ACCEPTED_KINDS[dtype.kind]:
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        array = _cast(field, array, dtype)
    if not _fits(array.shape, field.shape):
        raise WrongShape(where=field.name, expected=f"shape {list(field.shape)}", found=f"shape {list(array.shape)}")
    check_range(field, array)
    return array


def check_range(field: Field, array: Array) -> None:
    """Raise `OutOfRange` when a number lies outside the field's allowed range."""
    if field.minimum is not None and array.size and bool((array < field.minimum).any()):
        raise OutOfRange(where=field.name, expected=f"at least {field.minimum:g}", found=f"{array.min():g}")
    if field.maximum is not None and array.size and bool((array > field.maximum).any()):
        raise OutOfRange(where=field.name, expected=f"at most {field.maximum:g}", found=f"{array.max():g}")


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
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _bytes_array(field: Field, value: Any) -> Array:
    if isinstance(value, str | bytes):
        return _object_array(field, [value]).reshape(())
    if isinstance(value, np.ndarray | list | tuple):
        nested = np.array(value, dtype=object)
        return _object_array(field, nested.ravel().tolist()).reshape(nested.shape)
    raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))


def _object_array(field: Field, values: list[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            raise WrongDatatype(where=field.name, expected=describe(field), found=shown(value))
        array[index] = value
    return array


def _cast(field: Field, array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            found = low if low < limits.min else high
            raise OutOfRange(where=field.name, expected=f"{limits.min} to {limits.max}", found=str(found))
    return array.astype(dtype, copy=False)


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (-1, size) for size, want in zip(shape, expected, strict=True))
