"""Reads Protocol Buffers' text format without a schema, as `config.pbtxt` files are written in it.

Fields keep their order and every value that they have; what a field means is the reader's business. What nobody read
is told by `Message.unread`, so that nothing a file says is dropped in silence. Not read: extensions and `Any`, which
need a schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from onward.errors import PackageError

MAX_DEPTH = 32
MAX_CHARACTERS = 4 << 20
_SHOWN = 40

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?\s*(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
    |(?P<word>-?[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>[{}<>\[\]:;,])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_SIMPLE |= {sign: sign for sign in "\\'\"?"}
_CLOSING = {"{": "}", "<": ">"}
_SPECIAL = frozenset({"inf", "infinity", "nan"})


class Word(str):
    """A bare word: an enumeration's value, `true` or `false`."""

    __slots__ = ()


Value: TypeAlias = "str | Word | int | float | Message"


class Message:
    """One message: its fields' values by name, in order. What is taken is marked as read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._fields: dict[str, list[Value]] = {}
        self._read: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields that have a value, in order."""
        return tuple(self._fields)

    def add(self, name: str, value: Value) -> None:
        """Add one value of a field."""
        self._fields.setdefault(name, []).append(value)

    def has(self, name: str) -> bool:
        """Whether the field is there; looking does not count as reading."""
        return name in self._fields

    def values(self, name: str) -> list[Value]:
        """Every value of a field, which is then read."""
        self._read.add(name)
        return self._fields.get(name, [])

    def text(self, name: str, default: str = "") -> str:
        """A text; of several the last counts, as everywhere in the format. Raises `PackageError` for anything else."""
        value = self._last(name)
        if value is None:
            return default
        if isinstance(value, str) and not isinstance(value, Word):
            return value
        raise self.wrong(name, "a text in quotes", value)

    def word(self, name: str, default: str = "") -> str:
        """An enumeration's value by its name. Raises `PackageError` for anything else."""
        value = self._last(name)
        if value is None:
            return default
        if isinstance(value, Word):
            return str(value)
        raise self.wrong(name, "a name without quotes", value)

    def integer(self, name: str, default: int = 0) -> int:
        """A whole number. Raises `PackageError` for anything else."""
        value = self._last(name)
        return default if value is None else self._whole(name, value)

    def integers(self, name: str) -> tuple[int, ...]:
        """Every whole number of a field. Raises `PackageError` for anything else."""
        return tuple(self._whole(name, value) for value in self.values(name))

    def flag(self, name: str) -> bool:
        """A boolean: `true`, `t`, `1` and their opposites. Raises `PackageError` for anything else."""
        value = self._last(name)
        if value is None or value in ("false", "False", "f", 0):
            return False
        if value in ("true", "True", "t", 1):
            return True
        raise self.wrong(name, "true or false", value)

    def messages(self, name: str) -> list[Message]:
        """Every message of a field. Raises `PackageError` for anything else."""
        found = self.values(name)
        for value in found:
            if not isinstance(value, Message):
                raise self.wrong(name, "a message in braces", value)
        return [value for value in found if isinstance(value, Message)]

    def message(self, name: str) -> Message | None:
        """A message; of several the last counts. None where there is none."""
        found = self.messages(name)
        return found[-1] if found else None

    def unread(self, path: str = "") -> Iterator[str]:
        """What nobody has read, as dotted names: `optimization.graph`."""
        for name, values in self._fields.items():
            here = f"{path}{name}"
            if name not in self._read:
                yield here
                continue
            for value in values:
                if isinstance(value, Message):
                    yield from value.unread(f"{here}.")

    def passed_over(self, name: str) -> bool:
        """Whether the field is there, which is then read, with all that is in it."""
        for value in self.values(name):
            if isinstance(value, Message):
                for inner in list(value._fields):
                    value.passed_over(inner)
        return name in self._fields

    def wrong(self, name: str, expected: str, found: object) -> PackageError:
        """What to raise for a value that does not fit."""
        shown = "a message" if isinstance(found, Message) else repr(found)[:_SHOWN]
        return PackageError(f'"{name}" has another type', where=self.where, expected=expected, found=shown)

    def _last(self, name: str) -> Value | None:
        found = self.values(name)
        return found[-1] if found else None

    def _whole(self, name: str, value: Value) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self.wrong(name, "a whole number", value)


def read_text_format(text: str, where: str) -> Message:
    """Read a message from its text; `where` is what errors call the file.

    Raises `PackageError` with the line for what is not text format, nests deeper than 32 or is longer than 4 MiB.
    """
    if len(text) > MAX_CHARACTERS:
        raise PackageError("the file is too long", where=where, expected=f"at most {MAX_CHARACTERS} characters")
    return _Parser(text, where).whole()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


