"""Values of a manifest changed in its text: comments, order and everything else stay as their author wrote them.

A text whose form is beyond this is refused, never changed into something else: what comes out is read again, and must
differ from what went in by exactly the values asked for.
"""

from __future__ import annotations

import copy
import re
import tomllib
from typing import Any

from onward.errors import ManifestError
from onward.package.manifest import MANIFEST_FILE
from onward.package.manifest_text import toml_value
from onward.package.toml_lines import toml_lines

_VALUE = r"""("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,}#]+)"""


def changed(text: str, values: dict[str, int | str]) -> str:
    """The text with `section.key` → value set, each in its place, or where it would stand. Raises `ManifestError`."""
    wanted = tomllib.loads(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    made = text.replace("\r\n", "\n")
    for path, value in reversed(values.items()):  # each goes to the top of its table: so they stand in their order
        section, key = path.split(".")
        table = wanted.setdefault(section, {})
        if table.get(key) == value:
            continue
        table[key] = value
        made = _set(made, section, key, toml_value(value))
    if not _same(made, wanted):
        raise ManifestError(
            "cannot be changed without changing more than that", where=MANIFEST_FILE,
            expected=f"to be written by hand: {', '.join(f'{path} = {value}' for path, value in values.items())}",
        )  # fmt: skip
    return made.replace("\n", newline)


def _same(text: str, wanted: Any) -> bool:
    try:
        return bool(tomllib.loads(text) == copy.deepcopy(wanted))
    except tomllib.TOMLDecodeError:
        return False


def _set(text: str, section: str, key: str, value: str) -> str:
    places, lines = toml_lines(text), text.split("\n")
    if (number := places.get(f"{section}.{key}")) is not None:
        lines[number - 1] = re.sub(
            rf"(?<![\w-])({key}\s*=\s*){_VALUE}", lambda found: found[1] + value, lines[number - 1], count=1
        )
        return "\n".join(lines)
    number = places.get(section)
    # A table may also be there by its own tables only; then it has a place of its own, too.
    if number is None or re.match(rf"\s*\[\s*{section}\s*\.", lines[number - 1]):
        body = text.rstrip("\n")
        return f"{body}\n\n[{section}]\n{key} = {value}\n"
    line = lines[number - 1]
    if re.match(rf"\s*\[\s*{section}\s*\]", line):
        lines.insert(number, f"{key} = {value}")
    elif re.match(rf"\s*{section}\s*\.", line):
        lines.insert(number, f"{section}.{key} = {value}")
    else:
        comma = "" if re.search(r"\{\s*\}", line) else ","
        lines[number - 1] = re.sub(r"\{\s*", f"{{ {key} = {value}{comma} ", line, count=1)
    return "\n".join(lines)
