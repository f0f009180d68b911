"""One message, read on its own: what it means, what it asks for, what it names. Pure, and never raises.

Knows nothing of where a dialogue stands but for the slot that was asked for.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from onward.dialogue.entities import Found, find
from onward.dialogue.records import Definition, Intent, Quote, Request, Wish

MOST_WISHES = 3
_MOST_CLAUSES = 6
_SHORT_WORDS = 8
SURE = 0.7
_UNSURE = 0.5
_CLAUSES = re.compile(r"[;!?\n]+|[.,](?!\d)|\s(?:and|then|also|plus|but|n|&|und)\s")
_WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_WORDS_BEFORE = 4
_PHRASE_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What one message says. `means`: "yes", "no", "stop", "human" or ""; `pointer`: "other", "last", "first" or ""."""

    text: str
    intent: Intent | None
    label: str
    score: float
    means: str
    pointer: str
    is_question: bool
    wants_everything: bool
    corrects: bool
    found: Mapping[str, Sequence[Found]]
    wishes: tuple[Wish, ...]
    worded: frozenset[str]
    phrased: frozenset[str]
    quote: Quote | None


def bounded(text: str, limit: int) -> str:
    """A message as it is worked with: no control characters, no endless run of spaces, at most `limit` characters."""
    cut = text[: 4 * limit]
    kept = "".join(letter if letter == "\n" or unicodedata.category(letter)[0] != "C" else " " for letter in cut)
    return re.sub(r"[ \t\u00a0]+", " ", kept).strip()[:limit]


def hear(
    definition: Definition,
    text: str,
    answer: Mapping[str, Any],
    *,
    today: date,
    profile: Mapping[str, Any],
    awaited: str,
) -> Heard:
    """Read a bounded message and the model's answer to it. `awaited` is the slot that was asked for, or ""."""
    plain = _folded(text)
    label, score = _best(answer.get("labels"), "label")
    intent = definition.intents.get(label) if score >= definition.settings.least_score else None
    looks = {"today": today, "profile": profile}
    found = find(text, definition.slots.values(), awaited=awaited, **looks)  # type: ignore[arg-type]
    pointer = next((name for name in ("other", "last", "first") if _says(plain, definition.words[name])), "")
    is_question = _is_question(definition, plain, text)
    wishes, worded, phrased, refused = _wishes(definition, text, intent, score, found, looks, bool(pointer))
    return Heard(
        text=text,
        intent=intent,
        label=label,
        score=score,
        means=_means(definition, plain, intent, score, refused, is_question),
        pointer=pointer,
        is_question=is_question,
        wants_everything=_says(plain, definition.words["everything"]),
        corrects=_says(plain, definition.words["meant"]),
        found=found,
        wishes=wishes,
        worded=worded,
        phrased=phrased,
        quote=_quote(definition, answer),
    )


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'").replace("`", "'")
    return " ".join(_WORD.findall(plain))


def _says(plain: str, phrases: Iterable[str]) -> bool:
    """Whether one of the phrases stands in the text, as whole words."""
    padded = f" {plain} "
    return any(f" {phrase} " in padded for phrase in phrases)


def _best(labels: Any, key: str) -> tuple[str, float]:
    if isinstance(labels, list) and labels and isinstance(labels[0], Mapping):
        label, score = labels[0].get(key), labels[0].get("score")
        if isinstance(label, str) and isinstance(score, int | float) and math.isfinite(score):
            return label, float(score)
    return "", 0.0


def _quote(definition: Definition, answer: Mapping[str, Any]) -> Quote | None:
    """The best passage, `ARTICLE#SENTENCE` in the passages' file, and how likely it is to answer the question."""
    passage, _ = _best(answer.get("passages"), "passage")
    name, _, number = passage.partition("#")
    article = definition.articles.get(name)
    known = answer.get("known")
    if article is None or not article.sentences or not isinstance(known, int | float) or not math.isfinite(known):
        return None
    at = int(number) if number.isdecimal() and int(number) < len(article.sentences) else 0
    return Quote(article=article, sentence=article.sentences[at], known=float(known))


def _means(
    definition: Definition, plain: str, intent: Intent | None, score: float, refused: bool, is_question: bool
) -> str:
    """A yes or no at the start of the message counts; else what the model makes of a short one."""
    words = definition.words
    if _says(plain, words["human"]) or (intent is not None and intent.means == "human" and not is_question):
        return "human"
    rest = _without_filler(definition, plain)
    if _says(rest, words["stop"]):
        return "stop"
    starts = [
        (len(phrase), name) for name in ("yes", "no") for phrase in words[name] if f"{rest} ".startswith(f"{phrase} ")
    ]
    if starts:
        meaning = max(starts)[1]
        # "yes, no wait" is no yes: whoever takes it back within the message has not agreed
        return (
            "no" if meaning == "yes" and (refused or _says(rest, ("no", "don't", "dont", "wait", "not"))) else meaning
        )
    if refused:
        return "no"
    if intent is not None and intent.means in ("yes", "no") and score >= SURE and len(rest.split()) <= _SHORT_WORDS:
        return intent.means
    return ""


