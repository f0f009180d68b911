"""Typed reading of TOML tables that collects every problem with its line, instead of stopping at the first.

Knows TOML's values and how to word a problem; knows nothing of what a manifest means.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from onward.errors import ManifestError
from onward.package.records import place
from onward.package.toml_lines import toml_lines
from onward.package.toml_text import load_toml

TEXT_LIMIT_BYTES = 1 << 20
MOST_ELEMENTS = 1 << 31
"""Of one item's tensor."""

_TOML_NAMES: Mapping[type, str] = {
    str: "text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "an array",
    dict: "a table",
}
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_NOT_PORTABLE = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]')


class ManifestProblems(ManifestError):
    """The manifest has several problems."""

    def __init__(self, problems: Sequence[ManifestError], *, file: str) -> None:
        listing = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"{len(problems)} problems:{listing}", where=file)
        self.problems = tuple(problems)


class Document:
    """A TOML text with the places of its keys, and the problems found so far."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[ManifestError] = []
        if len(text) > TEXT_LIMIT_BYTES:
            raise ManifestError("the text is too long", where=file, expected=f"at most {TEXT_LIMIT_BYTES} characters")
        try:
            self.values: dict[str, Any] = load_toml(text)
            self.lines = toml_lines(text.replace("\r\n", "\n"))
        except tomllib.TOMLDecodeError as error:
            raise _syntax_error(str(error), text, file) from None
        except RecursionError:
            raise ManifestError("arrays or tables are nested too deeply", where=file) from None

    def problem(self, key: str, message: str, *, expected: str = "", found: str = "") -> None:
        """Note a problem with `key`."""
        where = place(self.file, self.lines, key)
        self.problems.append(ManifestError(message, where=where, expected=expected, found=found))

    def section(self, key: str = "") -> Section:
        """The table at a top-level key (empty where the text has none), or the whole document."""
        if not key:
            return Section(self, "", self.values)
        return self.table(key, self.values.get(key, {}))

    def table(self, key: str, value: Any) -> Section:
        """A value that ought to be a table."""
        if not isinstance(value, dict):
            self.problem(key, "not a table", expected=f"[{key}]", found=shown(value))
            return Section(self, key, {}, muted=True)
        return Section(self, key, value)

    def tables(self, key: str) -> list[Section]:
        """The tables of an array of tables, in order."""
        values = self.values.get(key, [])
        if not isinstance(values, list):
            self.problem(key, "not an array of tables", expected=f"[[{key}]]", found=shown(values))
            return []
        return [self.table(f"{key}[{index}]", value) for index, value in enumerate(values)]

    def raise_problems(self) -> None:
        """Raise what was found wrong so far, if anything."""
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise ManifestProblems(self.problems, file=self.file)


class Section:
    """One table of a document. Each method reads one key, notes what is wrong and returns a value of its type."""

    def __init__(self, document: Document, path: str, values: Mapping[str, Any], *, muted: bool = False) -> None:
        self.document = document
        self.path = path
        self.values = values
        self._muted = muted
        self._known: list[str] = []

    def key(self, name: str) -> str:
        """The key path of one key of this table."""
        return f"{self.path}.{name}" if self.path else name

    def problem(self, name: str, message: str, *, expected: str = "", found: str = "") -> None:
        """Note a problem with one key of this table (or, with an empty name, with the table)."""
        if not self._muted:
            key = self.key(name) if name else self.path
            self.document.problem(key, message, expected=expected, found=found)

    def has(self, name: str) -> bool:
        """Whether the text gives this key."""
        return name in self.values

    def take(self, name: str) -> Any:
        """The raw value of a key that the caller checks; None where it is missing."""
        self._known.append(name)
        return self.values.get(name)

    def text(
        self,
        name: str,
        default: str | None = None,
        *,
        pattern: str = "",
        expected: str = "text",
        choices: Iterable[str] = (),
    ) -> str:
        """Text; without a default the key is required."""
        value = self.take(name)
        allowed = tuple(choices)
        if allowed and expected == "text":
            expected = f"one of {', '.join(allowed)}"
        if value is None:
            if default is None:
                self.problem(name, "missing", expected=expected)
            return default or ""
        if not isinstance(value, str):
            self.problem(name, "wrong type", expected=expected, found=shown(value))
            return default or ""
        if (pattern and re.fullmatch(pattern, value) is None) or (allowed and value not in allowed):
            self.problem(name, "not allowed here", expected=expected, found=shown(value) + suggestion(value, allowed))
        return value

    def name(self, name: str, default: str | None = None, *, kind: str = "a name") -> str:
        """A name of a field or tensor: one line of text, at most 256 characters."""
        value = self.text(name, default, expected=kind)
        if self.has(name) and isinstance(self.values[name], str):
            self._check_name(name, value, kind)
        return value

    def file(self, name: str, default: str | None = None) -> str:
        """A path inside the package: relative, with forward slashes, leaving nothing and hiding nothing."""
        value = self.text(name, default, expected="a file of the package")
        if self.has(name) and isinstance(self.values[name], str) and not is_inner_path(value):
            self.problem(
                name,
                "not a path inside the package",
                expected='a relative path such as "model.onnx", with no "..", no backslash and no hidden part',
                found=shown(value),
            )
        return value

    def integer(self, name: str, default: int, *, minimum: int, maximum: int = 1 << 53) -> int:
        """An integer within bounds."""
        value = self.take(name)
        if value is None:
            return default
        expected = f"an integer from {minimum} to {maximum}" if maximum < 1 << 53 else f"an integer from {minimum} up"
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(name, "wrong type", expected=expected, found=shown(value))
            return default
        if not minimum <= value <= maximum:
            self.problem(name, "out of range", expected=expected, found=shown(value))
            return default
        return value

    def number(self, name: str) -> float | None:
        """A finite number, as a float, or None where the text leaves it out."""
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problem(name, "wrong type", expected="a finite number", found=shown(value))
            return None
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(name, "wrong type", expected="true or false", found=shown(value))
            return default
        return value

    def names(self, name: str, default: tuple[str, ...] | None = None, *, kind: str = "names") -> tuple[str, ...]:
        """An array of different names; without a default the key is required."""
        value = self.take(name)
        expected = f"an array of different {kind}"
        if value is None:
            if default is None:
                self.problem(name, "missing", expected=expected)
            return default or ()
        if not isinstance(value, list) or not value:
            self.problem(name, "wrong type", expected=expected, found=shown(value))
            return default or ()
        result: list[str] = []
        for index, element in enumerate(value):
            if not isinstance(element, str):
                self.problem(f"{name}[{index}]", "wrong type", expected="text", found=shown(element))
            elif element in result:
                self.problem(f"{name}[{index}]", "given twice", expected=expected, found=shown(element))
            else:
                self._check_name(f"{name}[{index}]", element, "a name")
                result.append(element)
        return tuple(result)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one item: sizes from 1 up, or -1 for a free size."""
        value = self.take(name)
        if value is None:
            return ()
        expected = "an array of sizes from 1 up, -1 where the size is free; [] for a single value"
        if not isinstance(value, list):
            self.problem(name, "wrong type", expected=expected, found=shown(value))
            return ()
        for index, size in enumerate(value):
            if isinstance(size, bool) or not isinstance(size, int) or not (size == -1 or 1 <= size < 1 << 31):
                self.problem(f"{name}[{index}]", "not a size", expected=expected, found=shown(size))
                return ()
        if len(value) > 8:
            self.problem(name, "too many dimensions", expected="at most 8", found=str(len(value)))
        elif (elements := math.prod(size for size in value if size > 0)) > MOST_ELEMENTS:
            self.problem(name, "too many elements", expected=f"at most {MOST_ELEMENTS}", found=str(elements))
        return tuple(value)

    def close(self) -> None:
        """Note every key that nobody read."""
        for name in self.values:
            if name not in self._known:
                known = tuple(dict.fromkeys(self._known))
                self.problem(name, "unknown key", expected=f"one of {', '.join(known)}", found=_hint(name, known))

    def _check_name(self, key: str, value: str, kind: str) -> None:
        if not value or len(value) > 256 or _UNPRINTABLE.search(value):
            expected = f"{kind}: one line of 1 to 256 characters"
            self.problem(key, "not a name", expected=expected, found=shown(value))


