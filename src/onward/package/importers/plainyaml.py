"""Reads YAML as programs write it: block mappings and lists of plain and quoted scalars, and nothing that runs code.

An `MLmodel` file is such YAML. Tags, anchors, several documents, block scalars and flow collections other than empty
ones are refused by line, never guessed at.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

from onward.errors import PackageError

MAX_CHARACTERS = 4 << 20
MAX_DEPTH = 32

_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^']|'')*'"""
_FIRST = r"""[^ \t'"\[\]{}#&*!|>%@`,?:-]|[-?:](?=[^ \t])"""
# A colon ends a key before a blank or the end only, and a comment begins behind a blank only.
_REST = r"[^ \t#:]|:(?=[^ \t])|(?<=[^ \t])\#|[ ]+(?=[^ \t#:]|:[^ \t])"
_KEY = re.compile(rf"({_QUOTED}|(?:{_FIRST})(?:{_REST})*)[ ]*:(?:[ ]+|$)")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = {"0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_SIMPLE |= {"e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028"}
_SIMPLE |= {"P": "\u2029"}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,300})")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | str | None] = dict.fromkeys(("null", "Null", "NULL", "~", ""))
_WORDS |= dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False)
_BREAKS = re.compile("\r\n|\r|\n")


def read_plain_yaml(text: str, where: str) -> Any:
    """Read a document; `where` is what errors call the file.

    Raises `PackageError` with the line for what is not read.
    """
    if len(text) > MAX_CHARACTERS:
        raise PackageError("the file is too long", where=where, expected=f"at most {MAX_CHARACTERS} characters")
    reader = _Reader(_BREAKS.split(text), where)
    return reader.document()


