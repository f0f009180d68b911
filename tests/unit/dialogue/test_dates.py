"""Dates in words, from Wednesday 25 November 2026."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.dialogue.dates import add_months, find_dates

TODAY = datetime.date(2026, 11, 25)


def first(text: str) -> str:
    return next((date.isoformat() for _, _, date in find_dates(text, TODAY)), "")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("until 2026-12-24 please", "2026-12-24"),
        ("on 1/12", "2026-12-01"),
        ("1.2.2027", "2027-02-01"),
        ("until the 3rd of january", "2027-01-03"),
        ("march 5th", "2027-03-05"),
        ("24 december 2026", "2026-12-24"),
        ("tomorrow", "2026-11-26"),
        ("the day after tomorrow", "2026-11-27"),
        ("tmrw pls", "2026-11-26"),
        ("next monday", "2026-11-30"),
        ("next friday", "2026-12-04"),
        ("this friday", "2026-11-27"),
        ("until monday", "2026-11-30"),
        ("in two weeks", "2026-12-09"),
        ("for 3 days", "2026-11-28"),
        ("for a couple of months", "2027-01-25"),
        ("3 months", "2027-02-25"),
        ("next month", "2026-12-01"),
        ("end of the month", "2026-11-30"),
        ("until the end of the year", "2026-12-31"),
        ("till february", "2027-02-01"),
        ("the 20th", "2026-12-20"),
        ("by the 30th", "2026-11-30"),
    ],
)
def test_a_date_in_words_is_the_day_that_is_meant(text: str, wanted: str) -> None:
    assert first(text) == wanted


@pytest.mark.parametrize("text", ["31.2.2027", "2026-13-01", "two bags", "I may come", "€12.50", "3 weeks ago", ""])
def test_what_is_no_date_is_none(text: str) -> None:
    assert first(text) == ""


def test_a_shorter_month_has_its_last_day() -> None:
    assert add_months(datetime.date(2027, 1, 31), 1) == datetime.date(2027, 2, 28)


@given(st.text(max_size=200), st.dates())
def test_any_text_on_any_day_is_read_without_an_error(text: str, today: datetime.date) -> None:
    for start, end, date in find_dates(text.lower(), today):
        assert 0 <= start < end <= len(text.lower()) and isinstance(date, datetime.date)
