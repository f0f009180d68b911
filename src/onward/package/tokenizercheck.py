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
"""Tokens that templates put around a text, all together."""
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
        rules = list(_rules(*map(msgspec.json.decode, parts), where=file.name))
    except OSError as error:
        raise PackageError(f"cannot be read: {error.strerror}", where=file.name) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PackageError(f"not a tokenizer: {error}", where=file.name, expected="a tokenizer.json") from None
    rules = rules[: MAX_RULES + 1]
    words = [rule for rule in rules if _words_of(rule)]
    growth = _growth_of_words(words)
    around = 0
    for rule in rules:
        growth *= 1 if rule in words else _growth(rule)
        _check_pattern(rule, file.name)
        around += _around(rule, file.name)
    if around > MAX_AROUND:
        expected = f"at most {MAX_AROUND} tokens around a text"
        raise PackageError("a template is too long", where=file.name, expected=expected, found=str(around))
    if len(rules) > MAX_RULES or growth > MAX_GROWTH:
        expected = f"at most {MAX_RULES} rules that make at most {MAX_GROWTH} bytes of one"
        raise PackageError("the tokenizer's rules blow texts up", where=file.name, expected=expected)
    if tokenizer.model.max_input_chars_per_word > MAX_WORD:
        expected = f"max_input_chars_per_word of at most {MAX_WORD}"
        raise PackageError("words may be too long", where=file.name, expected=expected)


def _rules(*roots: Any, where: str) -> Iterator[dict[str, Any]]:
    """Every rule of these parts in the order in which they are applied, those inside sequences too.

    Raises `PackageError` for a rule of no type, or in another form: the library reads some of these by what they have.
    """
    waiting = [root for root in reversed(roots) if root is not None]
    while waiting:
        rule = waiting.pop()
        if not isinstance(rule, dict) or not isinstance(rule.get("type"), str):
            raise PackageError("a rule has no type", where=where, expected='an object with "type"')
        yield rule
        for name in _INNER:
            inner = rule.get(name)
            waiting += reversed(inner) if isinstance(inner, list) else ()


# `\b(?:colour|color)\b`: whole words, of nothing that means something else in an expression.
_WORDS = re.compile(r"\\b\(\?:([\w' -]+(?:\|[\w' -]+)*)\)\\b")
# One character or class of them, so often that it is never nothing.
_SOMETHING = re.compile(r"(?:\\[sdwSDW]|[A-Za-z0-9 ])(?:\+|\{[1-9][0-9]*,\})?")
_INNER = ("normalizers", "pretokenizers", "processors")
_UNICODE_GROWTH = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "BertNormalizer": 3, "Lowercase": 1.5, "ByteLevel": 2}
"""The most that rules which change single characters make of one of them, in bytes."""


def _growth(rule: dict[str, Any]) -> float:
    """How many bytes the rule makes of one, at most: by what it has, which the library goes by where types mislead."""
    growth: float = _UNICODE_GROWTH.get(rule["type"], 1)
    pattern = rule.get("pattern")
    if isinstance(pattern, dict):
        content = len(str(rule.get("content", "")).encode(errors="replace"))
        growth = max(growth, content + _matches_nothing(pattern))
    growth = max(growth, len(str(rule.get("prepend", "")).encode(errors="replace")))
    if "precompiled_charsmap" in rule:
        growth = max(growth, _longest_piece(rule["precompiled_charsmap"]))
    return growth


def _matches_nothing(pattern: dict[str, Any]) -> bool:
    """Whether a pattern may be found between any two characters, where it takes the place of none."""
    if "Regex" in pattern:
        return _SOMETHING.fullmatch(str(pattern["Regex"])) is None
    return pattern.get("String") == ""


def _words_of(rule: dict[str, Any]) -> list[str]:
    """The words that a rule replaces by others, where it is of that kind: spellings, say, or abbreviations."""
    pattern = rule.get("pattern") if "content" in rule else None
    found = _WORDS.fullmatch(str(pattern.get("Regex", ""))) if isinstance(pattern, dict) else None
    return found[1].split("|") if found else []


def _growth_of_words(rules: list[dict[str, Any]]) -> float:
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


def _check_pattern(rule: dict[str, Any], where: str) -> None:
    pattern = rule.get("pattern")
    text = next(iter(pattern.values()), "") if isinstance(pattern, dict) else pattern
    if isinstance(text, str) and len(text) > MAX_PATTERN:
        raise PackageError("a pattern is too long", where=where, expected=f"at most {MAX_PATTERN} characters")


def _around(rule: dict[str, Any], where: str) -> int:
    """How many tokens the rule puts around a text.

    A template takes the text at most once: of one that is cut, the library makes every combination of all its parts.
    """
    single, tokens = rule.get("single"), rule.get("special_tokens")
    if single is None and tokens is None:
        return 0
    expected = "at most one text, and special tokens as objects"
    if not isinstance(single, list) or not isinstance(tokens, dict):
        raise PackageError("not a template", where=where, expected=expected)
    pair = rule.get("pair")
    if max(len(single), len(pair) if isinstance(pair, list) else 0) > MAX_AROUND + 1:
        raise PackageError("a template is too long", where=where, expected=f"at most {MAX_AROUND} tokens around a text")
    sizes: dict[Any, int] = {}
    for name, token in tokens.items():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list):
            raise PackageError("not a template", where=where, expected=expected)
        sizes[name] = len(ids)
    special = [piece["SpecialToken"] for piece in single if isinstance(piece, dict) and "SpecialToken" in piece]
    if len(single) - len(special) > 1:
        raise PackageError("a template repeats the text", where=where, expected=expected)
    names = [str(one.get("id")) if isinstance(one, dict) else "" for one in special]
    if not sizes.keys() >= set(names):
        raise PackageError("not a template", where=where, expected=expected)
    return max(sum(sizes[name] for name in names), sum(sizes.values()))