class _Reader:
    """Goes through the lines once; `_at` is the next one."""

    def __init__(self, lines: list[str], where: str) -> None:
        self._lines = lines
        self._where = where
        self._at = 0

    def document(self) -> Any:
        """The one document that the lines are."""
        if self._peek() is not None and self._lines[self._at].rstrip(" \t") == "---":
            self._at += 1
        first = self._peek()
        if first is None:
            return None
        value = self._block(first, 0)
        if self._peek() is not None:
            self._refuse("more than one value")
        return value

    def _peek(self) -> int | None:
        """The indent of the next line that says something; None at the end."""
        while self._at < len(self._lines):
            line = self._lines[self._at]
            content = line.lstrip(" ")
            if content.startswith("\t"):
                self._refuse("a tab where spaces are due")
            if content and not content.startswith("#"):
                return len(line) - len(content)
            self._at += 1
        return None

    def _block(self, indent: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self._refuse(f"nested deeper than {MAX_DEPTH}")
        content = self._lines[self._at][indent:]
        if content == "-" or content.startswith("- "):
            return self._list(indent, depth)
        if _KEY.match(content):
            return self._mapping(indent, depth)
        self._at += 1
        return self._scalar(content, indent - 1)

    def _list(self, indent: int, depth: int) -> list[Any]:
        values: list[Any] = []
        while self._peek() == indent:
            line = self._lines[self._at]
            if line[indent : indent + 2] not in ("-", "- "):
                break
            rest = line[indent + 1 :]
            inner = rest.lstrip(" ")
            if not inner or inner.startswith("#"):
                self._at += 1
                values.append(self._below(indent, depth, lists=False))
            elif inner == "-" or inner.startswith("- ") or _KEY.match(inner):
                place = len(line) - len(inner)
                self._lines[self._at] = " " * place + inner
                values.append(self._block(place, depth + 1))
            else:
                self._at += 1
                values.append(self._scalar(inner, indent))
        return values

    def _mapping(self, indent: int, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while self._peek() == indent:
            content = self._lines[self._at][indent:]
            found = _KEY.match(content)
            if found is None:
                self._refuse("not a key with a value", found=content)
            key = self._key(found[1])
            if key in values:
                self._refuse("a key that stands there twice", found=key)
            rest = content[found.end() :]
            self._at += 1
            if not rest or rest.startswith("#"):
                values[key] = self._below(indent, depth, lists=True)
            else:
                values[key] = self._scalar(rest, indent)
        return values

    def _below(self, indent: int, depth: int, *, lists: bool) -> Any:
        """What stands on the following, deeper lines; a list may stand as deep as its key."""
        following = self._peek()
        if following is not None and following > indent:
            return self._block(following, depth + 1)
        if lists and following == indent and self._lines[self._at][indent : indent + 2] in ("-", "- "):
            return self._list(indent, depth + 1)
        return None

    def _key(self, text: str) -> str:
        if text[0] == "'":
            return text[1:-1].replace("''", "'")
        return self._unescaped(text[1:-1]) if text[0] == '"' else text

    def _scalar(self, text: str, indent: int) -> Any:
        """A scalar that begins in the line before the next one, and may go on in lines deeper than `indent`."""
        if text[0] in "'\"":
            return self._quoted(text)
        if text[0] in "&*!|>%@`":
            self._refuse("a tag, an anchor or a block scalar", found=text, back=1)
        if text[0] in "[{":
            plain = re.sub(r"[ \t]+#.*$", "", text).rstrip(" \t")
            if plain not in ("[]", "{}"):
                self._refuse("a list or mapping in brackets", found=text, back=1)
            return [] if plain == "[]" else {}
        whole = self._plain(text, indent)
        if _INTEGER.fullmatch(whole):
            return int(whole)
        if _FLOAT.fullmatch(whole):
            return float(whole)
        if whole.lstrip("+-").lower() in (".inf", ".nan"):
            return float(whole.replace(".", ""))
        return _WORDS.get(whole, whole)

    def _plain(self, text: str, indent: int) -> str:
        """A plain scalar, its lines folded into one."""
        parts, has_comment = _uncommented(text)
        folded = parts
        while not has_comment:
            blank = 0
            while self._at + blank < len(self._lines) and not self._lines[self._at + blank].strip(" "):
                blank += 1
            if self._at + blank >= len(self._lines):
                break
            line = self._lines[self._at + blank]
            content = line.strip(" ")
            if len(line) - len(line.lstrip(" ")) <= indent or content.startswith("#"):
                break
            if _KEY.match(content):
                self._at += blank
                self._refuse("a key within a text", found=content)
            self._at += blank + 1
            more, has_comment = _uncommented(content)
            folded += ("\n" * blank if blank else " ") + more
        return folded

    def _quoted(self, text: str) -> str:
        """A quoted scalar up to its closing quote, its lines folded."""
        sign = text[0]
        closing = re.compile(r"(?:[^']|'')*+'(?!')" if sign == "'" else r'(?:[^"\\]|\\.)*+"')
        found = closing.match(text, 1)
        parts = [text[1:]]
        while found is None:
            if self._at >= len(self._lines):
                self._refuse("a quote that is not closed", found=text, back=1)
            parts.append(self._lines[self._at])
            self._at += 1
            found = closing.match(parts[-1])
        last = parts[-1]
        end = found.end() if len(parts) > 1 else found.end() - 1
        rest = last[end:].strip(" \t")
        if rest and not (rest.startswith("#") and last[end : end + 1] == " "):
            self._refuse("something behind a closing quote", found=rest, back=1)
        parts[-1] = last[: end - 1]
        return self._folded(parts, sign)

    def _folded(self, parts: list[str], sign: str) -> str:
        """The lines of a quoted scalar as one text: a break is a space, an empty line a break."""
        text, breaks, joined = "", 0, True
        for index, part in enumerate(parts):
            is_first, is_last = index == 0, index == len(parts) - 1
            part = part if is_first else part.lstrip(" \t")
            joins = sign == '"' and not is_last and re.search(r"(?:^|[^\\])(?:\\\\)*\\$", part) is not None
            if not is_last and not joins:
                part = part.rstrip(" \t")
            if not is_first and not part and not is_last:
                breaks += 1
                continue
            if not is_first:
                text += "\n" * breaks if breaks else "" if joined else " "
            breaks, joined = 0, joins
            piece = part[:-1] if joins else part
            text += piece.replace("''", "'") if sign == "'" else self._unescaped(piece)
        return text

    def _unescaped(self, text: str) -> str:
        def character(found: re.Match[str]) -> str:
            number = found[1] or found[2] or found[3]
            if number:
                if int(number, 16) > 0x10FFFF:
                    self._refuse("no such character", found=found[0], back=1)
                return chr(int(number, 16))
            if found[4] not in _SIMPLE:
                self._refuse("no such escape", found=found[0], back=1)
            return _SIMPLE[found[4]]

        return _ESCAPE.sub(character, text)

    def _refuse(self, message: str, *, found: str = "", back: int = 0) -> NoReturn:
        line = min(self._at + 1 - back, len(self._lines))
        expected = "YAML of plain keys, texts and numbers, as a program writes it"
        raise PackageError(message, where=f"{self._where}:{line}", expected=expected, found=found[:60])


def _uncommented(text: str) -> tuple[str, bool]:
    """A line of a plain scalar without its comment, and whether it has one."""
    found = re.search(r"[ \t]#", text)
    return (text[: found.start()].rstrip(" \t"), True) if found else (text.rstrip(" \t"), False)
