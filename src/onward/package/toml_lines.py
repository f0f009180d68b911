"""Where each key of a TOML text stands: key path → line number.

`tomllib` gives values without positions, and an error without a line costs its reader a search. This scanner
walks a text that `tomllib` has already accepted, so it only has to find keys, not to judge them. It knows nothing
of manifests.
"""

from __future__ import annotations

import re
from bisect import bisect_right

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SHORT_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def toml_lines(text: str) -> dict[str, int]:
    """Map every key path of a valid TOML text to its line, counted from 1.

    Paths read `batching.pad.input_ids` and, for elements of arrays and arrays of tables, `input[2].datatype`;
    indices count from 0. Tables and array elements have paths of their own.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._lines: dict[str, int] = {}
        self._table_counts: dict[str, int] = {}

    def scan(self) -> dict[str, int]:
        prefix = ""
        self._skip(_SPACE_AND_COMMENTS)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                prefix = self._header()
            else:
                self._pair(prefix)
            self._skip(_SPACE_AND_COMMENTS)
        return self._lines

    def _header(self) -> str:
        array = self._text.startswith("[[", self._at)
        start = self._at
        self._at += 2 if array else 1
        keys = self._keys()
        self._at += 2 if array else 1
        path = ""
        for position, key in enumerate(keys):
            path = _join(path, key)
            if array and position == len(keys) - 1:
                self._table_counts[path] = self._table_counts.get(path, 0) + 1
            if path in self._table_counts:
                self._record(path, start)
                path = f"{path}[{self._table_counts[path] - 1}]"
            self._record(path, start)
        return path

    def _pair(self, prefix: str) -> None:
        start = self._at
        path = prefix
        for key in self._keys():
            path = _join(path, key)
            self._record(path, start)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _value(self, path: str) -> None:
        opening = self._text[self._at : self._at + 1]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        elif opening in ('"', "'"):
            self._string()
        else:
            self._skip(_SCALAR)

    def _array(self, path: str) -> None:
        self._at += 1
        self._skip(_SPACE_AND_COMMENTS)
        index = 0
        while not self._text.startswith("]", self._at):
            self._record(f"{path}[{index}]", self._at)
            self._value(f"{path}[{index}]")
            index += 1
            self._skip_comma()
        self._at += 1

    def _inline_table(self, path: str) -> None:
        self._at += 1
        self._skip(_SPACE_AND_COMMENTS)
        while not self._text.startswith("}", self._at):
            self._pair(path)
            self._skip_comma()
        self._at += 1

    def _skip_comma(self) -> None:
        self._skip(_SPACE_AND_COMMENTS)
        if self._text.startswith(",", self._at):
            self._at += 1
            self._skip(_SPACE_AND_COMMENTS)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                quoted = self._string()
                keys.append(_unescape(quoted[1:-1]) if quoted[0] == '"' else quoted[1:-1])
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            found = pattern.match(self._text, self._at)
            if found is not None:
                self._at = found.end()
                return found[0]
        raise ValueError(f"no string at offset {self._at}")

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"unexpected character at offset {self._at}")
        self._at = found.end()
        return found[0]

    def _record(self, path: str, offset: int) -> None:
        self._lines.setdefault(path, bisect_right(self._starts, offset))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unescape(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code = found[1] or found[2]
        return chr(int(code, 16)) if code else _SHORT_ESCAPES.get(found[3], found[3])

    return _ESCAPED.sub(character, text)
