"""How far a smaller model's answers are from the original's, and how long both take, one input at a time on one thread.

One at a time, as on a device; the answers are those that a person gets, so a graph after the model has its say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import InputError, UsageError
from onward.execute.onnx import OnnxBackend
from onward.package.manifest import Labels
from onward.pipeline import Pipeline
from onward.types import Array, Item, Prepared

TOLERANCES: Mapping[str, float] = {"cosine": 0.995, "top-1": 0.99, "difference": 0.99}
"""The least agreement by measure, unless another is given."""
_TIMED = 64
_WARM_UP = 3
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What one input gave: the label ("" where there is none), scores by label, and all numbers."""

    label: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    numbers: tuple[Array, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """See `Trial`."""

    agreement: float
    worst: float
    latency_ms: float
    original_latency_ms: float


class Comparison:
    """The original's answers to inputs, to compare others with. Inputs that the package refuses are left out."""

    def __init__(self, pipeline: Pipeline, file: Path, items: Sequence[Item]) -> None:
        self._pipeline = pipeline
        self._prepared = prepared(pipeline, items)
        if not self._prepared:
            raise UsageError("no input to compare on", expected="inputs that the package takes, and no golden examples")
        self._original = OnnxBackend(file, threads=1)
        self._expected = self._answers(self._original)
        first = self._expected[0]
        vectors = any(one.size > 1 for one in first.numbers)
        self.measure = "top-1" if first.label else "cosine" if vectors else "difference"
        if not first.label and not first.numbers:
            raise UsageError("the answers have neither labels nor numbers to compare", where=pipeline.package.id.name)

    @property
    def inputs(self) -> int:
        """How many inputs there are to compare on."""
        return len(self._prepared)

    def against(self, file: Path) -> Compared:
        """Compare the model in `file`. Raises `RefusedGraph` or `ExecutionError` where it does not run."""
        model = OnnxBackend(file, threads=1)
        found = self._answers(model)
        agreement, worst = _AGREEMENTS[self.measure](self._expected, found)
        latency_ms, original_ms = self._latencies_ms(model)
        return Compared(agreement=agreement, worst=worst, latency_ms=latency_ms, original_latency_ms=original_ms)

    def _answers(self, model: OnnxBackend) -> list[Answered]:
        pipeline = self._pipeline
        fetches = pipeline.default_fetches
        steps = [step for step in pipeline.manifest.generate if isinstance(step, Labels)]
        answers = []
        for one, feeds in zip(self._prepared, self._feeds(), strict=True):
            tensors = dict(zip(fetches, self._run(model, feeds), strict=True))
            answer = pipeline.generate(tensors, frozenset())
            answers.append(_answered(answer, {name: tensor[: one.rows] for name, tensor in tensors.items()}, steps))
        return answers

    def _run(self, model: OnnxBackend, feeds: Mapping[str, Array]) -> list[Array]:
        pipeline = self._pipeline
        before, pipeline.model = pipeline.model, model
        try:
            return pipeline.run(feeds, pipeline.default_fetches)
        finally:
            pipeline.model = before

    def _feeds(self) -> list[dict[str, Array]]:
        return [feeds_of(self._pipeline, one) for one in self._prepared]

    def _latencies_ms(self, model: OnnxBackend) -> tuple[float, float]:
        """Medians of both models, which take turns: what else the machine does is shared by them."""
        feeds = self._feeds()[:_TIMED]
        taken: tuple[list[float], list[float]] = ([], [])
        for index, one in enumerate([*feeds[:_WARM_UP], *feeds]):
            for times, each in zip(taken, (model, self._original), strict=True):
                started_s = time.perf_counter()
                self._run(each, one)
                if index >= _WARM_UP:
                    times.append(1e3 * (time.perf_counter() - started_s))
        return float(np.median(taken[0])), float(np.median(taken[1]))


def prepared(pipeline: Pipeline, items: Sequence[Item]) -> list[Prepared]:
    """The inputs in the model's form, without those that the package refuses."""
    found = []
    for item in items:
        try:
            found.append(pipeline.prepare(item, None))
        except InputError:
            continue
    return found


def feeds_of(pipeline: Pipeline, one: Prepared) -> dict[str, Array]:
    """One prepared input as a batch of its own."""
    return dict(pipeline.collate([one.tensors], [one.rows], bucket=one.rows))


def _answered(answer: Mapping[str, Any], tensors: Mapping[str, Array], steps: Sequence[Labels]) -> Answered:
    numbers = tuple(tensor.astype(np.float64).ravel() for tensor in tensors.values() if tensor.dtype.kind == "f")
    for step in steps:
        if step.output in answer:
            ranking = answer[f"{step.output}s"]
            scores = {one[step.output]: float(one["score"]) for one in ranking}
            return Answered(label=str(answer[step.output]), scores=scores, numbers=numbers)
    for tensor in tensors.values():
        if tensor.dtype.kind in "iuO" and tensor.size:
            return Answered(label=str(tensor.ravel()[0]), numbers=numbers)
    return Answered(numbers=numbers)


def _cosines(expected: Sequence[Answered], found: Sequence[Answered]) -> tuple[float, float]:
    """Of an answer with several vectors, that counts which is furthest away."""
    cosines = [
        min(_cosine(a, b) for a, b in zip(one.numbers, other.numbers, strict=True) if a.size > 1)
        for one, other in zip(expected, found, strict=True)
    ]
    return float(np.mean(cosines)), float(np.min(cosines))


def _cosine(a: Array, b: Array) -> float:
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    if sizes < _SMALLEST:
        return float(np.array_equal(a, b))
    cosine = float(a @ b) / sizes
    return cosine if np.isfinite(cosine) else -1.0


def _same_labels(expected: Sequence[Answered], found: Sequence[Answered]) -> tuple[float, float]:
    pairs = list(zip(expected, found, strict=True))
    same = float(np.mean([one.label == other.label for one, other in pairs]))
    changes = [
        abs(one.scores[one.label] - other.scores.get(one.label, 0.0)) for one, other in pairs if one.label in one.scores
    ]
    changes += [
        float(np.abs(a - b).max()) for one, other in pairs if not one.scores
        for a, b in zip(one.numbers, other.numbers, strict=True) if a.size == b.size and a.size
    ]  # fmt: skip
    return same, max(changes, default=1.0 - same)


def _differences(expected: Sequence[Answered], found: Sequence[Answered]) -> tuple[float, float]:
    one = np.array([[float(number[0]) for number in answer.numbers] for answer in expected])
    other = np.array([[float(number[0]) for number in answer.numbers] for answer in found])
    spread = np.maximum(one.std(axis=0), _SMALLEST)
    off = np.nan_to_num(np.abs(one - other) / spread, nan=np.inf).max(axis=1)
    return 1 - float(off.mean()), 1 - float(off.max())


_AGREEMENTS = {"cosine": _cosines, "top-1": _same_labels, "difference": _differences}
