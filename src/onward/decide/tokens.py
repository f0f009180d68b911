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

MAX_PATTERNS = 8
"""Regular expressions in one expression."""
MAX_REPEATED = 1000
"""The product of a pattern's counts: `(a{10}){10}` repeats 100 times."""
MAX_LOOPS = 8
MAX_SUMS_IN_LOOPS = 4
MAX_READS_IN_LOOPS = 4

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
_FIELDS = frozenset({"result", "input", "profile", "arguments"})
_ORDERED_MACROS = frozenset({"map", "filter"})
_OF_TIME = frozenset({
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfYear", "getDayOfWeek", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds",
})  # fmt: skip
_OFFSET = re.compile(r"""(["'])(?:UTC|[+-](?:0\d|1[0-4]):[0-5]\d)\1""")
_REPEATED = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")


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


@dataclass(frozen=True, slots=True)
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
    loops = [*_loops(tokens)]
    if len(loops) > MAX_LOOPS:
        yield Misuse("too many loops", f"at most {MAX_LOOPS}", tokens[loops[MAX_LOOPS].index].start, str(len(loops)))
    for number, loop in enumerate(loops):
        start = tokens[loop.index].start
        if any(loop.index < other.close for other in loops[:number]):
            expected = "one of all, exists, exists_one, map, filter at a time"
            yield Misuse("a loop inside a loop", expected, start, loop.macro)
        if any(token.text == "+" for token in tokens[_receiver(tokens, loop.index - 2) : loop.index]):
            yield Misuse("a loop over a sum", "a list as it is", start)
        if loop.macro == "map" and any(other.macro == "map" for other in loops[:number]):
            yield Misuse("map twice", "one map in an expression", start)
        if loop.macro == "map" and any(_opens_literal(tokens, index) for index in range(loop.index + 2, loop.close)):
            yield Misuse("a list made inside map", "a single value for each element", start)
    reads = [i for i, token in enumerate(tokens) if token.text in _FIELDS and _text(tokens, i - 1) != "."]
    reads = [i for i in reads if _around(loops, i)]
    if len(reads) > MAX_READS_IN_LOOPS:
        expected = f"at most {MAX_READS_IN_LOOPS} inside loops"
        yield Misuse("too many fields read", expected, tokens[reads[MAX_READS_IN_LOOPS]].start, str(len(reads)))
    sums = [index for index, token in enumerate(tokens) if token.text == "+" and _around(loops, index)]
    if len(sums) > MAX_SUMS_IN_LOOPS:
        expected = f"at most {MAX_SUMS_IN_LOOPS} inside loops"
        yield Misuse("too many sums", expected, tokens[sums[MAX_SUMS_IN_LOOPS]].start, str(len(sums)))
    yield from _call_misuses(tokens, loops)


def _call_misuses(tokens: Sequence[Token], loops: Sequence[_Loop]) -> Iterator[Misuse]:
    matches = 0
    for index, token in enumerate(tokens):
        if token.kind != "name" or _text(tokens, index + 1) != "(":
            continue
        close = _closing(tokens, index + 1)
        if token.text == "matches":
            matches += 1
            yield from _pattern_misuses(tokens, index, close)
            loop = _around(loops, index)
            own = _text(tokens, index - 2) if _text(tokens, index - 3) != "." else ""
            if loop is not None and not (_text(tokens, index - 1) == "." and own == loop.variable):
                expected = f"{loop.variable}.matches(…) and nothing else inside the loop"
                yield Misuse("matches on more than the element", expected, token.start)
            if matches > MAX_PATTERNS:
                yield Misuse("too many patterns", f"at most {MAX_PATTERNS} in an expression", token.start)
        elif token.text in _OF_TIME and close > index + 2:
            zone = tokens[index + 2].text
            if close != index + 3 or not _OFFSET.fullmatch(zone):
                expected = '"UTC" or an offset such as "+02:00": named zones differ from machine to machine'
                yield Misuse("not a fixed time zone", expected, token.start, zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    macro: str
    index: int
    close: int
    variable: str


def _loops(tokens: Sequence[Token]) -> Iterator[_Loop]:
    for index, token in enumerate(tokens):
        if token.text in _MACROS and _text(tokens, index - 1) == "." and _text(tokens, index + 1) == "(":
            close = _closing(tokens, index + 1)
            yield _Loop(macro=token.text, index=index, close=close, variable=_text(tokens, index + 2))


def has_loops(tokens: Sequence[Token]) -> bool:
    """Whether an expression loops over a list or map."""
    return next(_loops(tokens), None) is not None


def _around(loops: Sequence[_Loop], index: int) -> _Loop | None:
    return next((loop for loop in loops if loop.index < index < loop.close), None)


def _opens_literal(tokens: Sequence[Token], index: int) -> bool:
    """Whether a list or map is written out here; after a value, `[` takes an element."""
    if tokens[index].kind != "sign" or tokens[index].text not in "[{":
        return False
    before = tokens[index - 1]
    return tokens[index].text == "{" or not (before.kind in ("name", "text") or before.text in (")", "]", "}"))


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
        yield Misuse("matches takes a literal", expected, start, pattern.text)
    elif problem := pattern_misuse(pattern.text):
        yield Misuse(problem, f"{MAX_PATTERN_CHARACTERS} characters, {MAX_REPEATED} repetitions at most", start)


def pattern_misuse(pattern: str) -> str:
    """Why a regular expression costs too much, or nothing."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        return "the pattern is too long"
    repeated = 1
    for least, most in _REPEATED.findall(pattern):
        repeated *= max(int(least), int(most or 0), 1)
    return "the pattern repeats too much" if repeated > MAX_REPEATED else ""


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
