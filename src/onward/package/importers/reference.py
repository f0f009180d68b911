"""A model's reference: numbers that the original gave, for originals that cannot run where a package is made.

The file is NumPy's .npz as `tools/reference.py` writes it: arrays of one row an input, and `provenance`, a text that
says which weights and which versions gave them. Nothing pickled is read. This module knows no model.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onward.errors import UsageError
from onward.types import Array

Reference: TypeAlias = str | os.PathLike[str] | Mapping[str, Any]
"""An .npz file, or its arrays by name."""

#: Fewer inputs do not show that two models are the same.
FEWEST_INPUTS = 64


def read_reference(reference: Reference, *, outputs: str) -> dict[str, Array]:
    """The arrays of a reference, whose `outputs` is the original's answers, FP [inputs, width].

    Raises `UsageError` for what is no such file, lacks `outputs`, or holds fewer than 64 inputs.
    """
    where = "reference" if isinstance(reference, Mapping) else str(reference)
    try:
        if isinstance(reference, Mapping):
            arrays = {str(name): np.asarray(array) for name, array in reference.items()}
        else:
            with np.load(Path(reference), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError(f"not a reference: {error}", where=where, expected="an .npz file of plain arrays") from None
    answers = take(arrays, outputs, where=where)
    if answers.ndim != 2 or answers.dtype.kind != "f" or not np.all(np.isfinite(answers)):
        found = f"{answers.dtype} {list(answers.shape)}"
        raise UsageError(f'"{outputs}" is not the original\'s answers', where=where, expected="finite floats "
                         "[inputs, width]", found=found)  # fmt: skip
    if len(answers) < FEWEST_INPUTS:
        raise UsageError(
            "too few inputs in the reference", where=where, expected=f"at least {FEWEST_INPUTS}",
            found=str(len(answers)),
        )  # fmt: skip
    return arrays


def take(arrays: Mapping[str, Array], name: str, *, rows: int | None = None, where: str = "reference") -> Array:
    """One array of a reference; raises `UsageError` where it is missing or has not one row an input."""
    array = arrays.get(name)
    if array is None:
        raise UsageError(f'no array "{name}"', where=where, expected=f'"{name}"', found=", ".join(arrays) or "nothing")
    if rows is not None and array.shape[:1] != (rows,):
        expected = f"{rows} rows, as many as answers"
        raise UsageError(f'"{name}" does not fit the answers', where=where, expected=expected,
                         found=str(list(array.shape)))  # fmt: skip
    return array


def provenance_of(arrays: Mapping[str, Array]) -> str:
    """What the reference says of its origin; empty where it says nothing."""
    stated = arrays.get("provenance")
    return str(stated) if stated is not None else ""
