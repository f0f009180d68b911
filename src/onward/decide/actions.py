"""What an action may be asked to do: its typed arguments, when a person must approve, and what undoes it.

An action type says nothing of where the action goes: that is the operator's to allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast

from onward.decide.expressions import matcher
from onward.errors import ArgumentRefused
from onward.package.sections import suggestion

ArgumentKind: TypeAlias = Literal["number", "integer", "boolean", "string"]
ARGUMENT_KINDS: tuple[ArgumentKind, ...] = ("number", "integer", "boolean", "string")
MAX_LENGTH = 1000
"""Characters of a string argument, unless the policy says otherwise."""
SAFE_INTEGER = (1 << 53) - 1
"""The largest integer that every reader of JSON holds exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One typed argument of an action. `minimum` and `maximum` bound numbers, the lengths and the pattern strings."""

    name: str
    type: ArgumentKind
    required: bool = True
    private: bool = False
    default: float | int | str | bool | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int = 0
    max_length: int = MAX_LENGTH
    pattern: str = ""
    enum: tuple[float | int | str | bool, ...] = ()
    description: str = ""

    def check(self, value: Any) -> float | int | str | bool:
        """The value as the declared type. Raises `ArgumentRefused`."""
        if self.type == "boolean":
            if not isinstance(value, bool):
                raise self._refused("true or false", value)
        elif self.type == "string":
            self._check_text(value)
        else:
            value = self._checked_number(value)
        if self.enum and value not in self.enum:
            raise self._refused(f"one of {', '.join(map(str, self.enum))}", value)
        return cast("float | int | str | bool", value)

    def _check_text(self, value: Any) -> None:
        if not isinstance(value, str):
            raise self._refused("a string", value)
        if not self.min_length <= len(value) <= self.max_length:
            raise self._refused(f"{self.min_length} to {self.max_length} characters", f"{len(value)} characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self._refused("valid Unicode text", ascii(value)) from None
        if self.pattern and not matcher(self.pattern)(value):
            raise self._refused(f"text like {self.pattern}", value)

    def _checked_number(self, value: Any) -> float | int:
        expected = "an integer" if self.type == "integer" else "a finite number"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._refused(expected, value)
        if self.type == "integer":
            if isinstance(value, float) and not value.is_integer():
                raise self._refused(expected, value)
            value = int(value)
            if abs(value) > SAFE_INTEGER:
                raise self._refused(f"{expected} of at most 53 bits", value)
        else:
            value = float(value)
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if not low <= value <= high:
            raise self._refused(f"{expected} from {low:g} to {high:g}", value)
        return cast("float | int", value)

    def _refused(self, expected: str, found: Any) -> ArgumentRefused:
        shown = "a private value" if self.private else str(found)
        return ArgumentRefused(where=self.name, expected=expected, found=shown[:80])


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionType:
    """An action that a policy may ask for. `approval` is the CEL condition under which a person must approve."""

    name: str
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    description: str = ""
    approval: str = ""
    approval_expires_s: float = 86_400.0
    compensation: str = ""

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as they may be passed on: all declared, each of its type, defaults filled in.

        Raises `ArgumentRefused` naming the argument: unknown, missing, of another type, out of range, too long, NaN.
        """
        for name in arguments:
            if name not in self.arguments:
                found = f'"{str(name)[:80]}"{suggestion(str(name)[:80], self.arguments)}'
                expected = f"one of {', '.join(self.arguments)}" if self.arguments else "no arguments"
                raise ArgumentRefused(f'"{self.name}" has no such argument', expected=expected, found=found)
        checked: dict[str, Any] = {}
        for name, argument in self.arguments.items():
            value = arguments.get(name)
            if value is None:
                value = argument.default
            if value is not None:
                checked[name] = argument.check(value)
            elif argument.required:
                raise ArgumentRefused("missing", where=name, expected=f"a {argument.type}")
        return checked
