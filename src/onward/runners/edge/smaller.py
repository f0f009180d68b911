"""A package with a smaller model: a package of its own, with a digest and golden examples of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE
from onward.package.examples import Example, read_examples, write_examples
from onward.package.package import Package
from onward.pipeline import Pipeline
from onward.runners.edge.quantizing import Trial, quantize
from onward.types import Input

TOLERANCE = 2e-2
"""How far two runtimes' answers may be apart: one multiplies in whole numbers what another multiplies in floats, and
whether a number between two steps is rounded up or down may differ. What was measured is in the certificate."""


def smaller_package(
    package: Package,
    setting: str,
    place: Path,
    *,
    tolerance: float | None = None,
    inputs: Sequence[Input] | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Package, tuple[Trial, ...]]:
    """Make a package in `place` that has the setting's model, and promises its answers; with the trials made.

    Raises what `quantize` raises.
    """
    made, trials = quantize(
        package, setting, place / "model", tolerance=tolerance, inputs=inputs, force=force, progress=progress
    )
    folder = place / package.id.name
    shutil.copytree(package.folder, folder, ignore=shutil.ignore_patterns(LOCK_FILE))
    shutil.move(made, folder / package.manifest.execute.file)
    examples = read_examples(package.folder)
    if examples:
        with Pipeline(replace(package, folder=folder), decide=False) as pipeline:
            answered = [_answered(example, pipeline) for example in examples]
        shutil.rmtree(folder / "examples", ignore_errors=True)  # the files are in the lines now
        write_examples(folder, answered)
    return assemble(folder), trials  # without the original's bounds, which nobody has measured for this one


def _answered(example: Example, pipeline: Pipeline) -> Example:
    """The example with what the smaller model answers, of the same outputs."""
    names = pipeline.generate.names
    asked = [name for name in (*example.answer, *example.tensors) if name in names]
    result = pipeline(example.input, outputs=list(dict.fromkeys(asked)))
    answer: dict[str, Any] = {name: result.answer[name] for name in example.answer if name in result.answer}
    tensors = {name: result.tensors[name] for name in example.tensors if name in result.tensors}
    return replace(example, answer=answer, tensors=tensors, tolerance=max(example.tolerance, TOLERANCE))
