"""What is said: the texts of `dialogue.toml`, chosen by key, language and profile, with their values filled in.

A text whose values are not all there is passed over, so that a more particular one may stand before a general one.
"""

from __future__ import annotations

import datetime
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onward.dialogue.records import Definition, Say

_SYMBOLS = {"EUR": "€", "GBP": "£", "USD": "$"}
_AND = {"en": "and", "de": "und", "fr": "et", "es": "y"}
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_LONGEST_VALUE = 600


class _Missing(Exception):
    """A value that the text needs is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """The texts for one reply. `values`: slots, `options`, `limit`; maps profile, arguments, receipt, article."""

    definition: Definition
    values: Mapping[str, Any]

    def say(self, *keys: str) -> str:
        """The text of the first key that has a fitting one; "" where none has."""
        for key in keys:
            for say in self._ordered(key):
                try:
                    return self._filled(say.text)
                except _Missing:
                    continue
        return ""

    @property
    def language(self) -> str:
        """The customer's language where the dialogue has it, else its own."""
        profile = self.values.get("profile") or {}
        wanted = str(profile.get("language") or self.definition.settings.language)[:2].lower()
        return wanted

    def _ordered(self, key: str) -> Iterable[Say]:
        profile = self.values.get("profile") or {}
        fitting = [
            say
            for say in self.definition.says.get(key, ())
            if say.language in ("", self.language)
            and all(profile.get(name) == value for name, value in say.when.items())
        ]
        return sorted(fitting, key=lambda say: not say.language)

    def _filled(self, text: str) -> str:
        parts = []
        for literal, name, _, _ in string.Formatter().parse(text):
            parts.append(literal)
            if name is not None:
                parts.append(self._shown(name))
        return "".join(parts)

    def _shown(self, field: str) -> str:
        name, _, style = field.partition("|")
        value: Any = self.values
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None or value == "" or (isinstance(value, Sequence) and not value):
            raise _Missing
        if style == "money":
            return self._money(name, value)
        if style == "date":
            return self._date(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return _listed([str(part) for part in value], _AND.get(self.language, "and"))
        return str(value)[:_LONGEST_VALUE]

    def _money(self, name: str, value: Any) -> str:
        slot = self.definition.slots.get(name)
        currencies = [each.currency for each in self.definition.slots.values() if each.currency]
        currency = slot.currency if slot is not None and slot.currency else (currencies or ["EUR"])[0]
        try:
            number = f"{float(value):,.2f}".removesuffix(".00")
        except (TypeError, ValueError):
            raise _Missing from None
        return f"{_SYMBOLS.get(currency, currency + ' ')}{number}"

    def _date(self, value: Any) -> str:
        try:
            day = (
                datetime.datetime.fromtimestamp(value, datetime.UTC).date()
                if isinstance(value, int | float) else datetime.date.fromisoformat(str(value)[:10])
            )  # fmt: skip
        except (ValueError, OverflowError, OSError):
            raise _Missing from None
        if self.language == "de":
            return f"{day.day}.{day.month}.{day.year}"
        return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _listed(words: Sequence[str], joint: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
