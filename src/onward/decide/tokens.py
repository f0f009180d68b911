"""The tokens of a CEL expression: which fields it reads, which patterns it matches, and how much it may ask for.

The CEL library parses, checks and evaluates; it shows no tree. What Onward asks of an expression beyond its types is
visible in the tokens. Knows no declared names and no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

MAX_CHARACTERS = 4096
"""Of one expression."""
MAX_PATTERN_CHARACTERS = 256
"""Of one regular expression."""

Kind: TypeAlias = Literal["name", "text", "number", "sign"]

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*)
      |(?P<text>[rRbB]{0,2}(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}))
      |(?P<raw>[bB]?[rR][bB]?(?:"[^"\n]*"|'[^'\n]*'))
      |(?P<quoted>[bB]?(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
      |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      |(?P<number>0[xX][0-9a-fA-F]+[uU]?|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?[uU]?)
      |(?P<sign>&&|\|\||[<>=!]=|.)""",
    re.VERBOSE | re.DOTALL,
)
_KINDS: dict[str, Kind] = {"text": "text", "raw": "text", "quoted": "text", "name": "name", "number": "number"}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_MACROS = frozenset({"all", "exists", "exists_one", "map", "filter"})
_ORDERED_MACROS = frozenset({"map", "filter"})
_OF_TIME = frozenset({
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfYear", "getDayOfWeek", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds",
})  # fmt: skip
_OFFSET = re.compile(r"""(["'])(?:UTC|[+-](?:0\d|1[0-4]):[0-5]\d)\1""")
_REPEATED = re.compile(r"\{(\d+)")
_MOST_REPEATED = 100
_MOST_SUMS_IN_MAP = 4


@dataclass(frozen=True, slots=True)
class Token:
    """One token with its place in the expression."""

    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A dotted name that an expression reads: `input.card`. `asked` where it stands in `has(…)`."""

    names: tuple[str, ...]
    start: int
    end: int
    asked: bool = False

    @property
    def text(self) -> str:
        """The path with single dots and no spaces."""
        return ".".join(self.names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Misuse:
    """Something that an expression may not do, whatever its types say."""

    message: str
    expected: str
    start: int
    found: str = ""


def tokens_of(expression: str) -> list[Token]:
    """The tokens, without spaces and comments. Whatever is not CEL becomes a sign of its own, for the parser to say."""
    tokens = []
    for found in _TOKEN.finditer(expression):
        group = found.lastgroup or "sign"
        if group != "skip":
            tokens.append(Token(_KINDS.get(group, "sign"), found[0], found.start(), found.end()))
    return tokens


def paths_of(tokens: Sequence[Token]) -> Iterator[Path]:
    """Every dotted name that is read, without the names of methods and functions."""
    index = 0
    while index < len(tokens):
        token = tokens[index]
        after_dot = index > 0 and tokens[index - 1].text == "."
        if token.kind != "name" or after_dot:
            index += 1
            continue
        first = last = index
        while last + 2 < len(tokens) and tokens[last + 1].text == "." and tokens[last + 2].kind == "name":
            last += 2
        if _text(tokens, last + 1) == "(":
            last -= 2  # the last name is that of a method or function
        if last >= first:
            names = tuple(tokens[place].text for place in range(first, last + 1, 2))
            asked = _text(tokens, first - 1) == "(" and _text(tokens, first - 2) == "has"
            asked = asked and _text(tokens, last + 1) == ")"
            yield Path(names=names, start=tokens[first].start, end=tokens[last].end, asked=asked)
        index = max(last, first) + 1


def with_asked_as_names(expression: str, tokens: Sequence[Token], asked: Sequence[Path]) -> str:
    """`has(input.card)` as the name `has.input.card`, character for character, so that places stay what they are."""
    characters = list(expression)
    starts = {token.start: index for index, token in enumerate(tokens)}
    for path in asked:
        opening = tokens[starts[path.start] - 1]
        closing = next(token for token in tokens if token.start >= path.end)
        characters[opening.start], characters[closing.start] = ".", " "
    return "".join(characters)


def misuses_of(tokens: Sequence[Token]) -> Iterator[Misuse]:
    """What costs without bound, or makes the answer depend on the machine."""
    ends: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind != "name" or _text(tokens, index + 1) != "(":
            continue
        close = _closing(tokens, index + 1)
        if token.text in _MACROS and _text(tokens, index - 1) == ".":
            if any(index < end for end in ends):
                yield Misuse(
                    message="a loop inside a loop", expected="one of all, exists, exists_one, map, filter at a time",
                    start=token.start, found=token.text,
                )  # fmt: skip
            ends.append(close)
            sums = sum(1 for inner in tokens[index:close] if inner.text == "+")
            if token.text == "map" and sums > _MOST_SUMS_IN_MAP:
                expected = f"at most {_MOST_SUMS_IN_MAP} inside map(…)"
                yield Misuse(message="too many sums", expected=expected, start=token.start, found=str(sums))
        elif token.text == "matches":
            yield from _pattern_misuses(tokens, index, close)
        elif token.text in _OF_TIME and close > index + 2:
            zone = tokens[index + 2].text
            if close != index + 3 or not _OFFSET.fullmatch(zone):
                expected = "\"UTC\" or an offset such as \"+02:00\": named zones differ from machine to machine"
                yield Misuse(message="not a fixed time zone", expected=expected, start=token.start, found=zone)


def patterns_of(tokens: Sequence[Token]) -> Iterator[Token]:
    """The literals that `matches` takes as regular expressions."""
    for index, token in enumerate(tokens):
        if token.text == "matches" and token.kind == "name" and _text(tokens, index + 1) == "(":
            close = _closing(tokens, index + 1)
            if close - 1 < len(tokens) and tokens[close - 1].kind == "text":
                yield tokens[close - 1]


def looped_over(expression: str, tokens: Sequence[Token]) -> Iterator[tuple[str, int]]:
    """What `map` and `filter` loop over, as expressions with their places: its order is the answer's order."""
    for index, token in enumerate(tokens):
        if token.text in _ORDERED_MACROS and _text(tokens, index - 1) == "." and _text(tokens, index + 1) == "(":
            start = _receiver(tokens, index - 2)
            yield expression[tokens[start].start : tokens[index - 1].start], tokens[start].start


