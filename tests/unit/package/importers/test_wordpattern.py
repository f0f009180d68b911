"""wordpattern.py: a pattern finds the same tokens as Python's in texts of every script."""

from __future__ import annotations

import re

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from onward.errors import UsageError
from onward.package.importers.vectorizer import PROBES
from onward.package.importers.wordpattern import words_of

PATTERNS = [
    r"(?u)\b\w\w+\b", r"\b\w+\b", r"\w+", r"[a-zA-Z']+", r"\S+", r"(?u)\w{3,}", r"[^\s,]+", r"\b[a-z]\w*\b", r"\d+",
    r"[\w'-]+", r"(?:\w+-)?\w+", r"\D\w", r".\w", r"[]\w]+", r"[^]a]+", r"[a[&]+", r"\w+(?=\s)", r"\bthe\b|\$\d+",
    r"[A-Za-zÀ-ÿ]+",
]  # fmt: skip


def found(pattern: str, text: str) -> list[str]:
    split = Split(Regex(pattern), behavior="removed", invert=True)
    return [token for token, _ in split.pre_tokenize_str(text)]


@pytest.mark.filterwarnings("ignore:Possible nested set")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_tokens_are_those_that_python_finds(pattern: str) -> None:
    for text in (*PROBES, "x [a] & b] $12 a-b c'd _e the-the\n"):
        assert found(words_of(pattern), text) == re.findall(pattern, text)


@pytest.mark.parametrize("pattern", [r"(?u)\b\w\w+\b", r"\b\w+\b"])
def test_stop_words_are_no_words_but_may_begin_or_end_one(pattern: str) -> None:
    stop_words = frozenset({"the", "a", "école", "of", "c++", "don't", "[x]"})
    text = "the theatre of a soft école, écoles offer athe the_the the"
    expected = [word for word in re.findall(pattern, text) if word not in stop_words]
    assert found(words_of(pattern, stop_words), text) == expected


@pytest.mark.parametrize(
    "pattern", [r"(\w+)", r"(?i)\w+", r"(?P<x>a)", r"\Aa", r"[\W]", "a\\", r"(a)\1", r"\N{BULLET}"]
)
def test_what_cannot_be_said_to_the_tokenizer_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="the vectoriser has"):
        words_of(pattern)


def test_stop_words_need_a_pattern_of_whole_words() -> None:
    with pytest.raises(UsageError, match="stop words"):
        words_of(r"\S+", frozenset({"the"}))
