"""A row's bits do not depend on who shares its batch, how long they are, or how much of it is filling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.errors import ExecutionError
from onward.execute.invariance import InvariantExecution, Shapes, passes, row_lengths
from onward.types import Array, TensorSpec

IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))
MASK = TensorSpec(name="mask", datatype="INT64", shape=(-1, -1))
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
PAD = {"ids": 0, "mask": 0}
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=5, unique=True).map(sorted)


class Telling:
    """A model whose answer is its row, with the shape it ran in; it keeps the shapes."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        first = next(iter(feeds.values()))
        self.shapes.append(first.shape)
        rows = len(first)
        said = {
            "sum": sum(tensor.reshape(rows, -1).sum(axis=1) for tensor in feeds.values()),
            "length": np.full(rows, first.shape[1]),
        }
        return [np.asarray(said[name]) for name in fetches]


def texts(*rows: list[int], width: int = 0) -> dict[str, Array]:
    longest = max([width, *map(len, rows)])
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    return {"ids": ids, "mask": (ids != 0).astype(np.int64)}


@settings(deadline=None)
@given(st.integers(1, 200), SIZES)
def test_rows_are_cut_into_the_allowed_sizes_with_little_filling(rows: int, sizes: list[int]) -> None:
    cut = list(passes(rows, sizes))
    assert [start for start, _, _ in cut] == list(np.cumsum([0, *(count for _, count, _ in cut)])[:-1])
    assert sum(count for _, count, _ in cut) == rows
    for _, count, size in cut:
        assert size in sizes
        assert count <= size
        assert count >= size * 0.75 or size == sizes[0]


def test_a_rows_length_is_what_is_left_without_filling_in_all_its_tensors() -> None:
    feeds = texts([5, 6], [5, 0, 7], [9], width=6)
    feeds["ids"][2] = 0  # the mask still says that the first position counts
    assert row_lengths(feeds, PAD).tolist() == [2, 3, 1]
    assert row_lengths(texts([0, 0, 0]), PAD).tolist() == [1]
    deep = {"x": np.zeros((2, 4, 3), np.float32)}
    deep["x"][1, 2, 1] = 1
    assert row_lengths(deep, {"x": 0.0}).tolist() == [1, 3]


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(0, 9))
def test_rows_of_mixed_lengths_run_in_allowed_shapes_and_come_back_in_their_order(
    lengths: list[int], more: int
) -> None:
    run = Telling()
    allowed = {8: (1, 2, 4), 16: (2, 6)}
    execution = InvariantExecution([IDS, MASK], PAD, Shapes(rows=allowed), run)
    rows = [[number + 1] * length for number, length in enumerate(lengths)]
    feeds = texts(*rows, width=max(lengths) + more)
    sums, found = execution(feeds, ["sum", "length"])
    assert sums.tolist() == [sum(row) + len(row) for row in rows]
    assert found.tolist() == [8 if length <= 8 else 16 if length <= 16 else length for length in lengths]
    for size, length in run.shapes:
        assert size in allowed.get(length, (1,))
    assert execution.elements(feeds) == sum(size * length for size, length in run.shapes)


def test_what_the_caller_fills_up_changes_nothing() -> None:
    run = Telling()
    execution = InvariantExecution([IDS, MASK], PAD, Shapes(rows={8: (1,)}), run)
    for width in (3, 8, 40):
        assert execution(texts([1, 2, 3], width=width), ["length"])[0].tolist() == [8]
    assert run.shapes == [(1, 8)] * 3


def test_fixed_shapes_run_in_allowed_numbers_of_rows_and_filling_repeats_a_row() -> None:
    run = Telling()
    execution = InvariantExecution([X], {}, Shapes(rows={0: (2, 4)}), run)
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    assert execution({"x": x}, ["sum"])[0].tolist() == x.sum(axis=1).tolist()
    assert run.shapes == [(4, 3), (4, 3)]
    assert execution({"x": x[:1]}, ["sum"])[0].tolist() == [3.0]
    assert run.shapes[-1] == (2, 3)
    assert execution.elements({"x": x}) == 8


def test_shapes_that_are_not_known_run_row_by_row() -> None:
    free = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    run = Telling()
    execution = InvariantExecution([free], {}, Shapes(rows={}), run)
    assert execution({"x": np.ones((3, 5), np.float32)}, ["sum"])[0].tolist() == [5.0] * 3
    assert run.shapes == [(1, 5)] * 3
    assert execution.shapes.most_rows == 1


def test_an_output_without_the_batchs_rows_is_an_error() -> None:
    execution = InvariantExecution([X], {}, Shapes(rows={0: (1, 2)}), lambda feeds, fetches: [np.zeros(1)])
    with pytest.raises(ExecutionError, match="2 rows"):
        execution({"x": np.zeros((2, 3), np.float32)}, ["sum"])
