"""Imports an ONNX file as it is: the signature is read from the model, and no manifest is needed.

Needs the core install only: the runtime that will serve the model says what it takes and gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import PackageError, ParityError, UsageError
from onward.package.examples import TOLERANCE
from onward.package.graphcheck import check_graph
from onward.package.graphtrial import try_graphs
from onward.package.importers.draft import Draft
from onward.package.records import Batching, Manifest, PackageInfo
from onward.package.tensors import GraphSession
from onward.types import Array, Field, Item, TensorSpec

MODEL_FILE = "model.onnx"
PROBE_ROWS = 3
PROBE_SIZES = (8, 32, 224, 1)
"""What free dimensions are tried with, one after the other, when there is no sample."""
ROW_TOLERANCE = 1e-3
"""How far a row's answer may move with its batch: batched kernels sum in another order, rows must not mix."""


def draft_of_onnx(
    file: Path, info: PackageInfo, *, sample: Any = None, tolerance: float | None = None, is_tried: bool = False
) -> Draft:
    """Make a draft of an ONNX file.

    `sample` is an array for a model with one input, or a mapping of input name to array, rows first. Without one the
    model is tried on seeded random numbers, and packed without golden examples where it takes none of those.
    `is_tried` says that `try_graphs` has seen the file already. Raises `RefusedGraph` or `PackageError` where the model
    cannot be served, `UsageError` where the sample does not fit it.
    """
    external = check_graph(file, file.parent)
    if not is_tried:
        try_graphs([file], file.parent)
    session = GraphSession(file)
    fixed = _check_batch(session, str(file))
    manifest = Manifest(
        package=info,
        inputs=tuple(_field(spec) for spec in session.inputs),
        outputs=tuple(_field(spec) for spec in session.outputs),
        batching=Batching(max_batch_size=1) if fixed else Batching(),
    )
    feeds = _sample_feeds(session, sample) if sample is not None else _probe_feeds(session)
    reference = _reference(session, feeds, str(file)) if feeds else {}
    if feeds and not fixed:
        _check_rows(session, feeds, reference, str(file))
    return Draft(
        manifest=manifest,
        files={MODEL_FILE: file, **{path: file.parent / path for path in external}},
        items=tuple(_items(feeds)),
        feeds=feeds,
        reference=reference,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )


def _field(spec: TensorSpec) -> Field:
    return Field(name=spec.name, datatype=spec.datatype, shape=spec.shape[1:])


def _check_batch(session: GraphSession, where: str) -> bool:
    """Check that every tensor has a batch dimension; returns whether it is fixed to one row."""
    if not session.inputs or not session.outputs:
        raise PackageError("the model has no inputs or no outputs", where=where, expected="at least one of each")
    for spec in (*session.inputs, *session.outputs):
        kind = "input" if spec in session.inputs else "output"
        if not spec.shape:
            raise PackageError(
                f'{kind} "{spec.name}" has no batch dimension',
                where=where,
                expected="a first dimension that is the batch; export the model with a dynamic batch axis",
                found=f"{spec.datatype} []",
            )
        if spec.shape[0] > 1:
            raise PackageError(
                f'{kind} "{spec.name}" has a fixed first dimension',
                where=where,
                expected="a batch dimension: free (export with a dynamic batch axis) or 1",
                found=f"{spec.datatype} {list(spec.shape)}",
            )
    return any(spec.shape[0] == 1 for spec in (*session.inputs, *session.outputs))


def _sample_feeds(session: GraphSession, sample: Any) -> dict[str, Array]:
    names = [spec.name for spec in session.inputs]
    if not isinstance(sample, Mapping):
        if len(names) != 1:
            raise UsageError("the model has several inputs", expected=f"a sample with arrays for {', '.join(names)}")
        sample = {names[0]: sample}
    if set(sample) != set(names):
        raise UsageError("the sample has other inputs", expected=", ".join(names), found=", ".join(map(str, sample)))
    feeds = {spec.name: _rows(spec, sample[spec.name]) for spec in session.inputs}
    counts = {name: len(array) for name, array in feeds.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise UsageError("the sample's arrays differ in rows", expected="as many rows in each", found=str(counts))
    return feeds


def _rows(spec: TensorSpec, values: Any) -> Array:
    array = np.asarray(values, dtype=spec.dtype)
    fits = array.ndim == len(spec.shape) and all(
        size in (-1, have) for size, have in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        expected = f"{spec.datatype} [rows, {', '.join(map(str, spec.shape[1:]))}]"
        raise UsageError(
            f'the sample does not fit input "{spec.name}"', expected=expected, found=str(list(array.shape))
        )
    return array


def _probe_feeds(session: GraphSession) -> dict[str, Array]:
    for size in PROBE_SIZES:
        random = np.random.default_rng(0)
        feeds = {spec.name: _random(spec, size, random) for spec in session.inputs}
        try:
            session.run(_row(feeds, 0))
        except PackageError:
            continue
        return feeds
    return {}


def _random(spec: TensorSpec, size: int, random: np.random.Generator) -> Array:
    shape = (PROBE_ROWS, *(size if free == -1 else free for free in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return np.full(shape, "a", dtype=object)
    if spec.datatype.startswith("FP"):
        # Eighths are exact in every float and short in a text.
        return (np.round(random.standard_normal(shape) * 8) / 8).astype(spec.dtype)
    # Integers may be positions in a table of unknown size: 0 and 1 are in most.
    return random.integers(0, 2, shape).astype(spec.dtype)


def _row(feeds: Mapping[str, Array], row: int) -> dict[str, Array]:
    return {name: array[row : row + 1] for name, array in feeds.items()}


def _reference(session: GraphSession, feeds: Mapping[str, Array], where: str) -> dict[str, Array]:
    """The model's outputs row by row: each row alone, so that no batch can play a part."""
    rows = [session.run(_row(feeds, row)) for row in range(len(next(iter(feeds.values()))))]
    for name, tensor in rows[0].items():
        if tensor.shape[:1] != (1,):
            raise PackageError(
                f'output "{name}" does not give a row for each row of input',
                where=where,
                expected="outputs whose first dimension is the batch",
                found=f"shape {list(tensor.shape)} for one row",
            )
    try:
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    except ValueError:  # outputs of free shape: rows of different sizes do not stack
        return dict(rows[0])


def _check_rows(session: GraphSession, feeds: Mapping[str, Array], alone: Mapping[str, Array], where: str) -> None:
    """Rows run together must answer as each alone; else the first dimension is no batch."""
    together = session.run(feeds)
    for name, tensor in alone.items():
        found = together[name]
        if found.shape != tensor.shape:
            message = f'output "{name}" does not give a row for each row of input'
            raise PackageError(message, where=where, expected=f"{list(tensor.shape)}", found=f"{list(found.shape)}")
        if tensor.dtype.kind == "f" and not np.allclose(
            found, tensor, rtol=ROW_TOLERANCE, atol=ROW_TOLERANCE, equal_nan=True
        ):
            raise ParityError(
                f'output "{name}" of a row depends on the other rows of its batch',
                where=where,
                expected="a model whose first dimension is the batch, and that answers the same each time",
            )


def _items(feeds: Mapping[str, Array]) -> Iterator[Item]:
    rows: Sequence[int] = range(len(next(iter(feeds.values())))) if feeds else ()
    for row in rows:
        yield {name: array[row] for name, array in feeds.items()}
