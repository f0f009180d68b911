"""Finding out which shapes of batch give a row the same bits, by running the same rows in many companies.

For each shape the rows run beside different others, at different places and beside copies of themselves; a row whose
bits differ between any two of these shows that the shape is not invariant. Knows nothing of packages or files. What it
finds is measured, not proven: it holds for this processor, this runtime and this number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import TypeAlias

import numpy as np

from onward.errors import ExecutionError, NotInvariant
from onward.execute.invariance import Run, Shapes, row_lengths
from onward.types import Array, TensorSpec

Row: TypeAlias = Mapping[str, Array]
"""The tensors of one row: (1, …) each."""
_ROWS = 8
# How often each row comes up, and how many batches there are at least.
_PASSES = 3
_TRIALS = 2
# A shape larger than this takes long to try, and gains little: longer rows fill the processor by themselves.
_MOST_ELEMENTS = 1 << 14
_LONGEST = 512
_SCALES = (1.0, 0.5, 30.0, 1e-3)


def probe(
    inputs: Sequence[TensorSpec], fetches: Sequence[str], run: Run, *, samples: Sequence[Row],
    pad: Mapping[str, float], bounds: Sequence[int], max_rows: int,
) -> Shapes:  # fmt: skip
    """The shapes that are invariant. `samples` are real rows, `bounds` the lengths to fill up to (empty: fixed).

    Raises `NotInvariant` where a row's answer differs although it runs alone.
    """
    rng = np.random.default_rng(0)
    if any(-1 in spec.shape[1:] for spec in inputs if spec.name not in pad):
        return Shapes(rows={})  # shapes without end: each row by itself
    found = {}
    before = 0
    for bound in [bound for bound in bounds if bound <= _LONGEST] if pad else [0]:
        rows = list(_probes(inputs, samples, pad, before, bound, rng))
        before = bound
        rows = [row for row in rows if _runs(run, row, fetches)]
        if not rows:
            break  # too long for the model, or nothing that it takes: what is not probed runs row by row
        sizes = [size for size in row_sizes(max_rows) if size * max(bound, 1) <= _MOST_ELEMENTS or size == 1]
        seen = {size: _bits(run, rows, fetches, size, rng) for size in sizes}
        if seen[1] is None:
            raise NotInvariant(
                "a row's answer differs from run to run, though it runs alone", where="batching.mode",
                expected="a model that gives equal bits for equal inputs",
            )  # fmt: skip
        found[bound] = _agreeing(seen)
    return Shapes(rows=found)


def row_sizes(most: int) -> list[int]:
    """The numbers of rows that are tried: powers of two, and the most."""
    sizes = []
    size = 1
    while size < most:
        sizes.append(size)
        size *= 2
    return [*sizes, most]


def _agreeing(seen: Mapping[int, tuple[bytes, ...] | None]) -> tuple[int, ...]:
    """The largest set of sizes whose rows are equal to the last bit; of equally large ones that with the fewest rows.

    One row alone often takes another kernel than several: it is then filled up to two.
    """
    classes: dict[tuple[bytes, ...], list[int]] = {}
    for size, bits in sorted(seen.items()):
        if bits is not None:
            classes.setdefault(bits, []).append(size)
    largest = max(classes.values(), key=len)
    return tuple(largest)


def _bits(run: Run, rows: Sequence[Row], fetches: Sequence[str], size: int, rng: np.random.Generator
          ) -> tuple[bytes, ...] | None:  # fmt: skip
    """The bits of each row in batches of `size`; None where they depend on the company."""
    seen: list[bytes | None] = [None] * len(rows)
    passed = _PASSES if size <= len(rows) else ceil(_TRIALS * size / len(rows))
    # Each row comes up as often as the others, at places and beside neighbours that change.
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(passed)])
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        batch = {name: np.concatenate([rows[index][name] for index in chosen]) for name in rows[0]}
        try:
            outputs = run(batch, fetches)
        except ExecutionError:
            return None
        if any(output.shape[:1] != (size,) for output in outputs):
            return None
        for place, index in enumerate(chosen.tolist()):
            bits = b"".join(_bytes(output[place]) for output in outputs)
            if seen[index] is None:
                seen[index] = bits
            elif seen[index] != bits:
                return None
    return tuple(bits or b"" for bits in seen)


def _bytes(output: Array) -> bytes:
    if output.dtype == object:
        return repr(output.tolist()).encode()
    return repr(output.shape).encode() + output.tobytes()


def _runs(run: Run, row: Row, fetches: Sequence[str]) -> bool:
    try:
        run(row, fetches)
    except ExecutionError:
        return False
    return True


def _probes(
    inputs: Sequence[TensorSpec], samples: Sequence[Row], pad: Mapping[str, float], above: int, bound: int,
    rng: np.random.Generator,
) -> Iterator[Row]:  # fmt: skip
    """Rows to try: real ones, then variations of them; all of them longer than `above` and filled up to `bound`."""
    bases = [*samples] or [_made(inputs, pad, rng) for _ in range(2)]
    for number in range(_ROWS):
        base = bases[number % len(bases)]
        other = bases[int(rng.integers(len(bases)))]
        varied = (
            base if number < len(bases) and not pad else _varied(base, other, _SCALES[number % len(_SCALES)], rng, pad)
        )
        if pad:
            # The shortest and the longest of the bucket among them: how much is masked is what may matter.
            length = {0: bound, 1: above + 1}.get(number, int(rng.integers(above + 1, bound + 1)))
            varied = _of_length(varied, pad, length, bound, rng)
        yield varied


def _varied(row: Row, other: Row, scale: float, rng: np.random.Generator, pad: Mapping[str, float]) -> Row:
    """A row like this one: numbers moved and scaled, whole numbers and texts partly those of another row."""
    varied = {}
    for name, tensor in row.items():
        if name in pad:
            varied[name] = tensor
        elif tensor.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                noise = rng.normal(0, 0.1, tensor.shape).astype(tensor.dtype)
                varied[name] = ((tensor + noise) * tensor.dtype.type(scale)).astype(tensor.dtype)
        elif other[name].shape == tensor.shape:
            varied[name] = np.where(rng.random(tensor.shape) < 0.5, tensor, other[name])
        else:
            varied[name] = tensor
    return varied


def _of_length(row: Row, pad: Mapping[str, float], length: int, bound: int, rng: np.random.Generator) -> Row:
    """The row with `length` positions, drawn from its own but for the ends, filled up to `bound`."""
    own = int(row_lengths(row, pad)[0])
    places = rng.integers(0, own, length)
    places[0], places[-1] = 0, own - 1
    made = {}
    for name, tensor in row.items():
        if name in pad:
            filled = np.full((1, bound, *tensor.shape[2:]), pad[name], tensor.dtype)
            filled[:, :length] = tensor[:, places]
            made[name] = filled
        else:
            made[name] = tensor
    return made


def _made(inputs: Sequence[TensorSpec], pad: Mapping[str, float], rng: np.random.Generator) -> Row:
    """A row of a package without examples: small numbers, and whole ones that nearly every table has."""
    row: dict[str, Array] = {}
    for spec in inputs:
        shape = (1, *(8 if size == -1 else size for size in spec.shape[1:]))
        if spec.datatype == "BYTES":
            row[spec.name] = np.full(shape, b"", dtype=object)
        elif spec.dtype.kind == "f":
            row[spec.name] = rng.normal(0, 1, shape).astype(spec.dtype)
        else:
            lowest = 1 if spec.name in pad else 0
            row[spec.name] = rng.integers(lowest, 2, shape).astype(spec.dtype)
    return row
