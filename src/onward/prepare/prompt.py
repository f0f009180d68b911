"""From an item to what a language model is asked: a conversation as it is, or a message made of the item's values.

Runs no model and knows no chat template: how messages become tokens is the engine's affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from onward.errors import InputError, OutOfRange, TooLarge, WrongDatatype
from onward.package.records import Manifest, PromptStep
from onward.prepare.fields import ItemNames, describe, field_array, shown, value_of
from onward.types import Field, Item, Prompt, Sampling

ROLES = ("system", "user", "assistant", "tool")
_PLACE = re.compile(r"\{(\w+)\}")
_MAX_SEED = (1 << 32) - 1


class PromptPreparation:
    """The step `prompt` of one package. An input named as a value of `[sampling]` sets it for its request."""

    def __init__(self, manifest: Manifest) -> None:
        step = next((step for step in manifest.prepare if isinstance(step, PromptStep)), None)
        self._step = step if step is not None else PromptStep(messages=_only_chat(manifest.inputs))
        self._fields = {field.name: field for field in manifest.inputs}
        self._names = ItemNames(manifest.inputs)
        self._sampling = manifest.sampling
        self._max_characters = manifest.limits.characters

    def complete(self, item: Item) -> dict[str, Any]:
        """The item with its defaults, each value checked. Raises `InputError`."""
        self._names.check(item)
        values: dict[str, Any] = {}
        for name, field in self._fields.items():
            value = value_of(field, item)
            if value is not None:
                values[name] = _messages(field, value) if field.content == "chat" else _value(field, value)
        return values

    def __call__(self, values: Mapping[str, Any]) -> Prompt:
        """What the model is asked for an item that is `complete`. Raises `TooLarge`, `OutOfRange`."""
        step = self._step
        system = ({"role": "system", "content": _filled(step.system, values)},) if step.system else ()
        if step.messages:
            messages = tuple(values.get(step.messages, ()))
            if messages and messages[0]["role"] == "system":
                system = ()
        else:
            messages = ({"role": "user", "content": _filled(step.template, values)},)
        messages = (*system, *messages)
        characters = sum(len(_said(message)) for message in messages)
        if characters > self._max_characters:
            raise TooLarge(
                "the text is too long", where=step.messages, found=f"{characters} characters",
                expected=f"at most {self._max_characters} characters",
            )  # fmt: skip
        return Prompt(messages=messages, sampling=self._picking(values))

    def _picking(self, values: Mapping[str, Any]) -> Sampling:
        asked = {name: check(name, values[name]) for name, check in _SETTABLE.items() if name in values}
        return replace(self._sampling, **asked)


def _only_chat(fields: Sequence[Field]) -> str:
    return next((field.name for field in fields if field.content == "chat"), "")


def _value(field: Field, value: Any) -> Any:
    array = field_array(field, value)
    plain = array.tolist() if array.dtype != object else _texts(array.tolist())
    if field.categories and plain not in field.categories:
        raise InputError(where=field.name, expected=describe(field), found=shown(value))
    return plain


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(element) for element in value]
    return value.decode("utf-8", "replace")


def _messages(field: Field, value: Any) -> list[Mapping[str, Any]]:
    expected = 'a list of messages, {"role": "user", "content": "…"}, oldest first'
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list | tuple) or not value:
        raise WrongDatatype(where=field.name, expected=expected, found=shown(value))
    for at, message in enumerate(value):
        where = f"{field.name}[{at}]"
        if not isinstance(message, Mapping):
            raise WrongDatatype(where=where, expected=expected, found=shown(message))
        if message.get("role") not in ROLES:
            found = shown(message.get("role"))
            raise InputError(where=f"{where}.role", expected=f"one of {', '.join(ROLES)}", found=found)
        if not isinstance(message.get("content"), str):
            raise WrongDatatype(where=f"{where}.content", expected="a text", found=shown(message.get("content")))
    return [dict(message) for message in value]


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """A template with the item's values; what stands in braces and is no input stays as it is."""

    def said(match: re.Match[str]) -> str:
        if match[1] not in values:
            return match[0]
        value = values[match[1]]
        return "\n".join(map(str, value)) if isinstance(value, list) else str(value)

    return _PLACE.sub(said, template).strip()


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _between(lowest: float, highest: float) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if isinstance(value, list) or not lowest <= value <= highest:
            raise OutOfRange(where=name, expected=f"{lowest:g} to {highest:g}", found=shown(value))
        return value

    return check


def _stops(name: str, value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


_SETTABLE: Mapping[str, Callable[[str, Any], Any]] = {
    "max_tokens": _between(1, 1 << 20),
    "temperature": _between(0.0, 2.0),
    "top_p": _between(0.0, 1.0),
    "top_k": _between(0, 1 << 20),
    "min_p": _between(0.0, 1.0),
    "presence_penalty": _between(-2.0, 2.0),
    "frequency_penalty": _between(-2.0, 2.0),
    "repeat_penalty": _between(0.0, 2.0),
    "seed": _between(0, _MAX_SEED),
    "stop": _stops,
}
