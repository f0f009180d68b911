"""The certificate of an export: its answers on this machine against the package's own, and how far they were apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from onward.errors import InputError, RunnersDisagree
from onward.package.examples import TOLERANCE, read_examples
from onward.package.package import Package
from onward.pipeline import Pipeline
from onward.runners.agreement.comparison import Answer, as_told, compare
from onward.runners.agreement.inputs import inputs_of
from onward.types import Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What an export answered, {"error": code} where it refused, in what, and how long each took."""

    answers: Sequence[Answer]
    runtime: str
    ms_per_answer: float = 0.0


Answering: TypeAlias = Callable[[Sequence[Item]], Measured]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Of `inputs` answers, `agreeing` are the package's own within the `tolerance`, and `equal` to the last bit.

    `difference` is the largest of numbers, over their size where that is above 1. Without inputs nothing was
    compared, and `note` says why. `quantization` are the settings that were tried on the package before.
    """

    package: str
    digest: str
    target: str
    runtime: str = ""
    inputs: int = 0
    equal: int = 0
    agreeing: int = 0
    difference: float = 0.0
    tolerance: float = TOLERANCE
    ms_per_answer: float = 0.0
    note: str = ""
    quantization: tuple[Mapping[str, Any], ...] = ()


def certify(
    package: Package, target: str, answering: Answering | None, count: int, *, note: str = "",
    tolerance: float = TOLERANCE,
) -> Certificate:  # fmt: skip
    """Have the golden examples and as many more inputs as make `count` answered by the export and by the package.

    `answering` None: it cannot be measured here, as `note` says. Raises `RunnersDisagree` where an answer differs.
    """
    identity = package.id
    named: dict[str, Any] = {"package": f"{identity.name} {identity.version}", "digest": identity.digest}
    named["target"] = target
    if answering is None or not count or not read_examples(package.folder):
        why = note or ("not asked for" if not count else "the package has no examples to make inputs of")
        return Certificate(**named, note=why)
    items = inputs_of(package, count)
    measured = answering(items)
    agreement = compare(target, own_answers(package, items), measured.answers, tolerance=tolerance)
    if agreement.agreeing < agreement.inputs:
        raise RunnersDisagree(
            "the export answers differently from the package", where=identity.name,
            expected=f"all {agreement.inputs} answers to agree", found=f"{agreement.agreeing}; {agreement.first}",
        )  # fmt: skip
    return Certificate(
        **named, runtime=measured.runtime, inputs=agreement.inputs, equal=agreement.equal, agreeing=agreement.agreeing,
        difference=agreement.difference, tolerance=tolerance, ms_per_answer=round(measured.ms_per_answer, 3),
    )  # fmt: skip


def own_answers(package: Package, items: Sequence[Item]) -> list[Answer]:
    """The package's answers in this process, without what a policy decides."""
    with Pipeline(package, decide=False) as pipeline:
        return [_answer(pipeline, item) for item in items]


def as_record(certificate: Certificate) -> dict[str, Any]:
    """The certificate as JSON holds it."""
    return asdict(certificate)


def _answer(pipeline: Pipeline, item: Item) -> Answer:
    try:
        return as_told(pipeline(item))
    except InputError as error:
        return {"error": error.code}
