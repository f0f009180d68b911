"""Dates in English words: absolute, relative, and durations from today. Pure: today is the caller's.

Where a day without a year or month has passed, the next one is meant; numbers like 3/4 are day first.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Callable, Iterator

_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "a couple of": 2, "couple of": 2, "a few": 3,
}  # fmt: skip
_DAY_NAMES = {short: at for at, day in enumerate(_DAYS) for short in (day, day[:3])} | {
    "tues": 1, "wensday": 2, "wedensday": 2, "thur": 3, "thurs": 3,
}  # fmt: skip
_MONTH_NAMES = {short: at for at, month in enumerate(_MONTHS, 1) for short in (month, month[:3])} | {
    "sept": 9, "febuary": 2,
}  # fmt: skip


def _either(words: object) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))  # type: ignore[call-overload]


_DAY_NAME, _MONTH_NAME = _either(_DAY_NAMES), _either(_MONTH_NAMES)
_COUNT = rf"(?P<count>\d{{1,3}}|{_either(_NUMBERS)})"
_NTH = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
Maker = Callable[["re.Match[str]", datetime.date], "datetime.date | None"]


def find_dates(text: str, today: datetime.date) -> Iterator[tuple[int, int, datetime.date]]:
    """Each date of a text in lower case, with where it begins and ends; impossible ones are left out."""
    taken = [False] * len(text)
    for pattern, make in _PATTERNS:
        for found in pattern.finditer(text):
            start, end = found.span()
            if any(taken[start:end]):
                continue
            try:
                date = make(found, today)
            except (ValueError, OverflowError):  # the 31st of February
                continue
            if date is not None:
                taken[start:end] = [True] * (end - start)
                yield start, end, date


def add_months(date: datetime.date, months: int) -> datetime.date:
    """The same day so many months on, or the last of a shorter month."""
    year, month = divmod(date.year * 12 + date.month - 1 + months, 12)
    return datetime.date(year, month + 1, min(date.day, calendar.monthrange(year, month + 1)[1]))


def _iso(found: re.Match[str], today: datetime.date) -> datetime.date:
    return datetime.date(int(found["year"]), int(found["month"]), int(found["day"]))


def _numeric(found: re.Match[str], today: datetime.date) -> datetime.date:
    day, month = int(found["day"]), int(found["month"])
    if not found["year"]:
        return _coming(today, month, day)
    year = int(found["year"])
    return datetime.date(year + 2000 if year < 100 else year, month, day)


def _named(found: re.Match[str], today: datetime.date) -> datetime.date:
    month, day = _MONTH_NAMES[found["name"]], int(found["day"])
    return datetime.date(int(found["year"]), month, day) if found["year"] else _coming(today, month, day)


def _coming(today: datetime.date, month: int, day: int) -> datetime.date:
    date = datetime.date(today.year, month, day)
    return date if date >= today else datetime.date(today.year + 1, month, day)


def _month_only(found: re.Match[str], today: datetime.date) -> datetime.date:
    return _coming(today, _MONTH_NAMES[found["name"]], 1)


def _relative(found: re.Match[str], today: datetime.date) -> datetime.date:
    word = found["word"]
    return today + datetime.timedelta(days=2 if word.startswith("day after") else 0 if word in _TODAY else 1)


def _weekday(found: re.Match[str], today: datetime.date) -> datetime.date:
    ahead = (_DAY_NAMES[found["name"]] - today.weekday()) % 7 or 7
    # "next Monday" on a Wednesday is the coming one, "next Friday" on it that of the week after.
    if found["which"] == "next" and today.weekday() + ahead < 7:
        ahead += 7
    return today + datetime.timedelta(days=ahead)


def _span(found: re.Match[str], today: datetime.date) -> datetime.date:
    word = found["count"]
    count = int(word) if word.isdigit() else _NUMBERS[word]
    unit = found["unit"]
    if unit.startswith(("month", "mth")):
        return add_months(today, count)
    if unit.startswith("year"):
        return add_months(today, 12 * count)
    return today + datetime.timedelta(days=count * (7 if unit.startswith("w") else 1))


def _next_span(found: re.Match[str], today: datetime.date) -> datetime.date:
    if found["unit"] == "week":
        return today + datetime.timedelta(days=7 - today.weekday())
    if found["unit"] == "year":
        return datetime.date(today.year + 1, 1, 1)
    return add_months(today.replace(day=1), 1)


def _end(found: re.Match[str], today: datetime.date) -> datetime.date:
    if found["unit"] == "year":
        return datetime.date(today.year, 12, 31)
    if found["unit"] == "week":
        return today + datetime.timedelta(days=6 - today.weekday())
    return add_months(today.replace(day=1), 1) - datetime.timedelta(days=1)


def _day_only(found: re.Match[str], today: datetime.date) -> datetime.date | None:
    day = int(found["day"])
    for months in range(3):
        first = add_months(today.replace(day=1), months)
        if day <= calendar.monthrange(first.year, first.month)[1] and first.replace(day=day) >= today:
            return first.replace(day=day)
    return None


_TODAY = frozenset({"today", "2day", "now", "right now", "immediately", "straight away"})
_TOMORROW = ("tomorrow", "tomorow", "tommorow", "tommorrow", "tmrw", "tmw", "2moro", "2morrow")
_YEAR = r"(?:,?\s+(?P<year>20\d\d))?"
_PATTERNS: tuple[tuple[re.Pattern[str], Maker], ...] = (
    (re.compile(r"\b(?P<year>20\d\d)-(?P<month>\d\d?)-(?P<day>\d\d?)\b"), _iso),
    (re.compile(r"(?<![\d.,€$£])(?P<day>\d\d?)[./](?P<month>\d\d?)(?:[./](?P<year>20\d\d|\d\d))(?!\d)"), _numeric),
    (re.compile(r"(?<![\d.,€$£])(?P<day>\d\d?)/(?P<month>\d\d?)(?P<year>)(?![\d/])"), _numeric),
    (re.compile(rf"\b{_NTH}(?:\s+of)?\s+(?P<name>{_MONTH_NAME})\b{_YEAR}"), _named),
    (re.compile(rf"\b(?P<name>{_MONTH_NAME})\s+(?:the\s+)?{_NTH}\b{_YEAR}"), _named),
    (re.compile(rf"\b(?P<word>day after tomorrow|{_either(_TOMORROW)}|{_either(_TODAY)})\b"), _relative),
    (re.compile(r"\b(?:the\s+)?end of (?:the |this )?(?P<unit>week|month|year)\b"), _end),
    (
        re.compile(
            rf"\b(?:in|for)\s+(?:about\s+|another\s+)?{_COUNT}\s+(?P<unit>days?|weeks?|wks?|months?|mths?|years?)\b"
        ),
        _span,
    ),
    (re.compile(rf"\b{_COUNT}\s+(?P<unit>days?|weeks?|wks?|months?|mths?)\b(?!\s+ago)"), _span),
    (re.compile(r"\bnext (?P<unit>week|month|year)\b"), _next_span),
    (re.compile(rf"\b(?:(?P<which>next|this|on|coming|until|till|til|by)\s+)(?P<name>{_DAY_NAME})\b"), _weekday),
    (re.compile(rf"^(?P<which>)(?P<name>{_DAY_NAME})$"), _weekday),
    (re.compile(rf"\b(?:in|until|till|til|by|from|next)\s+(?P<name>{_MONTH_NAME})\b"), _month_only),
    (re.compile(rf"^(?P<name>{_MONTH_NAME})$"), _month_only),
    (re.compile(r"\bthe (?P<day>\d{1,2})(?:st|nd|rd|th)\b"), _day_only),
)
