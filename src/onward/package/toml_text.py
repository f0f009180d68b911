"""TOML text → values, for text that nobody vouches for: what `tomllib` would take hours or gigabytes for is refused.

A key of n dotted parts costs `tomllib` n² steps, and nothing it reads needs more than a few. Knows no manifests.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_KEY_PARTS = 16
MAX_WORD_LENGTH = 1024
"""Characters of a number or bare key."""

# Strings and comments. What begins a string without an end ends the search: three quotes, too, which would otherwise be
# an empty string and one more beginning, and each time they are there the text would be looked through to its end.
_APART = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']|'(?!''))*+'{3,5}"
    r"|(?P<open>\"{3}|'{3})"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|#[^\n]*+"
    r"|(?P<alone>[\"'])",
    re.DOTALL,
)
# Both begin where a word does: looked for from every character on, they would be what they are against.
_DEEP = re.compile(rf"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]++[ \t]*+\.[ \t]*+){{{MAX_KEY_PARTS}}}")
_LONG = re.compile(rf"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{{{MAX_WORD_LENGTH + 1}}}")


def load_toml(text: str) -> dict[str, Any]:
    """The values of a TOML text. Raises `tomllib.TOMLDecodeError`; `RecursionError` where values are nested deeply."""
    bare = _without_strings(text)
    if _DEEP.search(bare):
        raise tomllib.TOMLDecodeError(f"a key has more than {MAX_KEY_PARTS} dotted parts")
    if _LONG.search(bare):
        raise tomllib.TOMLDecodeError(f"a number or key has more than {MAX_WORD_LENGTH} characters")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError as error:  # of a number, for one
        raise tomllib.TOMLDecodeError(str(error)) from None


def _without_strings(text: str) -> str:
    """The text with a letter for each string and without comments, as far as its strings have ends."""
    pieces: list[str] = []
    start = 0
    for found in _APART.finditer(text):
        pieces.append(text[start : found.start()])
        if found.lastgroup is not None:
            return "".join(pieces)  # tomllib says where it is; it does not read on either
        pieces.append("" if found[0].startswith("#") else "S")
        start = found.end()
    pieces.append(text[start:])
    return "".join(pieces)
