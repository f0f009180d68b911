"""How far answers are apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.package.examples import TOLERANCE
from onward.runners.agreement.comparison import compare

NUMBERS = st.floats(allow_infinity=False, allow_nan=False, width=32)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ANSWERS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=5)


@given(ANSWERS)
def test_answers_agree_with_themselves(answers: list[dict[str, Any]]) -> None:
    found = compare("batch", answers, answers)
    assert (found.equal, found.agreeing, found.difference, found.first) == (len(answers), len(answers), 0.0, "")


@given(NUMBERS, NUMBERS)
def test_numbers_agree_where_they_are_within_the_tolerance(one: float, other: float) -> None:
    found = compare("batch", [{"score": one}], [{"score": other}])
    apart = abs(one - other) / max(1.0, abs(one))
    assert found.difference == pytest.approx(apart)
    assert found.agreeing == (apart <= TOLERANCE)


@pytest.mark.parametrize(
    ("expected", "found", "where"),
    [
        ({"label": "a"}, {"label": "b"}, "input 0.label: a and b"),
        ({"label": "a"}, {"error": "TOO_LARGE"}, "input 0: ['label'] and ['error']"),
        ({"v": [1.0, 2.0]}, {"v": [1.0]}, "input 0.v: 2 values and 1 values"),
        ({"v": [1.0, 2.0]}, {"v": [1.0, 3.0]}, "input 0.v[1]: 2.0 and 3.0"),
        ({"flag": True}, {"flag": 1}, "input 0.flag: True and 1"),
        ({"v": None}, {"v": 0.0}, "input 0.v: None and 0.0"),
        ({"v": "1"}, {"v": 1}, "input 0.v: 1 and 1"),
    ],
)
def test_the_first_answer_that_differs_is_named(expected: Any, found: Any, where: str) -> None:
    agreement = compare("batch", [expected], [found])
    assert agreement.agreeing == agreement.equal == 0
    assert agreement.first == where


def test_neighbours_of_a_ranking_may_change_places_where_rounding_decides() -> None:
    one = {"labels": [{"label": "a", "score": 0.300001}, {"label": "b", "score": 0.3}]}
    other = {"labels": [{"label": "b", "score": 0.300001}, {"label": "a", "score": 0.3}]}
    far = {"labels": [{"label": "b", "score": 0.4}, {"label": "a", "score": 0.2}]}
    assert compare("batch", [one], [other]).agreeing == 1
    assert compare("batch", [one], [other]).equal == 0
    assert compare("batch", [one], [far]).agreeing == 0


def test_not_a_number_is_like_itself_and_like_nothing_else() -> None:
    assert compare("batch", [{"v": math.nan}], [{"v": math.nan}]).agreeing == 1
    assert compare("batch", [{"v": math.nan}], [{"v": 0.0}]).agreeing == 0
    assert compare("batch", [{"v": math.inf}], [{"v": 0.0}]).agreeing == 0
