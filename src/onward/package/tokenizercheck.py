"""Whether a `tokenizer.json` may be loaded: small enough, and without rules that blow texts up or take for ever.

The tokenizer itself is native code that does what the file says: a rule that puts a million characters in the place of
each, three times over, is a valid one. Limits are far above what published tokenizers have. Runs nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from onward.errors import PackageError
from onward.package.reading import read_plain

MAX_BYTES = 64 << 20
MAX_GROWTH = 1024
"""How many bytes one byte of a text may become, by all rules together."""
MAX_RULES = 256
MAX_RULE_BYTES = 4 << 20
MAX_WORD = 1000
"""Characters of a word that are looked up piece by piece, which takes their number squared."""
MAX_AROUND = 256
"""Tokens that a template puts around a text."""
MAX_PATTERN = 4096


class _Model(msgspec.Struct):
    max_input_chars_per_word: int = 0


class _Tokenizer(msgspec.Struct):
    """The parts that are looked at; the vocabulary is passed over."""

    model: _Model
    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")


def check_tokenizer(file: Path) -> None:
    """Raise `PackageError` for a file that is not a tokenizer's, or goes beyond the limits above."""
    try:
        tokenizer = msgspec.json.decode(read_plain(file, MAX_BYTES), type=_Tokenizer)
        parts = (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor)
        if sum(map(len, parts)) > MAX_RULE_BYTES:
            expected = f"at most {MAX_RULE_BYTES} bytes"
            raise PackageError("the tokenizer's rules are too large", where=file.name, expected=expected)
        rules = list(_rules(*map(msgspec.json.decode, parts)))
    except OSError as error:
        raise PackageError(f"cannot be read: {error.strerror}", where=file.name) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"not a tokenizer: {error}", where=file.name, expected="a tokenizer.json") from None
    rules = rules[: MAX_RULES + 1]
    words = [rule for rule in rules if _words_of(rule)]
    growth = _growth_of_words(words)
    for rule in rules:
        growth *= 1 if rule in words else _growth(rule)
        _check_rule(rule, file.name)
    if len(rules) > MAX_RULES or growth > MAX_GROWTH:
        expected = f"at most {MAX_RULES} rules that make at most {MAX_GROWTH} bytes of one"
        raise PackageError("the tokenizer's rules blow texts up", where=file.name, expected=expected)
    if tokenizer.model.max_input_chars_per_word > MAX_WORD:
        expected = f"max_input_chars_per_word of at most {MAX_WORD}"
        raise PackageError("words may be too long", where=file.name, expected=expected)


def _rules(*roots: Any) -> Iterator[dict[str, Any]]:
    """Every rule of these parts in the order in which they are applied, those inside sequences too."""
    waiting = [*reversed(roots)]
    while waiting:
        rule = waiting.pop()
        if isinstance(rule, list):
            waiting += reversed(rule)
        elif isinstance(rule, dict):
            if isinstance(rule.get("type"), str):
                yield rule
            inner = [value for key, value in rule.items() if isinstance(value, list) and key not in _NO_RULES]
            waiting += reversed(inner)


# `\b(?:colour|color)\b`: whole words, of nothing that means something else in an expression.
_WORDS = re.compile(r"\\b\(\?:([\w' -]+(?:\|[\w' -]+)*)\)\\b")
_NO_RULES = frozenset({"single", "pair", "special_tokens"})


def _growth(rule: dict[str, Any]) -> int:
    """How many bytes the rule makes of one, at most."""
    kind = rule["type"]
    if kind == "Replace":  # an expression may match nothing, between any two characters
        pattern = rule.get("pattern")
        between = 1 if isinstance(pattern, dict) and ("Regex" in pattern or pattern.get("String") == "") else 0
        return max(1, len(str(rule.get("content", "")).encode(errors="replace")) + between)
    if kind == "Prepend":
        return max(1, len(str(rule.get("prepend", "")).encode(errors="replace")))
    if kind == "Precompiled":
        return _longest_piece(rule.get("precompiled_charsmap"))
    return 1


def _words_of(rule: dict[str, Any]) -> list[str]:
    """The words that a rule replaces by others, where it is of that kind: spellings, say, or abbreviations."""
    pattern = rule.get("pattern") if rule["type"] == "Replace" else None
    found = _WORDS.fullmatch(str(pattern.get("Regex", ""))) if isinstance(pattern, dict) else None
    return found[1].split("|") if found else []


def _growth_of_words(rules: list[dict[str, Any]]) -> int:
    """How many bytes such rules make of one, at most: what one of them writes, a later one may replace in turn."""
    patterns = [re.compile(rule["pattern"]["Regex"]) for rule in rules]
    contents = [str(rule.get("content", "")) for rule in rules]
    most = 1
    for index, rule in enumerate(rules):
        text = contents[index]
        for pattern, content in zip(patterns[index + 1 :], contents[index + 1 :], strict=True):
            if len(text) > MAX_GROWTH:
                return MAX_GROWTH + 1
            text = pattern.sub(lambda _, content=content: content, text)  # type: ignore[misc]
        most = max(most, -(-len(text.encode(errors="replace")) // min(map(len, _words_of(rule)))))
    return most


def _longest_piece(charsmap: Any) -> int:
    """Of a table of SentencePiece: the size of a tree, the tree, and what it leads to, with NULs between."""
    try:
        data = base64.b64decode(charsmap or "", validate=True)
        if not data:
            return 1
        (size,) = struct.unpack_from("<I", data)
    except (TypeError, binascii.Error, ValueError, struct.error):
        return MAX_GROWTH + 1
    return max(map(len, data[4 + size :].split(b"\0")), default=1) or 1


def _check_rule(rule: dict[str, Any], where: str) -> None:
    pattern = rule.get("pattern")
    text = next(iter(pattern.values()), "") if isinstance(pattern, dict) else pattern
    if isinstance(text, str) and len(text) > MAX_PATTERN:
        raise PackageError("a pattern is too long", where=where, expected=f"at most {MAX_PATTERN} characters")
    around = [rule.get("single"), rule.get("pair")]
    tokens = rule.get("special_tokens")
    if isinstance(tokens, dict):
        around += [one.get("ids") for one in tokens.values() if isinstance(one, dict)]
    if any(isinstance(one, list) and len(one) > MAX_AROUND for one in around):
        expected = f"at most {MAX_AROUND} tokens around a text"
        raise PackageError("a template is too long", where=where, expected=expected)
