"""scikit-learn's text vectorisers as a tokenizer and operators: texts → token ids → counts → weights.

The tokenizer takes texts apart, in Python and in a browser alike; ONNX counts its ids and n-grams of them. A token that
is in no n-gram of the vocabulary has the id 0, which is padding's, too; every text begins with the id 1, so that none
is empty. Neither is ever counted.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from tokenizers import Tokenizer

from onward.errors import PackageError, UsageError
from onward.package.importers.wordpattern import SPACE, words_of
from onward.types import Array

Add: TypeAlias = Callable[..., str]
"""`add(operator, inputs, **attributes)` adds a node, with arrays among the inputs as constants; what it gives."""
UNKNOWN, START = 0, 1
KINDS = ("CountVectorizer", "TfidfVectorizer")
PROBES = (
    "", " ", "\t\n ", "a", "An ordinary sentence, of some words: it's 2nd-rate (really)!", "ÉCOLE École e\u0301cole",
    "ΟΔΟΣ και οδός, Σ Σίσυφος", "İstanbul ISPARTA ı", "Straße STRASSE ẞ", "x²y ½ ① Ⅷ 10³ ٣٤", "हिन्दी भाषा का पाठ",
    "日本語のテキスト 한국어", "tab\tand\nnew line\r\nand\u00a0no break\u2003wide\x1cseparator",
    "under_score __init__ a_b",
    "ΑΣ'Α ΑΣ\u00adΒ Α\u0301Σ A.Σ ΑΣ. ⅧΣ 1Σ",
    "emoji 😀👍🏽 ok", "ﬁne ligature Ǆ", "1,234.56 3rd v2.0", "<s> <unk> [UNK] </s>", "can't won't o'clock",
    "ab  ab   ab",
    "Привет, мир", "مرحبا بالعالم", "שלום עולם", "ไทย", "\u200bzero\u200dwidth", "the the of a the and",
)  # fmt: skip
"""Texts on which a tokenizer must agree with its vectoriser."""
_CASED = (
    "[\\p{Lu}\\p{Ll}\\p{Lt}\u00aa\u00ba\u2160-\u217f\u24b6-\u24e9"
    "\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
)
_PASSED_OVER = (
    "[\\p{Mn}\\p{Me}\\p{Cf}\\p{Lm}\\p{Sk}"
    "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a]"
)
_MOST_PASSED_OVER = 8
_BEFORE = "|".join(f"{_CASED}{_PASSED_OVER}{{{count}}}Σ" for count in range(_MOST_PASSED_OVER + 1))
_FINAL_SIGMA = f"Σ(?<={_BEFORE})(?!{_PASSED_OVER}*{_CASED})"
"""A sigma behind a cased letter and before none, whatever marks and signs that Unicode passes over lie between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectorizer:
    """A fitted vectoriser, with its terms as tuples of tokens, by column."""

    fitted: Any
    terms: tuple[tuple[str, ...], ...]
    ids: dict[str, int]
    tokenizer: Tokenizer

    def tokens(self, texts: Sequence[str], most_tokens: int) -> Array:
        """The ids of texts, INT64 [texts, longest], padded; raises `UsageError` for a text of too many tokens."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        longest = max(map(len, rows), default=0)
        if longest > most_tokens:
            raise UsageError("a text of the sample is too long", expected=f"at most {most_tokens} tokens",
                             found=str(longest))  # fmt: skip
        ids = np.full((len(rows), longest), UNKNOWN, np.int64)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids


def is_vectorizer(part: Any) -> bool:
    """Whether this is a vectoriser of texts, supported or not."""
    names = {base.__name__ for base in type(part).__mro__}
    return "_VectorizerMixin" in names


def vectorizer_of(fitted: Any, *, first: int = START + 1) -> Vectorizer:
    """Take a fitted vectoriser apart, with ids from `first` on.

    Raises `UsageError` for what depends on functions of its own, `PackageError` where the tokenizer does not agree.
    """
    if type(fitted).__name__ not in KINDS:
        raise UsageError("cannot pack this vectoriser", expected=" or ".join(KINDS), found=type(fitted).__name__)
    for name, usual in (("preprocessor", None), ("tokenizer", None)):
        if getattr(fitted, name) is not usual:
            raise UsageError(f"the vectoriser has a {name} of its own", expected=f"{name} = None, which can be packed")
    if fitted.input != "content" or callable(fitted.analyzer) or callable(fitted.strip_accents):
        raise UsageError("the vectoriser has functions or files of its own", expected="texts, and a named analyzer")
    terms: list[tuple[str, ...]] = [()] * len(fitted.vocabulary_)
    for term, column in fitted.vocabulary_.items():
        terms[int(column)] = tuple(term.split(" ")) if fitted.analyzer == "word" else tuple(term)
    most = fitted.ngram_range[1]
    if any(len(term) > most for term in terms) or not all(terms):
        raise UsageError(
            "the vocabulary has terms of more tokens than the vectoriser makes", expected=f"at most {most}"
        )
    if fitted.analyzer == "char_wb" and fitted.ngram_range[0] == 1:
        raise UsageError("the vectoriser counts single characters within words", expected='analyzer = "char", or '
                         "n-grams of two characters or more")  # fmt: skip
    ids = {token: place for place, token in enumerate(sorted({token for term in terms for token in term}), start=first)}
    tokenizer = _tokenizer(fitted, ids)
    found = Vectorizer(fitted=fitted, terms=tuple(terms), ids=ids, tokenizer=tokenizer)
    check_tokens(found, PROBES)
    return found


def check_tokens(vectorizer: Vectorizer, texts: Sequence[str]) -> None:
    """Raise `PackageError` for a text that the tokenizer takes apart otherwise than the vectoriser."""
    fitted, tokenizer = vectorizer.fitted, vectorizer.tokenizer
    preprocess, split = fitted.build_preprocessor(), fitted.build_tokenizer()
    stopped = fitted.get_stop_words() or frozenset()
    for text in texts:
        plain = preprocess(fitted.decode(text))
        if fitted.analyzer == "word":
            expected = [token for token in split(plain) if token not in stopped]
        elif fitted.analyzer == "char":
            expected = list(fitted._white_spaces.sub(" ", plain))
        else:
            expected = list(" ".join(f" {word} " for word in plain.split()).replace("   ", "  ")[1:-1])
        normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        found = [token for token, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized)]
        if fitted.analyzer == "word" and fitted.ngram_range[1] == 1:
            found = [token for token in found if token not in stopped]
        if found != expected:
            at = next((i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), -1)
            raise PackageError(
                f"the tokenizer takes a text apart otherwise than the vectoriser: {text[:80]!r}",
                expected=str(expected[max(at - 1, 0) :][:8]), found=str(found[max(at - 1, 0) :][:8]),
            )  # fmt: skip


def write_counts(vectorizer: Vectorizer, ids: str, add: Add, *, double: bool) -> str:
    """Add the nodes from ids, INT64 [batch, length], to weights, FP32 or FP64 [batch, terms]; the name of these."""
    fitted = vectorizer.fitted
    value = add("TfIdfVectorizer", [ids], **_ngrams(vectorizer))
    kind = np.float64 if double else np.float32
    if double:
        value = add("Cast", [value], to=11)
    if fitted.binary:
        value = add("Min", [value, kind(1)])
    return value if type(fitted).__name__ == "CountVectorizer" else write_weights(fitted, value, add, double=double)


def write_weights(fitted: Any, value: str, add: Add, *, double: bool) -> str:
    """Add the nodes from counts to the weights of a `TfidfTransformer` or `TfidfVectorizer`; the name of these."""
    kind = np.float64 if double else np.float32
    if fitted.sublinear_tf:
        logarithm = add("Add", [add("Log", [add("Max", [value, kind(1)])]), kind(1)])
        value = add("Where", [add("Greater", [value, kind(0)]), logarithm, kind(0)])
    if fitted.use_idf:
        value = add("Mul", [value, fitted.idf_.astype(kind)])
    if fitted.norm is not None:
        reduce = {"l1": "ReduceL1", "l2": "ReduceL2"}[fitted.norm]
        size = add(reduce, [value], axes=[1], keepdims=1)
        value = add("Div", [value, add("Where", [add("Greater", [size, kind(0)]), size, kind(1)])])
    return value


def _ngrams(vectorizer: Vectorizer) -> dict[str, Any]:
    """The terms as the operator has them: their ids in one pool, short ones first."""
    columns = sorted(range(len(vectorizer.terms)), key=lambda column: (len(vectorizer.terms[column]), column))
    lengths = [len(vectorizer.terms[column]) for column in columns]
    most = lengths[-1]
    starts = [sum(length for length in lengths if length < size) for size in range(1, most + 1)]
    pool = [vectorizer.ids[token] for column in columns for token in vectorizer.terms[column]]
    return {
        "mode": "TF", "max_skip_count": 0, "min_gram_length": lengths[0], "max_gram_length": most,
        "ngram_counts": starts, "ngram_indexes": columns, "pool_int64s": pool,
    }  # fmt: skip


def _tokenizer(fitted: Any, ids: dict[str, int]) -> Tokenizer:
    rules: list[dict[str, Any]] = []
    if fitted.lowercase:
        rules += [_replace(_FINAL_SIGMA, "ς"), {"type": "Lowercase"}]
    if fitted.strip_accents is not None:
        marks = r"[^\x00-\x7F]" if fitted.strip_accents == "ascii" else _marks()
        rules += [{"type": "NFKD"}, _replace(marks, "")]
    around = "<s>"
    pattern, inverted = r"[\s\S]", False
    if fitted.analyzer == "word":
        several = fitted.ngram_range[1] > 1
        stopped = frozenset(fitted.get_stop_words() or ()) if several else frozenset()
        pattern, inverted = words_of(fitted.token_pattern, stopped), True
    elif fitted.analyzer == "char":
        rules.append(_replace(f"[{SPACE}]{{2,}}", " "))
    else:  # a space on both sides of every word: two between words, one at each end
        rules += [_replace(f"^[{SPACE}]+", ""), _replace(f"[{SPACE}]+$", ""), _replace(f"[{SPACE}]+", "  ")]
        around = " "
    unknown = _free("<unk>", ids)
    around = around if around == " " else _free(around, ids)
    vocabulary = {unknown: UNKNOWN, **ids} if around in ids else {unknown: UNKNOWN, around: START, **ids}
    special = {"SpecialToken": {"id": around, "type_id": 0}}
    single = [special, {"Sequence": {"id": "A", "type_id": 0}}, *([special] if around == " " else [])]
    document: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "decoder": None,
        "normalizer": {"type": "Sequence", "normalizers": rules} if rules else None,
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed" if inverted else "Isolated",
            "invert": inverted,
        },
        "post_processor": {
            "type": "TemplateProcessing", "single": single,
            "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {around: {"id": around, "ids": [vocabulary[around]], "tokens": [around]}},
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
    }  # fmt: skip
    try:
        return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception
        raise UsageError(f"the token pattern cannot be packed: {error}", found=str(fitted.token_pattern)) from None


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _free(name: str, taken: dict[str, int]) -> str:
    while name in taken:
        name += "_"
    return name


@cache
def _marks() -> str:
    """Every character that combines with another, as a set: what Python calls so is not quite Unicode's marks."""
    found = [code for code in range(sys.maxunicode + 1) if unicodedata.combining(chr(code))]
    edges = [found[0], *(code for before, after in pairwise(found) if after != before + 1 for code in (before, after))]
    edges.append(found[-1])
    ranges = zip(edges[::2], edges[1::2], strict=True)
    # the characters themselves: engines write their numbers in different ways
    return "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges) + "]"
