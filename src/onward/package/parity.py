"""Parity: how far the packed model's answers are from the original's, and whether that is close enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onward.errors import ParityError
from onward.types import Array


def compare(original: Mapping[str, Array], packed: Mapping[str, Array], *, tolerance: float) -> dict[str, float]:
    """Compare tensors row by row and return the largest absolute difference of each output.

    A number may be off by `tolerance`, times the original's size where that is above 1. Raises `ParityError` naming
    the output, the worst row and the largest difference.
    """
    return {name: _compare_output(name, tensor, packed, tolerance) for name, tensor in original.items()}


def compare_labels(original: Sequence[str], packed: Sequence[Any], scores: Array, *, tolerance: float) -> None:
    """Compare labels; a row whose two best scores are equal within the tolerance has no one right label."""
    best = np.sort(np.asarray(scores, dtype=np.float64), axis=1)[:, ::-1]
    for row, (expected, found) in enumerate(zip(original, packed, strict=True)):
        tied = best.shape[1] > 1 and best[row, 0] - best[row, 1] <= tolerance * max(1.0, abs(best[row, 0]))
        if expected != str(found) and not tied:
            message = f'output "label" differs from the original in row {row}'
            raise ParityError(message, expected=f'"{expected}", as the original answers', found=f'"{found}"')


def _compare_output(name: str, original: Array, packed: Mapping[str, Array], tolerance: float) -> float:
    tensor = packed.get(name)
    if tensor is None:
        raise ParityError(f'output "{name}" is missing', found=", ".join(packed) or "no outputs")
    if tensor.shape != original.shape:
        message = f'output "{name}" has another shape than the original\'s'
        raise ParityError(message, expected=str(list(original.shape)), found=str(list(tensor.shape)))
    if original.dtype.kind not in "biuf":
        wrong = [row for row in range(len(original)) if not np.array_equal(original[row], tensor[row])]
        if wrong:
            message = f'output "{name}" differs from the original in {len(wrong)} of {len(original)} rows'
            message += f", first in row {wrong[0]}"
            raise ParityError(message, expected=str(original[wrong[0]]), found=str(tensor[wrong[0]]))
        return 0.0
    if original.size == 0:
        return 0.0
    exact, found = original.astype(np.float64), tensor.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.abs(exact - found)
    off[(exact == found) | (np.isnan(exact) & np.isnan(found))] = 0.0
    off = np.nan_to_num(off, nan=np.inf, posinf=np.inf)
    size = np.where(np.isfinite(exact), np.maximum(1.0, np.abs(exact)), 1.0)
    beyond = off > tolerance * size
    if beyond.any():
        place = tuple(int(index) for index in np.unravel_index(int(np.argmax(off / size)), off.shape))
        rows = int(beyond.reshape(len(beyond), -1).any(axis=1).sum())
        message = f'output "{name}" differs from the original by up to {off[place]:.3g} in {rows} of {len(off)} rows'
        message += f", most in row {place[0]}"
        raise ParityError(
            message,
            expected=f"{exact[place]:.9g} within {tolerance * size[place]:.3g}",
            found=f"{found[place]:.9g}",
        )
    largest = float(off.max())
    return largest if math.isfinite(largest) else 0.0
