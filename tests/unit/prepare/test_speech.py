"""A text in pieces to be said: nothing is lost, none is too long, and what no voice says is refused."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onward.errors import InputError, OutOfRange, PackageError, TooLarge, UnknownInput
from onward.package.manifest import parse_manifest
from onward.package.records import Manifest
from onward.prepare.speech import (
    FIRST_CHARACTERS,
    MOST_CHARACTERS,
    SpeechPreparation,
    pieces,
    sentences,
    speech_of,
    spoken,
)

VOICE = Path("gallery/voice/onward.toml")
TEXTS = st.text(alphabet=st.one_of(st.sampled_from(" \n.,;:!?…—\"'”)aB1é"), st.characters()), max_size=1200)


def manifest(change: tuple[str, str] = ("", "")) -> Manifest:
    return parse_manifest(VOICE.read_text(encoding="utf-8").replace(*change, 1))


def dense(text: str) -> str:
    return "".join(text.split())


@given(TEXTS)
@example("w" * 1000)
@example("word " * 60 + "then, after a long breath, the end")
@example("Mr. " * 200)
def test_pieces_lose_no_character_and_none_is_longer_than_the_most(text: str) -> None:
    found = pieces(text)
    assert dense("".join(found)) == dense(text)
    assert all(0 < len(piece) <= MOST_CHARACTERS and piece == piece.strip() for piece in found)


@given(TEXTS)
def test_sentences_lose_no_character(text: str) -> None:
    assert dense("".join(sentences(text))) == dense(text)


@given(st.text(max_size=300))
def test_what_is_spoken_has_no_control_characters_and_is_itself_again(text: str) -> None:
    said = spoken(text)
    assert said == spoken(said)
    assert all(character == "\n" or unicodedata.category(character)[0] != "C" for character in said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith met Mrs. Jones. They talked.", ["Dr. Smith met Mrs. Jones.", "They talked."]),
        ("It costs 3.50 dollars. Pay.", ["It costs 3.50 dollars.", "Pay."]),
        ("J. R. R. Tolkien wrote it.", ["J. R. R. Tolkien wrote it."]),
        ('"Stop!" he said. "Why?"', ['"Stop!"', "he said.", '"Why?"']),
        ("A line\nand another\n\n", ["A line", "and another"]),
        ("Mr.\nSmith", ["Mr.", "Smith"]),
        (" \n ", []),
    ],
)
def test_sentences_end_at_points_and_lines_but_not_at_abbreviations_and_numbers(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def test_the_first_piece_of_a_long_sentence_ends_at_its_first_breath() -> None:
    text = "When the rain had stopped, they walked all the way home along the river."
    assert pieces(text) == ["When the rain had stopped,", "they walked all the way home along the river."]


def test_a_short_sentence_is_one_piece() -> None:
    text = "First, a short sentence, of few words."
    assert len(text) <= FIRST_CHARACTERS and pieces(text) == [text]


def test_a_long_sentence_is_cut_between_words() -> None:
    text = "word " * 200
    assert all(set(piece.split()) == {"word"} for piece in pieces(text))


@pytest.mark.parametrize(
    "text", ["A. " * 1365, "!" * 4096, "'" * 4096, '."' * 2048, " " * 4096, "x" * 4096, ", " * 2048]
)
def test_no_text_within_the_limit_takes_long(text: str) -> None:
    started_s = time.thread_time()
    pieces(text)
    assert time.thread_time() - started_s < 1.0


def test_an_item_becomes_its_pieces_and_speed() -> None:
    prepare = SpeechPreparation(manifest())
    asked = prepare({"text": "Hello. Goodbye.", "speed": 2.0})
    assert (asked.text, asked.pieces, asked.speed) == ("Hello. Goodbye.", ("Hello.", "Goodbye."), 2.0)
    assert prepare({"text": "Hello."}).speed == 1.0


@pytest.mark.parametrize("speed", [0.2, 4.1, float("nan"), float("inf")])
def test_a_speed_no_voice_has_is_refused(speed: float) -> None:
    with pytest.raises(OutOfRange):
        SpeechPreparation(manifest())({"text": "Hello.", "speed": speed})


def test_a_text_beyond_the_limit_is_refused_and_one_at_the_limit_is_taken() -> None:
    prepare = SpeechPreparation(manifest(("characters = 4096", "characters = 10")))
    assert prepare({"text": "a" * 10}).pieces == ("a" * 10,)
    with pytest.raises(TooLarge) as refused:
        prepare({"text": "a" * 11})
    assert refused.value.where == "text"


@pytest.mark.parametrize("text", ["", "  ", "...", "?!\0", "—", "\u202e"])
def test_nothing_to_say_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        speech_of(text)


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(UnknownInput):
        SpeechPreparation(manifest())({"text": "Hello.", "pitch": 2.0})


def test_a_package_of_no_text_is_no_voice() -> None:
    with pytest.raises(PackageError):
        SpeechPreparation(manifest(('content = "text"\n', "")))
