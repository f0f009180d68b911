"""An action takes the arguments it declares, of their types and within their bounds, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.decide.actions import ActionType, Argument
from onward.errors import ArgumentRefused

ACTION = ActionType(
    name="refund",
    arguments={
        argument.name: argument
        for argument in (
            Argument(name="order", type="string", min_length=2, max_length=8, pattern="[A-Z]{2}[0-9]*"),
            Argument(name="amount", type="number", minimum=0.0, maximum=100.0),
            Argument(name="days", type="integer", default=3, minimum=1.0),
            Argument(name="urgent", type="boolean", required=False),
            Argument(name="plan", type="string", required=False, enum=("basic", "pro"), private=True),
        )
    },
)
GOOD = {"order": "AB12", "amount": 5.5}


def test_what_fits_passes_with_its_types_and_the_defaults() -> None:
    checked = ACTION.check(GOOD | {"amount": 5, "days": 2.0, "plan": "pro", "urgent": False})
    assert checked == {"order": "AB12", "amount": 5.0, "days": 2, "urgent": False, "plan": "pro"}
    assert [type(value) for value in checked.values()] == [str, float, int, bool, str]
    assert ACTION.check(GOOD) == GOOD | {"days": 3}
    assert ACTION.check(checked) == checked


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"reason": "x"}, '"refund" has no such argument'),
    "missing": ({"order": None}, "order: missing"),
    "text for a number": ({"amount": "5"}, "amount: "),
    "boolean for a number": ({"amount": True}, "amount: "),
    "NaN": ({"amount": math.nan}, "amount: "),
    "infinity": ({"amount": math.inf}, "amount: "),
    "too much": ({"amount": 1_000_000}, "expected a finite number from 0 to 100; found 1000000"),
    "too little": ({"amount": -0.01}, "amount: "),
    "a half day": ({"days": 2.5}, "days: "),
    "no day": ({"days": 0}, "days: "),
    "beyond 53 bits": ({"days": 2**53}, "days: "),
    "too long": ({"order": "AB" + "1" * 7}, "2 to 8 characters; found 9 characters"),
    "too short": ({"order": "A"}, "order: "),
    "another pattern": ({"order": "ab12"}, "order: "),
    "a line more": ({"order": "AB12\n"}, "order: "),
    "no Unicode": ({"order": "AB\ud800"}, "order: "),
    "a number for text": ({"order": 12}, "order: "),
    "text for a boolean": ({"urgent": "yes"}, "urgent: "),
    "one for a boolean": ({"urgent": 1}, "urgent: "),
    "none of the choices": ({"plan": "gold"}, "plan: "),
    "a list": ({"order": ["AB12"]}, "order: "),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentRefused) as caught:
        ACTION.check(GOOD | given)
    assert said in str(caught.value)
    assert caught.value.code == "ARGUMENT_REFUSED"


def test_a_private_value_is_not_shown_by_its_refusal() -> None:
    with pytest.raises(ArgumentRefused) as caught:
        ACTION.check(GOOD | {"plan": "secret"})
    assert "secret" not in str(caught.value)


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
likely = st.sampled_from(["AB12", "XY", "pro", 5.0, 2, True])


@given(st.dictionaries(st.sampled_from(["other", "days", "urgent", "plan"]), values | likely, max_size=2),
       st.fixed_dictionaries({"order": likely | values, "amount": likely | st.floats(0, 200)}))  # fmt: skip
def test_arguments_either_pass_within_their_bounds_or_are_refused(
    others: dict[str, Any], given: dict[str, Any]
) -> None:
    try:
        checked = ACTION.check(given | others)
    except ArgumentRefused:
        return
    assert 0.0 <= checked["amount"] <= 100.0
    assert 2 <= len(checked["order"]) <= 8
    assert checked.keys() <= ACTION.arguments.keys()
