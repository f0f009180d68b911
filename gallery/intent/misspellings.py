"""Teaches a WordPiece tokenizer the misspellings and chat shorthand of the words that customers use most.

A misspelt word would fall apart into word pieces that mean nothing to the encoder. Here it becomes one more entry of
the vocabulary, with the id of the word it stands for: no extra step, no cost at run time, and every runner that reads
`tokenizer.json` (Python, browser) corrects the same way. A misspelling that is a word itself, or could stand for two
words, is left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from gallery.intent.typos import KEYBOARD_ROWS

#: Shorter words have too many neighbours that are words themselves.
SHORTEST = 4
#: A misspelling that two words share goes to the more frequent one only where it is this much more frequent.
CLEAR_MAJORITY = 5.0

#: What people write on a phone for one whole word. Only what is no word piece yet, so that nothing else changes.
SHORTHAND = {
    "pls": "please", "plz": "please", "plse": "please", "plss": "please", "plzz": "please",
    "thx": "thanks", "thnx": "thanks", "tnx": "thanks", "thanx": "thanks", "thnks": "thanks", "tks": "thanks",
    "thks": "thanks", "thankz": "thanks", "tysm": "thanks", "thxx": "thanks",
    "wht": "what", "wut": "what", "whats": "what", "wats": "what", "hw": "how", "whr": "where", "wher": "where",
    "wheres": "where", "wers": "where", "whens": "when", "teh": "the", "gimme": "give", "lemme": "let",
    "wiv": "with", "cuz": "because", "coz": "because", "bcuz": "because", "b4": "before", "l8r": "later",
    "2day": "today", "2moro": "tomorrow", "tmrw": "tomorrow", "smth": "something", "sum1": "someone",
    "some1": "someone", "any1": "anyone", "ppl": "people", "msg": "message", "abt": "about", "acct": "account",
    "acnt": "account", "addr": "address", "addy": "address", "pwd": "password", "passwd": "password",
    "pkg": "package", "subscrip": "subscription", "mnth": "month", "ordr": "order", "dlvry": "delivery",
    "delvry": "delivery", "rcvd": "received", "recvd": "received", "wana": "wanna", "prezzie": "present",
    "pressie": "present", "bday": "birthday", "dmgd": "damaged",
}  # fmt: skip
#: The same where the shorthand already begins other words, so that only the lone word may be replaced.
LONE = {"u": "you", "ur": "your", "r": "are", "sub": "subscription", "subs": "subscription", "ty": "thanks",
        "pw": "password", "acc": "account", "hv": "have", "wat": "what", "wen": "when", "dis": "this",
        "da": "the"}  # fmt: skip
#: Frequent words without an entry of their own: their misspellings are rewritten before the word is cut in pieces.
REWRITTEN_FROM = 8


def teach(tokenizer_json: str, utterances: Iterable[str], *, at_least: int = 3) -> str:
    """The `tokenizer.json` text with the misspellings added of every word that `at_least` utterances use."""
    content = json.loads(tokenizer_json)
    vocabulary: dict[str, int] = content["model"]["vocab"]
    uses = Counter(word for text in utterances for word in set(re.findall(r"[a-z]+", text.lower())))
    targets = {word: count for word, count in uses.items() if count >= at_least and word in vocabulary}
    for written, meant in _unambiguous(targets, uses, frozenset(vocabulary)).items():
        vocabulary[written] = vocabulary[meant]
    for written, meant in SHORTHAND.items():
        if meant in vocabulary and written not in vocabulary:
            vocabulary[written] = vocabulary[meant]
    whole = {word: count for word, count in uses.items() if count >= REWRITTEN_FROM and word not in vocabulary}
    rules = [_rule([written], meant) for written, meant in LONE.items()]
    by_word: dict[str, list[str]] = {}
    for written, meant in _unambiguous(whole, uses, frozenset(vocabulary)).items():
        by_word.setdefault(meant, []).append(written)
    rules += [_rule(written, meant) for meant, written in sorted(by_word.items())]
    content["normalizer"] = {"type": "Sequence", "normalizers": [content["normalizer"], *rules]}
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _rule(written: list[str], meant: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": {"Regex": rf"\b(?:{'|'.join(written)})\b"}, "content": meant}


def _unambiguous(targets: dict[str, int], uses: Counter[str], known: frozenset[str]) -> dict[str, str]:
    claims: dict[str, list[tuple[int, str]]] = {}
    for word, count in targets.items():
        if len(word) >= SHORTEST:
            for written in set(variants(word)) - known:
                # what the utterances often write themselves is a word of its own, such as delete beside deleted
                if uses[written] * CLEAR_MAJORITY > count:
                    continue
                claims.setdefault(written, []).append((count, word))
    chosen = {}
    for written, claim in claims.items():
        claim.sort(reverse=True)
        if len(claim) == 1 or claim[0][0] >= CLEAR_MAJORITY * claim[1][0]:
            chosen[written] = claim[0][1]
    return dict(sorted(chosen.items()))


def variants(word: str) -> Iterator[str]:
    """One slip of the finger from the word, its first letter intact except for a swap."""
    for at in range(len(word)):
        if at and len(word) > SHORTEST:
            yield word[:at] + word[at + 1 :]  # dropped
        yield word[:at] + word[at] + word[at:]  # doubled
        if at + 1 < len(word):
            yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]  # swapped
        if at:
            for near in neighbours(word[at]):
                yield word[:at] + near + word[at + 1 :]  # a neighbouring key
    for vowel, other in (("e", "a"), ("a", "e"), ("e", "i"), ("i", "e"), ("o", "u"), ("s", "c"), ("c", "s")):
        for found in re.finditer(vowel, word[1:]):
            at = found.start() + 1
            yield word[:at] + other + word[at + 1 :]  # as it sounds


def neighbours(letter: str) -> str:
    """The keys left and right of the letter."""
    for row in KEYBOARD_ROWS:
        at = row.find(letter)
        if at >= 0:
            return row[max(at - 1, 0) : at] + row[at + 1 : at + 2]
    return ""
