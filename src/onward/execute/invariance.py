"""Batches in shapes that give a row the same bits whoever shares it.

A kernel may sum in another order for another shape, so the last bits of a row can depend on how many rows, and how
long ones, ran beside it. Which shapes are free of that is found out by `probing`; here batches are cut into those and
filled up to them. Knows nothing of packages, files or requests.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onward.errors import ExecutionError
from onward.types import Array, TensorSpec

Run: TypeAlias = Callable[[Mapping[str, Array], Sequence[str]], list[Array]]
"""One forward pass: (feeds, fetches) → outputs."""
# What is filled up to the next size is at most this share of it; else the batch is cut at the size below.
_MOST_FILLING = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """For each length the numbers of rows that may run together, ascending; length 0 stands for fixed shapes.

    All of one length give a row the same bits. What is not named here runs row by row, as long as it is.
    """

    rows: Mapping[int, tuple[int, ...]]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to fill up to, ascending."""
        return tuple(sorted(self.rows))

    @property
    def most_rows(self) -> int:
        """The most rows that run together at any length."""
        return max((sizes[-1] for sizes in self.rows.values()), default=1)


class InvariantExecution:
    """Runs batches of any shape, in the shapes that are allowed: the rows come back in their order.

    `pad` names the tensors of variable length with the value that fills them up. Trailing positions at which all of
    them hold their values are filling too, whoever put it there: a row's answer does not depend on how much it has.
    """

    def __init__(self, inputs: Sequence[TensorSpec], pad: Mapping[str, float], shapes: Shapes, run: Run) -> None:
        self.shapes = shapes
        self._pad = dict(pad)
        self._run = run
        self._lengths = shapes.lengths
        free = any(-1 in spec.shape[1:] for spec in inputs if spec.name not in pad)
        self._shapes_known = not free

    def __call__(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """The fetched outputs of all rows. Raises `ExecutionError`."""
        rows = len(next(iter(feeds.values())))
        answers: list[Array] = []
        for places, length, size in self._parts(feeds, rows):
            part = self._cut(feeds, places, length, size)
            for number, output in enumerate(self._run(part, fetches)):
                if output.shape[:1] != (size,):
                    raise ExecutionError(where=fetches[number], expected=f"{size} rows as in the input",
                                         found=f"shape {output.shape}")  # fmt: skip
                if len(places) == rows:
                    answers.append(output[:rows])
                    continue
                if number == len(answers):
                    answers.append(np.empty((rows, *output.shape[1:]), output.dtype))
                answers[number][places] = output[: len(places)]
        return answers

    def elements(self, feeds: Mapping[str, Array]) -> int:
        """How many positions (rows, where shapes are fixed) a call computes, those that fill up included."""
        rows = len(next(iter(feeds.values())))
        return sum(size * max(length, 1) for _, length, size in self._parts(feeds, rows))

    def _parts(self, feeds: Mapping[str, Array], rows: int) -> Iterator[tuple[Array, int, int]]:
        """The forward passes: the places of the rows that run, and the length and the rows that they are filled to."""
        if not self._pad:
            sizes = self.shapes.rows.get(0, (1,)) if self._shapes_known else (1,)
            places = np.arange(rows)
            for start, count, size in passes(rows, sizes):
                yield places[start : start + count], 0, size
            return
        lengths = row_lengths(feeds, self._pad)  # (rows,)
        bounds = np.array([*self._lengths, np.iinfo(np.int64).max])
        buckets = np.searchsorted(bounds, lengths)
        for index in np.unique(buckets).tolist():
            places = np.flatnonzero(buckets == index)
            if index == len(self._lengths) or not self._shapes_known:
                for place in places.tolist():
                    yield np.array([place]), int(lengths[place]), 1
                continue
            length = self._lengths[index]
            for start, count, size in passes(len(places), self.shapes.rows[length]):
                yield places[start : start + count], length, size

    def _cut(self, feeds: Mapping[str, Array], places: Array, length: int, size: int) -> dict[str, Array]:
        """The tensors of one forward pass: (size, length, …) for those of variable length, (size, …) for others."""
        part = {}
        for name, tensor in feeds.items():
            rows = tensor if len(places) == len(tensor) else tensor[places]
            if name in self._pad:
                found = rows.shape[1]
                if found > length:
                    rows = rows[:, :length]
                elif found < length:
                    filling = np.full((len(rows), length - found, *rows.shape[2:]), self._pad[name], rows.dtype)
                    rows = np.concatenate([rows, filling], axis=1)
            if len(rows) < size:  # real values, so that no row of filling can produce an error
                rows = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
            part[name] = np.ascontiguousarray(rows)
        return part


def passes(rows: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut `rows` into forward passes of the given sizes: (first row, number of rows, size to fill up to)."""
    start = 0
    while start < rows:
        left = rows - start
        index = bisect_left(sizes, left)
        if index == len(sizes):
            size = sizes[-1]
        elif index and left < sizes[index] * (1 - _MOST_FILLING):
            size = sizes[index - 1]
        else:
            size = sizes[index]
        yield start, min(left, size), size
        start += size


def row_lengths(feeds: Mapping[str, Array], pad: Mapping[str, float]) -> Array:
    """Each row's length without what fills it up: (rows,), at least 1."""
    used: Array | None = None
    for name, value in pad.items():
        differs = feeds[name] != value
        if differs.ndim > 2:
            differs = differs.reshape(*differs.shape[:2], -1).any(axis=2)
        used = differs if used is None else used | differs  # (rows, time)
    assert used is not None
    time = used.shape[1]
    return np.where(used.any(axis=1), time - used[:, ::-1].argmax(axis=1), 1)
