"""What a message says of the slots: order numbers, amounts, plan names, dates, addresses of mail.

Pure: the text, the slots, today and the profile in; values out. What is found of one kind is not read again as another,
so that the number of an order never becomes an amount.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onward.dialogue.dates import find_dates
from onward.dialogue.records import Slot

#: Slots are looked for in this order; each takes its place out of the text.
_ORDER = ("email", "pattern", "date", "amount", "choice", "text")
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,4}\b", re.IGNORECASE)
_NUMBER = r"\d{1,3}(?:[,.' ]\d{3})+(?:[.,]\d{1,2})?|\d{1,9}(?:[.,]\d{1,2})?"
_CURRENCIES = {
    "€": "EUR", "eur": "EUR", "euro": "EUR", "euros": "EUR", "£": "GBP", "gbp": "GBP", "quid": "GBP", "pound": "GBP",
    "pounds": "GBP", "$": "USD", "usd": "USD", "dollar": "USD", "dollars": "USD", "bucks": "USD",
}  # fmt: skip
_UNIT = "|".join(map(re.escape, sorted(_CURRENCIES, key=len, reverse=True)))
_SCALE = r"(?:\s*(?P<scale>k|m|thousand|million)\b)?"
_AMOUNT = re.compile(
    rf"(?P<before>{_UNIT})\s*(?P<a>{_NUMBER}){_SCALE}|(?<![\d.,])(?P<b>{_NUMBER})(?:\s*(?P<scale_b>k|m|thousand|million))?"
    rf"\s*(?P<after>{_UNIT})(?!\w)"
)
_BARE = re.compile(rf"(?<![\w.,-])(?P<number>{_NUMBER})(?![\w-]){_SCALE}")
_SCALES = {"k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6}
_WORD = re.compile(r"[^\W_]+")
#: What stands before a name that is not meant: "from classic to premium", "not the classic".
_REJECTED = re.compile(r"\b(?:from|instead of|not|rather than|isn't)\s+(?:the\s+|my\s+|order\s+)?$")
_LIKE = 0.8
_LEAST_LETTERS = 5
_LONGEST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A value for a slot; `trouble` says why it cannot be it: "unknown", "too_large", "currency", "past", "far"."""

    value: Any
    trouble: str = ""


def find(
    text: str, slots: Iterable[Slot], *, today: datetime.date, profile: Mapping[str, Any], awaited: str = ""
) -> dict[str, list[Found]]:
    """The values of each slot in the order of the text; slots without any are left out.

    `awaited` is the slot that was asked for: a bare number is an amount then, and any text a text.
    """
    rest = text
    found: dict[str, list[Found]] = {}
    for slot in sorted(slots, key=lambda slot: _ORDER.index(slot.type)):
        places = list(_FINDERS[slot.type](slot, rest, today, slot.name == awaited))
        values = []
        for start, end, value in sorted(places, key=lambda place: place[0]):
            if slot.type not in ("choice", "pattern") or _REJECTED.search(rest[:start].lower()) is None:
                values.append(_judged(slot, value, today, profile))
            rest = rest[:start] + " " * (end - start) + rest[end:]
        if values:
            found[slot.name] = values
    return found


def _judged(slot: Slot, value: Any, today: datetime.date, profile: Mapping[str, Any]) -> Found:
    trouble = ""
    if slot.type == "amount":
        number, currency = value
        value = round(number, 2)
        if currency and slot.currency and currency != slot.currency:
            trouble = "currency"
        elif slot.maximum is not None and value > slot.maximum:
            trouble = "too_large"
        elif slot.minimum is not None and value < slot.minimum:
            trouble = "too_small"
    elif slot.type == "date":
        ahead = (value - today).days
        trouble = "past" if ahead < 0 else "far" if slot.max_days and ahead > slot.max_days else ""
        value = value.isoformat()
    elif slot.among:
        possible = profile.get(slot.among)
        if isinstance(possible, Sequence) and value not in possible:
            trouble = "unknown"
    return Found(value=value, trouble=trouble)


Places = Iterable[tuple[int, int, Any]]


def _emails(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    for found in _EMAIL.finditer(text):
        if len(found[0]) <= 254:
            yield found.start(), found.end(), found[0].lower()


def _patterns(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    if slot.pattern is not None:
        for found in slot.pattern.finditer(text):
            group = next((part for part in found.groups() if part), found[0])
            yield found.start(), found.end(), slot.form.replace("{}", group.upper()[:_LONGEST])


def _dates(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    return find_dates(text.lower(), today)


def _amounts(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    places = []
    for found in _AMOUNT.finditer(text.lower()):
        number = _number(found["a"] or found["b"], found["scale"] or found["scale_b"])
        if re.search(r"(?<!\d)-\s?$", text[: found.start()]):
            number = -number  # too small for whatever is asked, and not to be read as if it were more
        places.append((found.start(), found.end(), (number, _CURRENCIES[found["before"] or found["after"]])))
    if not places:
        for found in _BARE.finditer(text.lower()):
            number = _number(found["number"], found["scale"])
            # Without a currency only what was asked for, or what nobody would take for a count or a year.
            if awaited or re.search(r"\brefund\w*\s+(?:me\s+)?$", text[: found.start()].lower()):
                places.append((found.start(), found.end(), (number, "")))
    return places


def _number(written: str, scale: str | None) -> float:
    digits = re.sub(r"[' ]", "", written)
    cents = re.search(r"[.,](\d{1,2})$", digits)
    whole = re.sub(r"[.,]", "", digits[: cents.start()] if cents else digits)
    return float(f"{whole or '0'}.{cents[1] if cents else '0'}") * _SCALES.get(scale or "", 1.0)


def _choices(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    folded = text.lower()
    places: list[tuple[int, int, Any]] = []
    for value, aliases in slot.names.items():
        for alias in (value, *aliases):
            places += [(at.start(), at.end(), value) for at in re.finditer(rf"\b{re.escape(alias)}\b", folded)]
    known = {alias: value for value, aliases in slot.names.items() for alias in (value, *aliases) if " " not in alias}
    for word in _WORD.finditer(folded):
        taken = any(start <= word.start() < end for start, end, _ in places)
        near = difflib.get_close_matches(word[0], known, n=1, cutoff=_LIKE)
        if near and not taken and len(word[0]) >= _LEAST_LETTERS:
            places.append((word.start(), word.end(), known[near[0]]))
    places.sort(key=lambda place: (place[0], -place[1]))
    return [place for at, place in enumerate(places) if at == 0 or place[0] >= places[at - 1][1]]


def _texts(slot: Slot, text: str, today: datetime.date, awaited: bool) -> Places:
    limit = int(slot.maximum or 200)
    if slot.pattern is not None and (found := slot.pattern.search(text)) is not None:
        group = next((part for part in found.groups() if part), found[0]).strip(" .")
        if group:
            yield found.start(), found.end(), group[:limit]
    elif awaited and len(text.strip()) >= int(slot.minimum or 1):
        yield 0, len(text), text.strip()[:limit]


_FINDERS = {
    "email": _emails, "pattern": _patterns, "date": _dates, "amount": _amounts, "choice": _choices, "text": _texts,
}  # fmt: skip
