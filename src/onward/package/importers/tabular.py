"""The package of a tabular model: rows of named columns in; a label with probabilities, or a prediction, out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onward.errors import PackageError, ParityError
from onward.package.examples import TOLERANCE
from onward.package.importers.draft import Draft
from onward.package.importers.frame import Frame
from onward.package.importers.tablegraph import MATRIX
from onward.package.importers.texts import BODY_BYTES, IDS, ROW, Texts
from onward.package.importers.vectorizer import UNKNOWN
from onward.package.parity import compare, compare_labels
from onward.package.records import Batching, GenerateStep, Labels, Limits, Manifest, PackageInfo, Table
from onward.package.tensors import GraphSession
from onward.types import Array, Field

MODEL_FILE, LABELS_FILE = "model.onnx", "labels.txt"
SCORES = "probabilities"
MARGINS = "scores"
PREDICTION = "prediction"


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """What the original answers on the sample: `values` is [rows, classes] for a classifier, else [rows, …]."""

    output: str
    values: Array
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def draft_of_table(
    info: PackageInfo,
    frame: Frame,
    original: Original,
    conversions: Sequence[Callable[[], bytes]],
    *,
    unknown: Literal["error", "nan"],
    tolerance: float | None,
    texts: Texts | None = None,
) -> Draft:
    """Make a draft from the first conversion that agrees with the original on the sample.

    Conversions go from the fastest to the most exact (FP32, then FP64 inside). Raises the first one's `ParityError`
    or `PackageError` where none agrees. Where the original answered no row, the first conversion is taken uncompared.
    """
    allowed = TOLERANCE if tolerance is None else tolerance
    feeds: dict[str, Array] = {MATRIX: frame.matrix()} if frame.table else {}
    feeds |= texts.feeds(frame) if texts else {}
    reference = {original.output: original.values}
    if not len(original.values):
        return Draft(
            manifest=_manifest(info, frame, original, unknown, texts),
            files={MODEL_FILE: conversions[0]()} | _labels_file(original.classes),
        )
    problem: PackageError | None = None
    for conversion in conversions:
        try:
            model = conversion()
            packed = GraphSession(model).run(feeds)
            compare(reference, packed, tolerance=allowed)
            if original.classes:
                best = [original.classes[int(index)] for index in np.argmax(packed[original.output], axis=1)]
                compare_labels(original.labels, best, original.values, tolerance=allowed)
        except PackageError as error:
            if problem is None or (isinstance(error, ParityError) and not isinstance(problem, ParityError)):
                problem = error
            continue
        return Draft(
            manifest=_manifest(info, frame, original, unknown, texts),
            files={MODEL_FILE: model}
            | _labels_file(original.classes)
            | (texts.files(MATRIX, len(frame.table)) if texts else {}),
            items=frame.items(),
            feeds=feeds,
            reference=reference,
            labels=original.labels,
            label_scores=original.output if original.classes else "",
            tolerance=allowed,
        )
    raise problem or PackageError("the model cannot be converted")


def _manifest(
    info: PackageInfo, frame: Frame, original: Original, unknown: Literal["error", "nan"], texts: Texts | None
) -> Manifest:
    columns = tuple(column.name for column in frame.table)
    output = MATRIX if texts is None or texts.is_single else ROW
    table = (Table(columns=columns, output=output, unknown=unknown),) if columns else ()
    batching, limits = Batching(), Limits()
    if texts:
        batching = Batching(max_batch_size=texts.largest_batch, pad={IDS: UNKNOWN})
        limits = Limits(body_bytes=BODY_BYTES)
    outputs = [Field(name=original.output, datatype="FP32", shape=original.values.shape[1:])]
    generate: tuple[GenerateStep, ...] = ()
    if original.classes:
        outputs.insert(0, Field(name="label", datatype="BYTES", description="the most likely class"))
        generate = (Labels(scores=original.output, file=LABELS_FILE, top_k=min(5, len(original.classes))),)
    kind = "tabular" if columns else "text"
    task = f"{kind}-classification" if original.classes else f"{kind}-regression"
    return Manifest(
        package=replace(info, task=task) if info.task == "tensor" else info,
        inputs=frame.fields(),
        outputs=tuple(outputs),
        prepare=(*table, *(texts.prepare() if texts else ())),
        generate=generate,
        batching=batching,
        limits=limits,
    )


def _labels_file(classes: Sequence[str]) -> dict[str, bytes]:
    if any("\n" in name or "\r" in name for name in classes):
        raise PackageError("a class name has a line break in it", expected="class names of one line")
    return {LABELS_FILE: "".join(f"{name}\n" for name in classes).encode()} if classes else {}
