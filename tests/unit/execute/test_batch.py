"""Collating items into a batch and splitting the answers gives each item what it would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.execute.batch import collate, split
from onward.types import NUMPY_OF_DATATYPE, Array, TensorSpec

DATATYPES = sorted(NUMPY_OF_DATATYPE)
ROWS = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def values_of(datatype: str, shape: tuple[int, ...], seed: int) -> Array:
    """Random values of the datatype; BYTES elements are `bytes` of random length, empty ones among them."""
    random = np.random.default_rng(seed)
    if datatype == "BYTES":
        flat = [random.bytes(int(size)) for size in random.integers(0, 5, int(np.prod(shape)))]
        values: Array = np.empty(len(flat), object)
        values[:] = flat
        return values.reshape(shape)
    if datatype == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if datatype.startswith("FP"):
        return random.normal(size=shape).astype(NUMPY_OF_DATATYPE[datatype])
    return random.integers(0, 100, shape).astype(NUMPY_OF_DATATYPE[datatype])


@settings(deadline=None)
@given(
    datatype=st.sampled_from(DATATYPES),
    rows=ROWS,
    inner=st.lists(st.integers(1, 4), max_size=2),
    as_list=st.lists(st.booleans(), min_size=6, max_size=6),
    extra=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_split_gives_back_each_items_rows_whether_lists_or_arrays(
    datatype: str, rows: list[int], inner: list[int], as_list: list[bool], extra: int, seed: int
) -> None:
    arrays = [values_of(datatype, (count, *inner), seed + index) for index, count in enumerate(rows)]
    columns: list[Array | list[Any]] = [
        array.ravel().tolist() if listed else array for array, listed in zip(arrays, as_list, strict=False)
    ]
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, *inner))
    bucket = sum(rows) + extra
    feeds = collate([spec], [{"x": column} for column in columns], rows, pad={}, bucket=bucket)
    assert feeds["x"].shape == (bucket, *inner)
    assert feeds["x"].dtype == spec.dtype
    for (got,), array in zip(split([feeds["x"]], rows), arrays, strict=True):
        np.testing.assert_array_equal(got, array)
    for filler in feeds["x"][sum(rows) :]:
        np.testing.assert_array_equal(filler, arrays[0][0])


@settings(deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 7)), min_size=1, max_size=6),
    as_list=st.lists(st.booleans(), min_size=6, max_size=6),
    value=st.integers(-3, 3),
    inner=st.lists(st.integers(1, 3), max_size=1),
    extra=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_fills_each_row_up_to_the_longest_and_changes_no_value(
    items: list[tuple[int, int]], as_list: list[bool], value: int, inner: list[int], extra: int, seed: int
) -> None:
    arrays = [values_of("INT64", (*shape, *inner), seed + index) for index, shape in enumerate(items)]
    columns: list[Array | list[Any]] = [
        array.ravel().tolist() if listed else array for array, listed in zip(arrays, as_list, strict=False)
    ]
    rows = [count for count, _ in items]
    spec = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1, *inner))
    feeds = collate([spec], [{"ids": column} for column in columns], rows, pad={"ids": value}, bucket=sum(rows) + extra)
    longest = max(length for _, length in items)
    assert feeds["ids"].shape == (sum(rows) + extra, longest, *inner)
    for (got,), array in zip(split([feeds["ids"]], rows), arrays, strict=True):
        np.testing.assert_array_equal(got[:, : array.shape[1]], array)
        assert (got[:, array.shape[1] :] == value).all()


@settings(deadline=None)
@given(rows=ROWS, extra=st.integers(0, 5), seed=st.integers(0, 2**32 - 1))
def test_a_row_wise_computation_gives_each_item_in_a_batch_what_it_gets_alone(
    rows: list[int], extra: int, seed: int
) -> None:
    specs = [
        TensorSpec(name="a", datatype="FP64", shape=(-1, 3)),
        TensorSpec(name="b", datatype="INT32", shape=(-1,)),
    ]
    items = [
        {"a": values_of("FP64", (count, 3), seed + index), "b": values_of("INT32", (count,), seed + index)}
        for index, count in enumerate(rows)
    ]

    def compute(feeds: dict[str, Array]) -> list[Array]:
        return [feeds["a"].sum(axis=1) * feeds["b"], feeds["a"][:, ::-1] - 1]

    together = list(split(compute(collate(specs, items, rows, pad={}, bucket=sum(rows) + extra)), rows))
    assert len(together) == len(items)
    for item, answer in zip(items, together, strict=True):
        for batched, alone in zip(answer, compute(item), strict=True):
            np.testing.assert_array_equal(batched, alone)


def test_one_array_that_fills_its_bucket_is_passed_on_without_a_copy() -> None:
    array = np.ones((4, 2), np.float32)
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    assert collate([spec], [{"x": array}], [4], pad={}, bucket=4)["x"] is array


def test_lists_of_unlike_lengths_are_never_cut_at_the_wrong_place() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    with pytest.raises(ValueError, match="dimensions"):
        collate([spec], [{"x": [1.0, 2.0, 3.0]}, {"x": [4.0, 5.0, 6.0, 7.0, 8.0]}], [1, 1], pad={}, bucket=2)


def test_the_parts_of_a_split_are_views() -> None:
    output = np.arange(6.0)
    first, second = split([output], [2, 4])
    assert np.shares_memory(first[0], output)
    assert np.shares_memory(second[0], output)
