"""Details in messages: order numbers, amounts, plans, mail addresses."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.dialogue.entities import find
from tests.unit.dialogue.talking import PROFILE, support

TODAY = datetime.date(2025, 11, 25)


def found(text: str, awaited: str = "") -> dict[str, list[tuple[Any, str]]]:
    values = find(text, support().definition.slots.values(), today=TODAY, profile=PROFILE, awaited=awaited)
    return {name: [(each.value, each.trouble) for each in some] for name, some in values.items()}


@pytest.mark.parametrize(
    "text", ["HR-20117", "hr 20117", "hr20117", "#20117", "order no. 20117", "my order 20117!", "20117"]
)
def test_an_order_number_is_found_however_it_is_written(text: str) -> None:
    assert found(text)["order"] == [("HR-20117", "")]


def test_an_order_of_somebody_else_is_found_and_refused() -> None:
    assert found("order 99999")["order"] == [("HR-99999", "unknown")]


def test_an_order_number_is_no_amount() -> None:
    assert "amount" not in found("refund order 20117", awaited="amount")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("€12", (12.0, "")), ("12,50 €", (12.5, "")), ("eur 12.50", (12.5, "")), ("20 euros", (20.0, "")),
        ("1,000,000 euros", (1_000_000.0, "too_large")), ("1.000,50 €", (1000.5, "too_large")),
        ("5 quid", (5.0, "currency")), ("$30", (30.0, "currency")), ("€1 million", (1_000_000.0, "too_large")),
        ("€0.01", (0.01, "too_small")), ("refund 1,000,000", (1_000_000.0, "too_large")),
    ],
)  # fmt: skip
def test_an_amount_has_its_value_and_what_is_wrong_with_it(text: str, wanted: tuple[float, str]) -> None:
    assert found(text)["amount"] == [wanted]


def test_a_bare_number_is_an_amount_only_where_one_was_asked_for() -> None:
    assert "amount" not in found("20 of them")
    assert found("20 is enough", awaited="amount")["amount"] == [(20.0, "")]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("the premium plan", ["premium"]), ("premuim pls", ["premium"]), ("startr", ["starter"]),
        ("from classic to premium", ["premium"]), ("premium instead of classic", ["premium"]),
        ("the cheapest plan", ["starter"]), ("the big one", ["premium"]),
    ],
)  # fmt: skip
def test_a_plan_is_found_with_slips_and_by_other_names(text: str, wanted: list[str]) -> None:
    assert [value for value, _ in found(text)["plan"]] == wanted


def test_a_mail_address_is_found_in_lower_case_and_is_nothing_else() -> None:
    assert found("it's Anna.20117@Mail.Example, thanks") == {"email": [("anna.20117@mail.example", "")]}


def test_a_day_that_has_passed_or_is_too_far_is_refused() -> None:
    assert found("until 2025-01-01")["until"] == [("2025-01-01", "past")]
    assert found("for two years")["until"] == [("2027-11-25", "far")]


@given(st.text(max_size=300), st.sampled_from(["", "amount", "order", "until", "address", "email", "plan"]))
def test_any_text_is_searched_without_an_error(text: str, awaited: str) -> None:
    for values in found(text, awaited).values():
        assert all(isinstance(value, str | float) for value, _ in values)