def _pattern_misuses(tokens: Sequence[Token], index: int, close: int) -> Iterator[Misuse]:
    pattern = tokens[close - 1] if close - 1 < len(tokens) else tokens[index]
    start = tokens[index].start
    if pattern.kind != "text" or tokens[close - 2].text not in ("(", ","):
        expected = "a pattern written out: one that comes from the input may cost what it likes"
        yield Misuse(message="matches takes a literal", expected=expected, start=start, found=pattern.text)
    elif len(pattern.text) > MAX_PATTERN_CHARACTERS:
        expected = f"at most {MAX_PATTERN_CHARACTERS} characters"
        yield Misuse(message="the pattern is too long", expected=expected, start=start, found=str(len(pattern.text)))
    elif any(int(count) > _MOST_REPEATED for count in _REPEATED.findall(pattern.text)):
        expected = f"at most {_MOST_REPEATED} repetitions"
        yield Misuse(message="the pattern repeats too much", expected=expected, start=start, found=pattern.text)


def _receiver(tokens: Sequence[Token], index: int) -> int:
    """Where the postfix expression that ends at `index` begins."""
    opening = {closing: opened for opened, closing in _CLOSING.items()}
    while index >= 0:
        if tokens[index].text in opening and tokens[index].kind == "sign":
            depth = 0
            while index >= 0:
                text = tokens[index].text if tokens[index].kind == "sign" else ""
                depth += (text in opening) - (text in _CLOSING)
                if depth == 0:
                    break
                index -= 1
            if index > 0 and (tokens[index - 1].kind == "name" or tokens[index - 1].text in opening):
                index -= 1
                continue
        if index >= 2 and tokens[index - 1].text == ".":
            index -= 2
            continue
        return max(index, 0)
    return 0


def _closing(tokens: Sequence[Token], index: int) -> int:
    """Where the bracket at `index` closes; the end where it never does."""
    depth = 0
    for place in range(index, len(tokens)):
        if tokens[place].kind == "sign":
            depth += (tokens[place].text in _CLOSING) - (tokens[place].text in _CLOSING.values())
            if depth == 0:
                return place
    return len(tokens)


def _text(tokens: Sequence[Token], index: int) -> str:
    return tokens[index].text if 0 <= index < len(tokens) else ""
