"""Probing finds the shapes that give equal bits, and what only looks like them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from onward.errors import ExecutionError, NotInvariant
from onward.execute.probing import probe, row_sizes
from onward.types import Array, TensorSpec

X = TensorSpec(name="x", datatype="FP32", shape=(-1, 3))
IDS = TensorSpec(name="ids", datatype="INT64", shape=(-1, -1))


def of_x(model: Callable[[Array], Array]) -> Callable[[Mapping[str, Array], Sequence[str]], list[Array]]:
    return lambda feeds, fetches: [np.asarray(model(next(iter(feeds.values()))))]


def shapes_of(model: Callable[[Array], Array], *, max_rows: int = 8, samples: int = 1) -> dict[int, tuple[int, ...]]:
    rows = [{"x": np.full((1, 3), number + 1, np.float32)} for number in range(samples)]
    return dict(probe([X], ["y"], of_x(model), samples=rows, pad={}, bounds=[], max_rows=max_rows).rows)


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_rows_that_depend_on_themselves_alone_may_run_in_all_sizes(samples: int) -> None:
    assert shapes_of(lambda x: x * 2, max_rows=12, samples=samples) == {0: (1, 2, 4, 8, 12)}


@pytest.mark.parametrize("samples", [0, 1, 3])
@pytest.mark.parametrize(
    "model",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x / np.abs(x).max(),
        lambda x: np.round(x / (step := np.abs(x).max() / 127)) * step,
        lambda x: np.argsort(np.argsort(x[:, 0])),
        lambda x: x + np.arange(len(x))[:, None],
    ],
    ids=["mean of the batch", "largest of the batch", "range of the batch", "rank in the batch", "place in the batch"],
)
def test_a_model_whose_rows_look_at_each_other_runs_row_by_row(model: Callable[[Array], Array], samples: int) -> None:
    assert shapes_of(model, samples=samples) == {0: (1,)}


def test_one_row_that_takes_another_way_is_filled_up_to_two() -> None:
    assert shapes_of(lambda x: x * 2 if len(x) > 1 else np.nextafter(x * 2, np.float32(9))) == {0: (2, 4, 8)}


def test_only_sizes_that_agree_with_each_other_are_allowed() -> None:
    assert shapes_of(lambda x: x * 2 + (len(x) >= 8), max_rows=16) == {0: (1, 2, 4)}
    assert shapes_of(lambda x: x * 2 if len(x) != 4 else x * 2 - x.mean()) == {0: (1, 2, 8)}


def test_a_model_that_differs_from_run_to_run_is_refused() -> None:
    count = itertools.count()
    with pytest.raises(NotInvariant, match="runs alone"):
        shapes_of(lambda x: x + next(count))


def test_each_length_has_its_own_sizes_and_what_the_model_cannot_take_is_not_tried_further() -> None:
    def run(feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        ids = feeds["ids"]
        if ids.shape[1] > 16:
            raise ExecutionError("too long")
        sums = ids.sum(axis=1)
        return [sums if ids.shape[1] <= 8 else sums - sums.mean()]

    samples = [{"ids": np.array([[3, 4, 5]], np.int64)}]
    found = probe([IDS], ["y"], run, samples=samples, pad={"ids": 0}, bounds=[8, 16, 32, 64], max_rows=4)
    assert found.rows == {8: (1, 2, 4), 16: (1,)}


def test_probes_of_a_bucket_are_longer_than_the_bucket_before() -> None:
    lengths: set[int] = set()

    def run(feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        ids = feeds["ids"]
        if ids.shape[1] == 16:
            lengths.update(np.count_nonzero(ids, axis=1).tolist())
        return [ids.sum(axis=1)]

    samples = [{"ids": np.array([[3, 4, 5]], np.int64)}]
    probe([IDS], ["y"], run, samples=samples, pad={"ids": 0}, bounds=[8, 16], max_rows=2)
    assert {9, 16} <= lengths <= set(range(9, 17))


def test_free_shapes_without_filling_run_row_by_row_and_nothing_is_tried() -> None:
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, -1))
    tried: list[object] = []

    def run(feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        tried.append(feeds)
        return []

    found = probe([spec], ["y"], run, samples=[], pad={}, bounds=[], max_rows=8)
    assert found.rows == {} and found.most_rows == 1 and not tried


def test_sizes_are_powers_of_two_and_the_most() -> None:
    assert [row_sizes(most) for most in (1, 2, 5, 8)] == [[1], [1, 2], [1, 2, 4, 5], [1, 2, 4, 8]]
