"""The cheapest outcome is the one with the least expected cost, and thresholds say where it changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.decide.costs import CostTable
from onward.decide.expressions import Language
from onward.decide.records import Cost, Costs
from onward.decide.rules import Rules
from onward.decide.variables import NUMBER, Variable
from tests.unit.decide.policies import COSTS, facts, policy, rule

LANGUAGE = Language(
    [Variable(root="result", keys=("p",), type=NUMBER), Variable(root="input", keys=("a",), type=NUMBER)]
)
OUTCOMES = ("approve", "review", "decline")
amounts = st.floats(-1e6, 1e6)


def table(*costs: tuple[Any, Any]) -> CostTable:
    sides = [[LANGUAGE.compile(side) if isinstance(side, str) else side for side in cost] for cost in costs]
    outcomes = {name: Cost(positive=p, negative=n) for name, (p, n) in zip(OUTCOMES, sides, strict=False)}
    return CostTable(Costs(probability=LANGUAGE.compile("result.p"), outcomes=outcomes), LANGUAGE)


def values(costs: CostTable, p: float, a: float = 0.0) -> dict[str, Any]:
    return costs.values(LANGUAGE.activation({"result.p": p, "input.a": a}))


def test_expected_costs_weigh_both_cases_with_the_probability() -> None:
    found = values(table(("input.a * 2.0", 0.0), (3.0, 3.0), (0.0, 8.0)), 0.25, 100.0)
    assert found == {"cost.approve": 50.0, "cost.review": 3.0, "cost.decline": 6.0, "cost.best": "review"}


def test_of_equal_costs_the_first_in_the_file_is_the_best() -> None:
    assert values(table((1.0, 1.0), (1.0, 1.0)), 0.5)["cost.best"] == "approve"


def test_constant_costs_have_thresholds_from_probability_0_up() -> None:
    found = table((12.0, 0.0), (3.0, "1.0 + 2.0"), (0.0, 8.0)).thresholds()
    assert [(one.probability, one.outcome) for one in found] == [(0.0, "approve"), (0.25, "review"), (0.625, "decline")]


def test_costs_that_depend_on_the_case_have_no_thresholds() -> None:
    assert table(("input.a", 0.0), (3.0, 3.0)).thresholds() == ()
    assert policy(COSTS).thresholds() == ()


@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=3), st.floats(0, 1))
def test_thresholds_say_what_is_cheapest_at_every_probability(costs: list[tuple[float, float]], p: float) -> None:
    made = table(*costs)
    found = values(made, p)
    named = [one.outcome for one in made.thresholds() if one.probability <= p][-1]
    scale = max(1.0, *(abs(side) for cost in costs for side in cost))
    assert found[f"cost.{named}"] <= found[f"cost.{found['cost.best']}"] + 1e-9 * scale


@pytest.mark.parametrize("p", [-1e-9, 1.0000001, float("nan"), float("inf")])
def test_what_is_no_probability_gives_no_costs(p: float) -> None:
    with pytest.raises(ValueError, match="not a probability"):
        values(table((1.0, 1.0)), p)


@pytest.mark.parametrize("side", ["input.a / 0.0 - input.a / 0.0", "double(1 / int(input.a))"])
def test_a_cost_that_is_no_number_gives_no_costs(side: str) -> None:
    with pytest.raises(ValueError, match=r"no number|divide"):
        values(table((side, 0.0)), 0.5)


def test_costs_as_deep_as_cel_allows_are_evaluated_one_by_one() -> None:
    deepest = deepest_of("result.probability")
    rules: Rules = policy(COSTS.replace('"result.probability"', f'"{deepest}"'), rule("d", "cost.best == 'decline'"))
    assert rules.decide(facts()).rule == "d"


def deepest_of(text: str) -> str:
    """The text in as many brackets as an expression may have."""
    for depth in range(60, 0, -1):
        nested = "(" * depth + text + ")" * depth
        try:
            Language(policy().variables.values()).compile(nested)
        except Exception:
            continue
        return nested
    raise AssertionError(text)
