"""The cost matrix of a policy: which outcome costs the least on average, given how probable a case is positive."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from onward.decide.expressions import Expression, Language
from onward.decide.records import Costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """From this probability on (up to the next threshold) this outcome is the cheapest."""

    probability: float
    outcome: str


class CostTable:
    """Expected costs of each outcome, from expressions that are evaluated together."""

    def __init__(self, costs: Costs, language: Language) -> None:
        self._outcomes = tuple(costs.outcomes)
        self.expressions: list[Expression] = [costs.probability]
        # For each outcome and side: a number, or the place of its expression among those evaluated.
        self._sides: list[tuple[tuple[float, int], tuple[float, int]]] = []
        for cost in costs.outcomes.values():
            self._sides.append((self._side(cost.positive, language), self._side(cost.negative, language)))
        self._listed = language.listed(self.expressions)

    def values(self, activation: Any) -> dict[str, Any]:
        """{`cost.OUTCOME`: expected cost, `cost.best`: the cheapest}; of equal ones the first in the file.

        Raises `ValueError` where the probability is none.
        """
        numbers = self._listed.values(activation)
        if not 0.0 <= numbers[0] <= 1.0:
            raise ValueError(f"not a probability: {numbers[0]}")
        probability = numbers[0]
        found: dict[str, Any] = {}
        best, least = "", 0.0
        for outcome, (positive, negative) in zip(self._outcomes, self._sides, strict=True):
            if_positive = positive[0] if positive[1] < 0 else numbers[positive[1]]
            if_negative = negative[0] if negative[1] < 0 else numbers[negative[1]]
            expected = probability * if_positive + (1.0 - probability) * if_negative
            if expected != expected:
                raise ValueError("a cost that is no number")
            if not best or expected < least:
                best, least = outcome, expected
            found[f"cost.{outcome}"] = expected
        found["cost.best"] = best
        return found

    def thresholds(self) -> tuple[Threshold, ...]:
        """Where the cheapest outcome changes, from probability 0 up; empty where a cost depends on the case."""
        if len(self.expressions) > 1:
            return ()
        lines = [(negative[0], positive[0] - negative[0]) for positive, negative in self._sides]
        crossings = {0.0, 1.0}
        for (start, slope), (other_start, other_slope) in combinations(lines, 2):
            if slope != other_slope:
                crossing = (other_start - start) / (slope - other_slope)
                crossings |= {crossing} if 0.0 < crossing < 1.0 else set()
        found: list[Threshold] = []
        for low, high in pairwise(sorted(crossings)):
            middle = (low + high) / 2
            best = min(range(len(lines)), key=lambda index: lines[index][0] + lines[index][1] * middle)
            if not found or found[-1].outcome != self._outcomes[best]:
                found.append(Threshold(probability=low, outcome=self._outcomes[best]))
        return tuple(found)

    def _side(self, cost: float | Expression, language: Language) -> tuple[float, int]:
        if not isinstance(cost, Expression):
            return cost, -1
        if not cost.reads and not cost.asks:
            constant = cost.program.eval(language.activation({})).plain_value()
            if isinstance(constant, float):
                return constant, -1
        self.expressions.append(cost)
        return 0.0, len(self.expressions) - 1
