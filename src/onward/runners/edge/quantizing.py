"""A package's model in fewer bits, and what that costs: size, time and agreement on inputs that it was not made with.

The package is not touched: the smaller model is a file beside it. One that answers too differently is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import (
    ExecutionError,
    MissingExtra,
    NotForEdge,
    NothingToQuantize,
    QuantizedTooFar,
    RefusedGraph,
    UsageError,
)
from onward.package.examples import read_examples
from onward.package.graphcheck import check_graph
from onward.package.package import Package
from onward.pipeline import Pipeline
from onward.runners.agreement.inputs import inputs_of
from onward.runners.edge.quantized_answers import TOLERANCES, Comparison, feeds_of, prepared
from onward.types import Input, Item

if TYPE_CHECKING:
    from onward.runners.edge.quantized_graph import QuantizedGraph
    from onward.runners.edge.quantized_ranges import Golden

AUTO = "auto"
INPUTS = 256
"""How many inputs are made to compare on where none are given."""
GOLDEN = 64
"""How many golden examples ranges are taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a setting makes a smaller model of."""

    name: str
    file: Path
    original_bytes: int
    graph: QuantizedGraph
    golden: Golden
    told: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A way to write a model smaller. With `calibrated`, it needs golden examples."""

    name: str
    description: str
    make: Callable[[Material], bytes]
    calibrated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One setting: sizes of the model's file, median times of one input on one thread, and how far answers agree.

    `agreement` is the mean cosine of vectors ("cosine"), the share of inputs with the same best label ("top-1"), or 1
    less the mean difference over the outputs' spread ("difference"). `worst` is the lowest cosine, the largest change
    of the best label's score, or 1 less the largest difference.
    """

    setting: str
    size_bytes: int
    original_bytes: int
    latency_ms: float
    original_latency_ms: float
    agreement: float
    worst: float
    measure: str
    inputs: int
    holds: bool


def quantize(
    package: Package,
    setting: str,
    folder: Path,
    *,
    tolerance: float | None = None,
    inputs: Sequence[Input] | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> tuple[Path, tuple[Trial, ...]]:
    """Write the package's model in fewer bits into `folder`, under the same name; returns it and the trials made.

    `setting` is one of `SETTINGS`, or "auto" for the smallest that agrees. `tolerance` is the least agreement, as
    `Trial` defines it: .995 for vectors and .99 for labels and numbers unless given. `inputs` are to compare on, golden
    examples among them left out; without any they are made of the golden examples. With `force` the model is written
    however it answers. Raises `QuantizedTooFar`, `NothingToQuantize`, `UsageError`, `MissingExtra` and `NotForEdge`.
    """
    if setting not in CHOICES:
        raise UsageError("not a setting", where="--quantize", expected=f"one of {', '.join(CHOICES)}", found=setting)
    if tolerance is not None and not 0 <= tolerance <= 1:
        raise UsageError("not an agreement", where="--tolerance", expected="a number from 0 to 1", found=str(tolerance))
    if package.manifest.execute.backend != "onnx" or package.manifest.stages:
        raise NotForEdge("only ONNX models are made smaller", where=package.id.name, expected="one ONNX model")
    pipeline = Pipeline(package, decide=False)
    try:
        material = _material(pipeline, package, progress)
        comparison = Comparison(pipeline, material.file, _held_out(pipeline, package, inputs))
        least = TOLERANCES[comparison.measure] if tolerance is None else tolerance
        return _best(setting, material, comparison, folder, least=least, force=force)
    finally:
        pipeline.close()


def _best(
    setting: str, material: Material, comparison: Comparison, folder: Path, *, least: float, force: bool
) -> tuple[Path, tuple[Trial, ...]]:
    """Try what the setting says, and keep the best file of those that may be."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / material.file.name
    trying = folder / f".{target.name}-{secrets.token_hex(4)}"
    kept = trying.with_suffix(".kept")
    best: Trial | None = None
    trials: list[Trial] = []
    try:
        for one in _tried(setting, material):
            material.told(f"{one.name}: {one.description}")
            try:
                trial = _trial(one, material, comparison, trying, least)
            except (RefusedGraph, ExecutionError) as error:
                if setting != AUTO:
                    raise
                material.told(f"{one.name} does not run: {error}")
                continue
            trials.append(trial)
            if (trial.holds or force) and (best is None or _rank(trial) < _rank(best)):
                best = trial
                trying.replace(kept)
        if best is None:
            raise _too_far(material, trials, least)
        kept.replace(target)
    finally:
        trying.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
    return target, tuple(trials)


def _trial(setting: Setting, material: Material, comparison: Comparison, file: Path, least: float) -> Trial:
    file.write_bytes(setting.make(material))
    check_graph(file, file.parent)
    compared = comparison.against(file)
    return Trial(
        setting=setting.name, size_bytes=file.stat().st_size, original_bytes=material.original_bytes,
        latency_ms=compared.latency_ms, original_latency_ms=compared.original_latency_ms,
        agreement=compared.agreement, worst=compared.worst, measure=comparison.measure, inputs=comparison.inputs,
        holds=compared.agreement >= least,
    )  # fmt: skip


def _too_far(material: Material, trials: Sequence[Trial], least: float) -> QuantizedTooFar:
    measure = trials[0].measure if trials else ""
    return QuantizedTooFar(
        f"no smaller model agrees enough with the original:\n{table(trials)}\n",
        where=material.name, expected=f"an agreement ({measure}) of {least:g} or more",
        found=f"{max((one.agreement for one in trials), default=0.0):.5f}",
    )  # fmt: skip


