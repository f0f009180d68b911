"""An MLflow model's input example as arrays for a graph's inputs, in the forms that MLflow writes it.

A data frame's rows are one matrix for a model with one input, and a column for each input of others, as MLflow itself
feeds them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import UsageError
from onward.package.sections import is_inner_path
from onward.types import Array

EXAMPLE_FILE = "input_example.json"
MAX_BYTES = 64 << 20
MAX_ROWS = 256


def read_example(folder: Path, saved: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Array]:
    """The example, at most 256 rows of it, as {input: array}; `saved` is what the `MLmodel` says of it.

    Raises `UsageError` for what cannot be read or is no arrays.
    """
    path = saved.get("artifact_path", EXAMPLE_FILE)
    file = folder / str(path)
    if not is_inner_path(str(path)) or not file.resolve().is_relative_to(folder.resolve()):
        raise UsageError("a file out of the folder", where=str(file))
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError("it is too large", where=str(file), expected=f"at most {MAX_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"it cannot be read: {error}", where=str(file), expected="JSON") from None
    if isinstance(content, dict) and saved.get("params"):
        content = content.get("inputs")
    elif isinstance(content, dict) and set(content) == {"inputs"} and "inputs" not in inputs:
        content = content["inputs"]
    return {name: array[:MAX_ROWS] for name, array in _arrays(content, inputs, str(file)).items()}


def _arrays(content: Any, inputs: Sequence[str], where: str) -> dict[str, Array]:
    if isinstance(content, dict) and {"columns", "data"} <= set(content) and isinstance(content["columns"], list):
        return _of_frame(content["columns"], content["data"], inputs, where)
    if isinstance(content, dict) and set(inputs) <= set(content):
        return {name: _array(content[name], where) for name in inputs}
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        names = list(content[0])
        rows = [[row.get(name) for name in names] for row in content]
        return _of_frame(names, rows, inputs, where)
    if isinstance(content, list) and len(inputs) == 1:
        return {inputs[0]: _array(content, where)}
    raise UsageError("it is not what the model takes", where=where, expected=f"arrays for {', '.join(inputs)}")


def _of_frame(columns: Sequence[Any], rows: Any, inputs: Sequence[str], where: str) -> dict[str, Array]:
    matrix = _array(rows, where)
    if matrix.ndim != 2 or matrix.shape[1] != len(columns):
        raise UsageError("its rows differ in length", where=where, expected=f"{len(columns)} values each")
    if len(inputs) == 1:
        return {inputs[0]: matrix}
    missing = [name for name in inputs if name not in columns]
    if missing:
        raise UsageError(
            "it lacks columns", where=where, expected=", ".join(inputs), found=", ".join(map(str, columns))
        )
    return {name: matrix[:, list(columns).index(name)] for name in inputs}


def _array(values: Any, where: str) -> Array:
    try:
        array = np.asarray([values] if not isinstance(values, list) else values)
        if array.dtype.kind == "O":  # null is a missing number
            array = array.astype(np.float64)
    except (ValueError, TypeError):
        raise UsageError(
            "it holds no array", where=where, expected="lists of equal length of numbers or texts"
        ) from None
    return array
