"""A text to be spoken, in pieces that a voice says one after the other; the first one is short, to be heard soon.

Pieces end where a speaker would breathe: at the end of a sentence, else at a comma. Knows no phonemes and no voice.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from onward.errors import InputError, OutOfRange, PackageError, TooLarge
from onward.package.records import Manifest
from onward.prepare.fields import ItemNames, field_array, shown, value_of
from onward.types import Item

MOST_CHARACTERS = 240
"""The longest piece: a voice's attention grows with its square, and it cannot be stopped within one."""
FIRST_CHARACTERS = 40
_LEAST_CHARACTERS = 12
SLOWEST, FASTEST = 0.25, 4.0
SPEED = "speed"

_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|\n\s*")
_BREATH = re.compile(r"[,;:—–][\"'”’)\]]*\s+")
_ABBREVIATED = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|approx|incl|No|Inc|Ltd|Co|Jr|Sr|[A-Z])\.\s+$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What a voice is asked to say: `text` in `pieces`, at `speed` times its usual pace."""

    text: str
    pieces: tuple[str, ...]
    speed: float = 1.0


class SpeechPreparation:
    """From an item to what a voice is asked: its text, and how fast where the package has an input `speed`."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises `PackageError` where there is no text to say."""
        texts = [field for field in manifest.inputs if field.content == "text"]
        if len(texts) != 1:
            raise PackageError("a voice says one text", where="input", expected='one input with content = "text"',
                               found=str(len(texts)))  # fmt: skip
        self._text = texts[0]
        self._names = ItemNames(manifest.inputs)
        self._speed = next((field for field in manifest.inputs if field.name == SPEED), None)
        self._max_characters = manifest.limits.characters

    def __call__(self, item: Item) -> Speech:
        """Raises `InputError`, `TooLarge` for a text beyond the limit, `OutOfRange` for a speed no voice has."""
        self._names.check(item)
        field = self._text
        text = field_array(field, value_of(field, item)).item().decode("utf-8", "replace")
        if len(text) > self._max_characters:
            raise TooLarge(where=field.name, expected=f"at most {self._max_characters} characters",
                           found=f"{len(text)} characters")  # fmt: skip
        speed = 1.0
        if self._speed is not None and (said := value_of(self._speed, item)) is not None:
            speed = float(field_array(self._speed, said).item())
            if not SLOWEST <= speed <= FASTEST:
                raise OutOfRange(where=SPEED, expected=f"{SLOWEST} to {FASTEST}", found=f"{speed:g}")
        return speech_of(text, speed=speed, where=field.name)


def speech_of(text: str, *, speed: float = 1.0, where: str = "text") -> Speech:
    """A text as a voice is asked to say it. Raises `InputError` where there is nothing to say."""
    said = spoken(text)
    if not any(character.isalnum() for character in said):
        raise InputError("there is nothing to say", where=where, expected="a text with words", found=shown(text))
    return Speech(text=said, pieces=tuple(pieces(said)), speed=speed)


def spoken(text: str) -> str:
    """A text without what no voice says: control characters are spaces, and letters are in one form."""
    kept = "".join(
        character if character == "\n" or unicodedata.category(character)[0] != "C" else " " for character in text
    )
    return unicodedata.normalize("NFC", kept).strip()


def pieces(text: str) -> list[str]:
    """The pieces of a text, in order; put together again, they have every character of it but white space."""
    found: list[str] = []
    for sentence in sentences(text):
        rest = sentence
        if not found and len(sentence) > FIRST_CHARACTERS:
            first, rest = _cut(sentence, _first_breath(sentence))
            found.append(first)
        found += _short(rest)
    return [piece for piece in found if piece]


def sentences(text: str) -> list[str]:
    """The sentences of a text: an abbreviation ends none, nor does the point of a number."""
    found, start = [], 0
    for end in _END.finditer(text):
        if _ABBREVIATED.search(text[start : end.end()]) and "\n" not in end.group():
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def _first_breath(sentence: str) -> int:
    ends = [breath.end() for breath in _BREATH.finditer(sentence) if breath.start() >= _LEAST_CHARACTERS]
    return ends[0] if ends and ends[0] < min(len(sentence), MOST_CHARACTERS) else 0


def _short(text: str) -> Iterator[str]:
    """A text in pieces of at most `MOST_CHARACTERS`, cut at the last comma, else between words, else anywhere."""
    while len(text) > MOST_CHARACTERS:
        head = text[:MOST_CHARACTERS]
        breaths = [breath.end() for breath in _BREATH.finditer(head)]
        at = breaths[-1] if breaths else head.rfind(" ") + 1 or MOST_CHARACTERS
        piece, text = _cut(text, at)
        yield piece
    yield text


def _cut(text: str, at: int) -> tuple[str, str]:
    return text[:at].strip(), text[at:].strip()