def _without_filler(definition: Definition, plain: str) -> str:
    for _ in range(3):
        for phrase in definition.words["filler"]:
            if plain.startswith(f"{phrase} "):
                plain = plain[len(phrase) + 1 :]
                break
        else:
            break
    return plain


def _is_question(definition: Definition, plain: str, text: str) -> bool:
    """Whether something is asked: a clause begins as questions do, or "?" ends what is no polite request."""
    starts = tuple(f"{phrase} " for phrase in definition.words["question"])
    clauses = [_folded(clause) for clause in _CLAUSES.split(text)[:_MOST_CLAUSES]]
    if any(f"{_without_filler(definition, clause)} ".startswith(starts) for clause in (plain, *clauses)):
        return True
    polite = tuple(f"{phrase} " for phrase in definition.words["polite"])
    return text.rstrip().endswith("?") and not f"{_without_filler(definition, plain)} ".startswith(polite)


def _wishes(
    definition: Definition,
    text: str,
    intent: Intent | None,
    score: float,
    found: Mapping[str, Sequence[Found]],
    looks: Mapping[str, Any],
    is_pointed: bool,
) -> tuple[tuple[Wish, ...], frozenset[str], frozenset[str], bool]:
    """What the message asks for, which requests it has words and whole phrases for, and whether one is not wanted.

    Several wishes are told apart by the words of requests in the clauses; a single one by the model.
    """
    wishes: dict[str, Wish] = {}
    refused: set[str] = set()
    phrased: set[str] = set()
    for clause in _CLAUSES.split(text.lower())[:_MOST_CLAUSES]:
        plain = _folded(clause)
        request, negated, words = _by_words(definition, plain)
        if request is None:
            continue
        if negated:
            refused.add(request.name)
            continue
        if words >= _PHRASE_WORDS:
            phrased.add(request.name)
        own = find(clause, (definition.slots[name] for name in (*request.slots, *request.optional)), **looks)
        wishes.setdefault(request.name, _wish(definition, request, own, found))
    worded = frozenset(wishes)
    of_model = definition.requests.get(intent.request) if intent is not None else None
    if of_model is not None and of_model.name in refused:
        of_model = None
    if len(wishes) < 2 and of_model is not None and not phrased:
        # The model has read the whole of it: a word of another request does not outweigh that, a phrase does.
        wishes = {of_model.name: wishes.get(of_model.name) or _wish(definition, of_model, {}, found)}
    elif len(wishes) == 1 and not refused:
        # One word alone, where the model reads something else: it counts with a detail, or beside a yes or no.
        (wish,) = wishes.values()
        request = definition.requests[wish.request]
        has_detail = (
            is_pointed
            or wish.request in phrased
            or any(found.get(name) for name in (*request.slots, *request.optional))
        )
        answers = intent is not None and bool(intent.means)
        is_unsure = intent is None and score < _UNSURE
        if not (has_detail or answers or is_unsure):
            wishes = {}
    return tuple(wishes.values())[:MOST_WISHES], worded, frozenset(phrased), bool(refused)


def _wish(
    definition: Definition,
    request: Request,
    own: Mapping[str, Sequence[Found]],
    found: Mapping[str, Sequence[Found]],
) -> Wish:
    slots = {}
    for name in (*request.slots, *request.optional):
        values = [each.value for each in own.get(name) or found.get(name) or () if not each.trouble]
        if values:
            # Of several days the last is the end: "from the 20th until january 10".
            slots[name] = max(values) if definition.slots[name].type == "date" else values[0]
    return Wish(request=request.name, slots=slots)


def _by_words(definition: Definition, plain: str) -> tuple[Request | None, bool, int]:
    """The request whose words stand in a clause, longest first; whether they are negated; how many they are."""
    best: tuple[int, Request, int, int] | None = None
    spelt = plain.split()
    for request in definition.requests.values():
        for phrase in request.words:
            at = _place(spelt, phrase.split())
            if at >= 0 and (best is None or len(phrase) > best[0]):
                best = (len(phrase), request, at, len(phrase.split()))
    if best is None:
        return None, False, 0
    before = " ".join(spelt[max(best[2] - _WORDS_BEFORE, 0) : best[2]])
    return best[1], _says(before, definition.words["negation"]), best[3]


def _place(spelt: Sequence[str], phrase: Sequence[str]) -> int:
    """Where the phrase begins among the words, a slip in a longer word forgiven; -1: nowhere."""
    for at in range(len(spelt) - len(phrase) + 1):
        if all(_alike(word, wanted) for word, wanted in zip(spelt[at:], phrase, strict=False)):
            return at
    return -1


def _alike(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    if len(wanted) < 5 or abs(len(word) - len(wanted)) > 2 or word[0] != wanted[0]:
        return False
    return difflib.SequenceMatcher(None, word, wanted).ratio() >= 0.8