class _Parser:
    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._tokens = list(self._split(text))
        self._at = 0

    def whole(self) -> Message:
        """The message that the whole text is."""
        return self._message("", 0)

    def _split(self, text: str) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                raise self._problem(line, "not text format", found=text[at : at + _SHOWN].split("\n")[0])
            if found.lastgroup != "space":
                yield _Token(found.lastgroup, found.group(), line)
            line += found.group().count("\n")
            at = found.end()

    def _message(self, closing: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise self._problem(self._line(), f"messages are nested deeper than {MAX_DEPTH}")
        message = Message(f"{self._where}:{self._line()}" if closing else self._where)
        while not self._takes(closing):
            name = self._next("the name of a field")
            if name.kind != "word" or name.text.startswith("-"):
                raise self._problem(name.line, "not the name of a field", found=name.text)
            has_colon = self._takes(":")
            if self._takes("["):
                self._list(message, name.text, depth, has_colon=has_colon)
            else:
                message.add(name.text, self._value(depth, has_colon=has_colon))
            if not self._takes(";"):
                self._takes(",")
        return message

    def _list(self, message: Message, name: str, depth: int, *, has_colon: bool) -> None:
        if self._takes("]"):
            return
        while True:
            message.add(name, self._value(depth, has_colon=has_colon))
            if self._takes("]"):
                return
            if not self._takes(","):
                raise self._problem(self._line(), "a list without an end", expected='"," or "]"')

    def _value(self, depth: int, *, has_colon: bool) -> Value:
        token = self._next("a value")
        if token.text in _CLOSING and token.kind == "sign":
            return self._message(_CLOSING[token.text], depth + 1)
        if token.kind == "sign" or not has_colon:
            expected = "a value" if has_colon else '":" and a value, or a message in braces'
            raise self._problem(token.line, "no value", expected=expected, found=token.text)
        if token.kind == "text":
            parts = [self._text(token)]
            while self._at < len(self._tokens) and self._tokens[self._at].kind == "text":
                parts.append(self._text(self._next("a text")))
            return "".join(parts)
        if token.kind == "word":
            return float(token.text) if token.text.lstrip("-").lower() in _SPECIAL else self._word(token)
        try:
            return _number(token.text)
        except ValueError:  # 09, or more digits than Python reads
            raise self._problem(token.line, "not a number", found=token.text[:_SHOWN]) from None

    def _word(self, token: _Token) -> Word:
        if token.text.startswith("-"):
            raise self._problem(token.line, "not a value", found=token.text)
        return Word(token.text)

    def _text(self, token: _Token) -> str:
        """A quoted text. Octal and hexadecimal escapes are bytes of UTF-8."""
        data = bytearray()
        inner, at = token.text[1:-1], 0
        for found in _ESCAPE.finditer(inner):
            data += inner[at : found.start()].encode("utf-8", "surrogatepass")
            at = found.end()
            octal, byte, short, long, simple = found.groups()
            if octal or byte:
                number = int(octal, 8) if octal else int(byte, 16)
                if number > 255:
                    raise self._problem(token.line, "no such byte", expected=r"at most \377", found=found.group())
                data.append(number)
            elif short or long:
                number = int(short or long, 16)
                if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                    raise self._problem(token.line, "no such character", found=found.group())
                data += chr(number).encode()
            elif simple in _SIMPLE:
                data += _SIMPLE[simple].encode()
            else:
                raise self._problem(token.line, "no such escape", found=found.group())
        data += inner[at:].encode("utf-8", "surrogatepass")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._problem(token.line, "a text that is not UTF-8", found=token.text[:_SHOWN]) from None

    def _takes(self, text: str) -> bool:
        """Step over a sign, if it is next. For "": whether the text is at its end."""
        if self._at >= len(self._tokens):
            return not text
        token = self._tokens[self._at]
        if text and token.kind == "sign" and token.text == text:
            self._at += 1
            return True
        return False

    def _next(self, wanted: str) -> _Token:
        if self._at >= len(self._tokens):
            raise self._problem(self._line(), "the file ends too early", expected=wanted)
        self._at += 1
        return self._tokens[self._at - 1]

    def _line(self) -> int:
        if not self._tokens:
            return 1
        return self._tokens[min(self._at, len(self._tokens) - 1)].line

    def _problem(self, line: int, message: str, *, expected: str = "", found: str = "") -> PackageError:
        return PackageError(message, where=f"{self._where}:{line}", expected=expected, found=found)


def _number(text: str) -> int | float:
    text = re.sub(r"\s", "", text)
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits[:2].lower() == "0x":
        return sign * int(digits, 16)
    if digits.isdigit():
        return sign * int(digits, 8 if digits[0] == "0" else 10)
    return sign * float(digits.rstrip("fF"))
