"""Imports a PyTorch module from the Python process that has it, through `torch.export`; the extra `torch`.

The module is exported as an ONNX graph whose first dimension is the batch, free, and the graph is compared with what
the module itself gives, row by row. Nothing of PyTorch is in the package, and serving it needs none.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import MissingExtra, UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.onnx import MODEL_FILE, draft_of_onnx
from onward.package.records import PackageInfo
from onward.types import Array

MIN_ROWS = 2
"""Of one row torch.export would take the batch for a constant."""
TOLERANCE = 1e-5
OPSET = 18


def draft_of_module(module: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of a `torch.nn.Module`.

    `sample` is what the module is called with, rows first: an array or tensor, a tuple of them, or a mapping of its
    arguments' names. At least two rows. Every dimension but the first is fixed to the sample's size. Raises
    `UsageError` for a sample that the module does not take, `UnsupportedModel` where it cannot be exported,
    `ParityError` beyond the tolerance, `MissingExtra` where PyTorch or its exporter is not installed.
    """
    torch = _torch()
    arguments = _arguments(module, sample, torch)
    rows = {len(value) for value in arguments.values()}
    if len(rows) != 1 or min(rows) < MIN_ROWS:
        found = ", ".join(f"{name}: {len(value)}" for name, value in arguments.items())
        message = "the sample's arrays differ in rows, or there are too few"
        raise UsageError(message, expected=f"{MIN_ROWS} rows or more", found=found)
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(), _seen_as_one(module):
            answers = [_named(module(**{name: value[row : row + 1] for name, value in arguments.items()}), torch)
                       for row in range(min(rows))]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / MODEL_FILE
            _export(module, arguments, tuple(answers[0]), file, torch)
            feeds = {name: value.detach().cpu().numpy() for name, value in arguments.items()}
            draft = draft_of_onnx(file, info, sample=feeds, tolerance=TOLERANCE if tolerance is None else tolerance)
            data = file.read_bytes()
    finally:
        module.train(was_training)
    reference = {name: np.concatenate([row[name] for row in answers]) for name in answers[0]}
    return replace(draft, files={MODEL_FILE: data}, reference=reference)


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401
        import torch
    except ModuleNotFoundError as error:
        expected = "pip install 'onward[torch]'"
        raise MissingExtra(f"packing a PyTorch module needs {error.name}", expected=expected) from None
    return torch


def _arguments(module: Any, sample: Any, torch: Any) -> dict[str, Any]:
    """The sample as tensors by the names of the module's arguments."""
    names = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if isinstance(sample, Mapping):
        given = {str(name): value for name, value in sample.items()}
    else:
        values = list(sample) if isinstance(sample, tuple) else [sample]
        if len(values) > len(names):
            raise UsageError("the module takes fewer arguments", expected=", ".join(names), found=str(len(values)))
        given = dict(zip(names, values, strict=False))
    unknown = [name for name in given if name not in names]
    if unknown or not given:
        raise UsageError("the module has no such argument", expected=", ".join(names), found=", ".join(unknown))
    return {name: _tensor(name, value, torch) for name, value in given.items()}


def _tensor(name: str, value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise UsageError(f'"{name}" of the sample is no tensor', expected="numbers", found=str(array.dtype))
        tensor = torch.from_numpy(np.ascontiguousarray(array))
    if tensor.ndim < 1:
        raise UsageError(f'"{name}" of the sample has no rows', expected="rows first", found="a single value")
    return tensor


def _named(answer: Any, torch: Any) -> dict[str, Array]:
    """The module's outputs by name: those of a mapping, else `output`, or `output_0`, `output_1`, …"""
    if isinstance(answer, torch.Tensor):
        named = {"output": answer}
    elif isinstance(answer, Mapping):
        named = {str(name): value for name, value in answer.items() if value is not None}
    elif isinstance(answer, Sequence):
        named = {f"output_{index}": value for index, value in enumerate(answer)}
    else:
        named = {}
    if not named or not all(isinstance(value, torch.Tensor) for value in named.values()):
        raise UnsupportedModel("the module does not answer with tensors", expected="a tensor, several, or a mapping",
                               found=type(answer).__name__)  # fmt: skip
    return {name: value.detach().cpu().numpy() for name, value in named.items()}


def _export(module: Any, arguments: dict[str, Any], outputs: tuple[str, ...], file: Path, torch: Any) -> None:
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in arguments}
    with _quiet():
        try:
            program = torch.onnx.export(
                module, (), kwargs=arguments, dynamo=True, dynamic_shapes=shapes, input_names=list(arguments),
                output_names=list(outputs), opset_version=OPSET, verbose=False,
            )  # fmt: skip
            program.save(str(file), external_data=False)
        except Exception as error:  # the exporter's own, which share no base
            reason = " ".join(str(error).split())[:400]
            raise UnsupportedModel(
                f"torch.export cannot export it: {reason}",
                expected="a module without branches on its data, whose rows do not look at each other",
            ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter: what is wrong is raised."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _seen_as_one(module: Any) -> Iterator[None]:
    """Runs the module's own code with its usage mistakes told as such."""
    try:
        yield
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        message = f"the module does not take the sample: {error}"
        raise UsageError(message, where=type(module).__name__) from None
