"""How far apart the answers of two runners are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from onward.generate.answer import readable
from onward.package.examples import TOLERANCE
from onward.types import Result

Answer: TypeAlias = Mapping[str, Any]
"""An answer as JSON holds it; {"error": code} where the input was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One runner against the first: of `inputs` answers `equal` are the same to the bit, and `agreeing` but for numbers
    within the tolerance. `difference` is the largest of numbers, over their size where that is above 1; `first` says
    where the first answer is that does not agree.
    """

    runner: str
    inputs: int
    equal: int
    agreeing: int
    difference: float
    first: str = ""


def as_told(result: Result) -> Answer:
    """A result's answer as a server tells it: numbers that are none become null."""
    told: Answer = msgspec.json.decode(msgspec.json.encode(readable(result)))
    return told


def compare(
    runner: str, reference: Sequence[Answer], answers: Sequence[Answer], *, tolerance: float = TOLERANCE
) -> Agreement:
    """Compare answers one by one; both are in the order of the inputs."""
    equal = agreeing = 0
    largest = 0.0
    first = ""
    for index, (expected, found) in enumerate(zip(reference, answers, strict=True)):
        difference, where = apart(expected, found, tolerance)
        largest = max(largest, difference)
        if where:
            first = first or f"input {index}{where}"
        else:
            agreeing += 1
            equal += expected == found
    return Agreement(
        runner=runner, inputs=len(answers), equal=equal, agreeing=agreeing, difference=largest, first=first
    )


def apart(expected: Any, found: Any, tolerance: float) -> tuple[float, str]:
    """The largest difference of numbers, and where two answers as JSON holds them do not agree ("": they do)."""
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        return 0.0, "" if expected is found else _told(expected, found)
    if isinstance(expected, int | float) and isinstance(found, int | float):
        difference = _difference(float(expected), float(found))
        return (difference if math.isfinite(difference) else 0.0), (
            "" if difference <= tolerance else _told(expected, found)
        )
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if expected.keys() != found.keys():
            return 0.0, _told(sorted(expected), sorted(found))
        return _worst((f".{name}", apart(expected[name], found[name], tolerance)) for name in expected)
    if isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            return 0.0, _told(f"{len(expected)} values", f"{len(found)} values")
        if _is_ranking(expected) and _is_ranking(found):
            expected, found = _by_score(expected), _by_score(found)
        pairs = enumerate(zip(expected, found, strict=True))
        return _worst((f"[{index}]", apart(one, other, tolerance)) for index, (one, other) in pairs)
    return 0.0, "" if expected == found else _told(expected, found)


def _worst(parts: Any) -> tuple[float, str]:
    largest = 0.0
    first = ""
    for where, (difference, told) in parts:
        largest = max(largest, difference)
        if told and not first:
            first = where + told
    return largest, first


def _difference(expected: float, found: float) -> float:
    if expected == found or (math.isnan(expected) and math.isnan(found)):
        return 0.0
    return abs(expected - found) / max(1.0, abs(expected))


def _is_ranking(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, Mapping) and "score" in value for value in values)


def _by_score(ranking: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours whose scores are equal but for rounding may change places: they are told apart by name."""

    def place(one: Mapping[str, Any]) -> tuple[Any, ...]:
        score = one["score"]  # null where it is no number, or infinite
        rounded = -round(score, 4) if isinstance(score, int | float) else math.inf
        return (rounded, *(str(value) for name, value in one.items() if name != "score"))

    return sorted((dict(one) for one in ranking), key=place)


def _told(expected: Any, found: Any) -> str:
    return f": {str(expected)[:60]} and {str(found)[:60]}"