def is_inner_path(path: str) -> bool:
    """Whether `path` may name a file of a package: relative, plain, visible, and the same on every system."""
    if not path or len(path) > 512 or _NOT_PORTABLE.search(path):
        return False
    parts = path.split("/")
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return False
    return str(PurePosixPath(path)) == path and not any(not part or part.startswith(".") for part in parts)


def shown(value: Any) -> str:
    """A value as an error shows it: its TOML type and, shortened, itself."""
    kind = _TOML_NAMES.get(type(value), "a date or time")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return kind if value else f"{kind} with nothing in it"
    if isinstance(value, int) and value.bit_length() > 256:
        return "an integer of hundreds of bits"
    written = f'"{value}"' if isinstance(value, str) else str(value)
    return written if len(written) <= 80 else written[:77] + "…"


def suggestion(value: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` where a known word is close, else nothing."""
    import difflib  # only for what is wrong

    by_folded = {word.casefold(): word for word in known}
    close = difflib.get_close_matches(value.casefold(), by_folded, n=1, cutoff=0.6)
    return f'; did you mean "{by_folded[close[0]]}"?' if close else ""


def _hint(name: str, known: Sequence[str]) -> str:
    return f'"{name}"{suggestion(name, known)}'


def _syntax_error(message: str, text: str, file: str) -> ManifestError:
    found = _AT_LINE.search(message)
    line = int(found[1]) if found else text.count("\n") + 1
    reason = message[: found.start()].strip() if found else message.replace("(at end of document)", "").strip()
    return ManifestError(f"not valid TOML: {reason}", where=f"{file}:{line}", expected="TOML 1.0")
