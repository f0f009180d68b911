"""Form one batch's tensors from many items' rows, and cut the answers apart again.

Knows nothing of time or queues. A column of an item is an array with the item's rows first, or, straight from a JSON
body, a flat list of numbers: many short lists turn into one array far faster together than each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from struct import error as StructError
from struct import pack
from typing import Any, TypeAlias

import numpy as np

from onward.types import Array, TensorSpec

Column: TypeAlias = Array | list[Any]
# How `struct` packs a datatype, where it does so exactly as numpy would.
_PACKED_AS = {"FP32": "f", "FP64": "d", "INT32": "i", "INT64": "q", "UINT8": "B"}


def collate(
    specs: Sequence[TensorSpec],
    items: Sequence[Mapping[str, Column]],
    rows: Sequence[int],
    *,
    pad: Mapping[str, float],
    bucket: int,
) -> dict[str, Array]:
    """One tensor for each spec, the items' rows below each other: (bucket, …).

    Tensors named in `pad` may differ in their second dimension and are filled up to the longest with the given value.
    Rows beyond the last item repeat the first row: real values, so that no row of padding can produce an error.
    """
    feeds: dict[str, Array] = {}
    for spec in specs:
        columns = [item[spec.name] for item in items]
        if len(columns) == 1 and not isinstance(columns[0], list):
            tensor = columns[0]
        elif spec.name in pad:
            tensor = _stack_padded(columns, spec, rows, pad[spec.name])
        else:
            tensor = _stack(columns, spec, rows)
        if len(tensor) < bucket:
            tensor = np.concatenate([tensor, np.repeat(tensor[:1], bucket - len(tensor), axis=0)])
        feeds[spec.name] = tensor
    return feeds


def _stack(columns: Sequence[Column], spec: TensorSpec, rows: Sequence[int]) -> Array:
    # One reshape for all items is only right where every item's rows have the same, known size.
    if -1 not in spec.shape[1:] and all(isinstance(column, list) for column in columns):
        return of_lists(columns, spec, sum(rows))  # type: ignore[arg-type]
    arrays = [
        np.array(column, spec.dtype).reshape(count, *spec.shape[1:]) if isinstance(column, list) else column
        for column, count in zip(columns, rows, strict=True)
    ]
    return np.concatenate(arrays)


def of_lists(columns: Sequence[Sequence[Any]], spec: TensorSpec, rows: int) -> Array:
    """One tensor from flat lists of numbers. `struct` packs them three times as fast as `np.array` converts them."""
    numbers: Sequence[Any] = columns[0] if len(columns) == 1 else tuple(chain.from_iterable(columns))
    shape = (rows, *spec.shape[1:])
    code = _PACKED_AS.get(spec.datatype)
    if code is not None:
        try:
            return np.frombuffer(pack(f"={len(numbers)}{code}", *numbers), spec.dtype).reshape(shape)
        except (OverflowError, StructError):  # a number beyond FP32 becomes infinite, as everywhere in numpy
            pass
    with np.errstate(over="ignore"):
        return np.array(numbers, spec.dtype).reshape(shape)


def _stack_padded(columns: Sequence[Column], spec: TensorSpec, rows: Sequence[int], value: float) -> Array:
    arrays = [
        np.array(column, spec.dtype).reshape(count, -1, *spec.shape[2:]) if isinstance(column, list) else column
        for column, count in zip(columns, rows, strict=True)
    ]
    longest = max(array.shape[1] for array in arrays)
    tensor = np.full((sum(rows), longest, *arrays[0].shape[2:]), value, spec.dtype)  # (rows, time, …)
    start = 0
    for array in arrays:
        tensor[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return tensor


def split(outputs: Sequence[Array], rows: Sequence[int]) -> Iterator[list[Array]]:
    """The outputs of each item, in order: views of the batch's tensors."""
    start = 0
    for count in rows:
        yield [output[start : start + count] for output in outputs]
        start += count
