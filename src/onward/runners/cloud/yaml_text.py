"""Plain values as YAML, in the part of it that nobody reads differently.

Blocks by indentation, and every text that could be taken for something else (`no`, `1.0`, `~`) in double quotes. There
are no templates: values become text here only, so none of them can break out of its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[./_-][A-Za-z0-9]+)*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


def document(value: Mapping[str, Any], *, comment: str = "") -> str:
    """One YAML document; `comment` stands above it. Values are mappings, sequences, texts, numbers, booleans, None."""
    above = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return above + "\n".join(_mapping(value, "") or ["{}"]) + "\n"


def documents(values: Sequence[Mapping[str, Any]]) -> str:
    """Several documents in one text."""
    return "---\n".join(document(value) for value in values)


def _mapping(value: Mapping[str, Any], indent: str) -> list[str]:
    lines: list[str] = []
    for key, inner in value.items():
        head = f"{indent}{_scalar(key)}:"
        if isinstance(inner, Mapping) and inner:
            lines += [head, *_mapping(inner, indent + "  ")]
        elif isinstance(inner, list | tuple) and inner:
            lines += [head, *_sequence(inner, indent + "  ")]
        else:
            lines.append(f"{head} {_scalar(inner)}")
    return lines


def _sequence(values: Sequence[Any], indent: str) -> list[str]:
    lines: list[str] = []
    for value in values:
        nested: list[str] = []
        if isinstance(value, Mapping) and value:
            nested = _mapping(value, indent + "  ")
        elif isinstance(value, list | tuple) and value:
            nested = _sequence(value, indent + "  ")
        if nested:  # the first line takes the place of the dash's own
            lines += [f"{indent}- {nested[0].lstrip(' ')}", *nested[1:]]
        else:
            lines.append(f"{indent}- {_scalar(value)}")
    return lines


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        written = json.dumps(value, allow_nan=False)
        return written.replace("e", ".0e") if "e" in written and "." not in written else written
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