def _held_out(pipeline: Pipeline, package: Package, given: Sequence[Input] | None) -> list[Item]:
    """Inputs that no setting was made with."""
    golden = [example.input for example in read_examples(package.folder)]
    if given is None:
        return inputs_of(package, len(golden) + INPUTS)[len(golden) :]
    items = (pipeline.item(one) for one in given)
    return [one for one in items if all(one != other for other in golden)]


def table(trials: Sequence[Trial]) -> str:
    """The trials as lines of text for people."""
    lines = []
    for one in trials:
        lines.append(
            f"{one.setting:<16} {one.size_bytes / 1e6:7.1f} MB ({one.original_bytes / one.size_bytes:.1f} x smaller) "
            f"{one.latency_ms:8.2f} ms ({one.original_latency_ms / one.latency_ms:.1f} x as fast) "
            f"{one.measure} {one.agreement:.5f}, worst {one.worst:.5f}, on {one.inputs} inputs: "
            f"{'holds' if one.holds else 'too far'}"
        )
    return "\n".join(lines)


def _int8(material: Material) -> bytes:
    from onward.runners.edge.quantized_ranges import in_integers

    graph = material.graph

    def rest() -> None:
        for one in graph.of("table"):
            graph.as_rows(one)
        for one in graph.of("filter"):
            graph.as_stored(one)

    return in_integers(graph, material.golden, rest, material.told)


def _int8_static(material: Material) -> bytes:
    from onward.runners.edge.quantized_ranges import calibrated

    return calibrated(material.file, material.golden, material.graph.weights)


def _weights(material: Material, bits: int, table_bits: int) -> bytes:
    graph = material.graph
    graph.clear()
    for one in graph.weights:
        if one.kind == "matrix":
            graph.as_blocks(one, bits)
        elif one.kind == "filter":
            graph.as_stored(one)
        elif table_bits == 8:
            graph.as_rows(one)
        else:
            graph.as_row_blocks(one)
    return graph.written()


def _float16(material: Material) -> bytes:
    material.graph.clear()
    for one in material.graph.weights:
        material.graph.as_float16(one)
    return material.graph.written()


SETTINGS: Mapping[str, Setting] = {
    one.name: one
    for one in (
        Setting(
            name="int8", description="matrices multiplied in whole numbers, inputs rounded by their range in each call",
            make=_int8,
        ),
        Setting(
            name="int8-static", description="all tensors rounded, by ranges that the golden inputs have",
            make=_int8_static, calibrated=True,
        ),
        Setting(
            name="weights8", description="weights of 8 bits, in blocks; numbers between stay floats",
            make=lambda material: _weights(material, 8, 8),
        ),
        Setting(
            name="weights8-tables4", description="like weights8, with tables of 4 bits",
            make=lambda material: _weights(material, 8, 4),
        ),
        Setting(
            name="weights4", description="matrices and tables of 4 bits, in blocks",
            make=lambda material: _weights(material, 4, 4),
        ),
        Setting(name="float16", description="weights of 16 bits, floats again when loaded", make=_float16),
    )
}  # fmt: skip
"""The settings by name, in the order in which `auto` tries them."""
CHOICES = (*SETTINGS, AUTO)


def _tried(setting: str, material: Material) -> list[Setting]:
    if setting != AUTO:
        chosen = SETTINGS[setting]
        if chosen.calibrated and not material.golden.feeds:
            raise UsageError(f"{setting} is calibrated with golden examples, and the package has none")
        return [chosen]
    kinds = {one.kind for one in material.graph.weights}
    # What makes the same file as another setting is left out.
    same = set()
    if "table" not in kinds:
        same.add("weights8-tables4")
    if "matrix" not in kinds:
        same |= {"int8", *(["weights4"] if "table" not in kinds else [])}
    calibratable = bool(material.golden.feeds)
    return [one for name, one in SETTINGS.items() if name not in same and (calibratable or not one.calibrated)]


def _rank(trial: Trial) -> tuple[bool, float]:
    """The smallest that holds; where none does, the one that agrees most."""
    return not trial.holds, trial.size_bytes if trial.holds else -trial.agreement


def _material(pipeline: Pipeline, package: Package, told: Callable[[str], None]) -> Material:
    try:
        from onward.runners.edge.quantized_graph import QuantizedGraph
        from onward.runners.edge.quantized_ranges import Golden
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "onward":
            raise
        raise MissingExtra("a model is made smaller by onnx", expected="pip install 'onward[pack]'") from None
    file = package.folder / package.manifest.execute.file
    graph = QuantizedGraph(file)
    if not graph.weights:
        expected = "matrices, tables or convolutions with weights; the splits of trees are no numbers to round"
        raise NothingToQuantize(where=package.id.name, expected=expected)
    golden = prepared(pipeline, [example.input for example in read_examples(package.folder)][:GOLDEN])
    feeds = [feeds_of(pipeline, one) for one in golden]
    if any(tensor.dtype == object for feed in feeds for tensor in feed.values()):
        feeds = []  # texts are not what is rounded
    return Material(
        name=package.id.name, file=file, graph=graph, golden=Golden(file, feeds),
        original_bytes=file.stat().st_size, told=told,
    )  # fmt: skip
