"""Spoils clean utterances the way people do on a phone, so that the head sees more of it than was written by hand.

Deterministic: the same text, copy and seed give the same spoilt text. It knows nothing of intents or models.
"""

from __future__ import annotations

import random
import re

KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

#: What people write for what they mean; whole words or phrases, lower case.
SLANG: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("want to", ("wanna",)),
    ("going to", ("gonna",)),
    ("have to", ("hafta", "gotta")),
    ("give me", ("gimme",)),
    ("let me", ("lemme",)),
    ("i don't know", ("idk", "dunno")),
    ("right now", ("rn",)),
    ("you", ("u", "ya")),
    ("your", ("ur", "yr")),
    ("are", ("r",)),
    ("please", ("pls", "plz", "plse")),
    ("thanks", ("thx", "tnx", "thnx")),
    ("thank you", ("ty", "thank u")),
    ("to", ("2",)),
    ("for", ("4",)),
    ("before", ("b4",)),
    ("later", ("l8r",)),
    ("because", ("cuz", "bc", "coz")),
    ("tomorrow", ("tmrw", "2moro")),
    ("today", ("2day",)),
    ("something", ("smth", "sumthin")),
    ("with", ("w/", "wiv")),
    ("without", ("w/o",)),
    ("what", ("wat", "wht")),
    ("the", ("da", "teh")),
    ("this", ("dis",)),
    ("my", ("me", "ma")),
    ("have", ("hv", "av")),
    ("isn't", ("aint",)),
    ("haven't", ("havent", "aint")),
    ("very", ("v", "rly")),
    ("and", ("n", "&")),
    ("people", ("ppl",)),
    ("message", ("msg",)),
    ("password", ("pw", "pwd", "passwd")),
    ("subscription", ("sub", "subscrip", "subsription")),
    ("account", ("acc", "acct", "acount")),
    ("address", ("addr", "adress")),
    ("delivery", ("delivry", "delievery")),
    ("received", ("recieved", "got")),
    ("month", ("mth",)),
    ("package", ("pkg",)),
    ("number", ("nr", "no.")),
    ("refund", ("refnd", "refound")),
)
LEAD_INS = ("hey ", "hi ", "yo ", "um ", "ok so ", "hey guys ", "omg ", "ok ", "so ", "listen, ", "hello, ", "sry but ")
TAILS = (" lol", " pls", " plz", " asap", " thx", "!!", "??", "...", " :(", " ugh", " tbh", " mate")


def spoil(text: str, *, copy: int, seed: int = 0) -> str:
    """The text with the slips of one hasty writer; `copy` tells several spoilt copies of one text apart."""
    # a string seed goes through SHA-512, so it does not depend on the interpreter's hash seed
    chance = random.Random(f"{seed}/{copy}/{text}")
    spoilt = text
    if chance.random() < 0.5:
        spoilt = _slang(spoilt, chance)
    if chance.random() < 0.6:
        spoilt = spoilt.lower()
    if chance.random() < 0.5:
        spoilt = spoilt.replace("'", "").replace("\u2019", "")
    if chance.random() < 0.5:
        spoilt = re.sub(r"[.,!?;:]+(?=\s|$)", "", spoilt)
    for _ in range(_slips(spoilt, chance)):
        spoilt = _slip(spoilt, chance)
    words = len(spoilt.split())
    if words > 2 and chance.random() < 0.12:
        spoilt = chance.choice(LEAD_INS) + spoilt
    if words > 2 and chance.random() < 0.12:
        spoilt += chance.choice(TAILS)
    return spoilt if spoilt.strip() else text


def _slips(text: str, chance: random.Random) -> int:
    """About one slip in five words, none in very short words such as hi."""
    letters = sum(character.isalpha() for character in text)
    if letters < 4:
        return 0
    most = 1 if letters < 12 else 2 if letters < 40 else 4
    return chance.randint(0 if letters < 12 else 1, most)


def _slang(text: str, chance: random.Random) -> str:
    for meant, written in SLANG:
        if meant in text.lower() and chance.random() < 0.5:
            replacement = chance.choice(written)
            text = re.sub(rf"\b{re.escape(meant)}\b", replacement, text, flags=re.IGNORECASE)
    return text


def _slip(text: str, chance: random.Random) -> str:
    """One slip of a finger inside a word: a neighbouring key, two letters swapped, one dropped or doubled, no space."""
    places = [
        at for at in range(1, len(text) - 1) if text[at - 1].isalpha() and text[at].isalpha() and text[at + 1].isalpha()
    ]
    if not places:
        return text
    at = chance.choice(places)
    kind = chance.random()
    if kind < 0.3:
        return text[:at] + _neighbour(text[at], chance) + text[at + 1 :]
    if kind < 0.55:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind < 0.8:
        return text[:at] + text[at + 1 :]
    if kind < 0.93:
        return text[:at] + text[at] + text[at:]
    gaps = [gap for gap, character in enumerate(text) if character == " "]
    if not gaps:
        return text[:at] + text[at + 1 :]
    gap = chance.choice(gaps)
    return text[:gap] + text[gap + 1 :]


def _neighbour(letter: str, chance: random.Random) -> str:
    for row in KEYBOARD_ROWS:
        at = row.find(letter.lower())
        if at >= 0:
            near = [row[beside] for beside in (at - 1, at + 1) if 0 <= beside < len(row)]
            return chance.choice(near)
    return letter
