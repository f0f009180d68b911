"""Cutting a reply that is still being written into what can be spoken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onward.runners.serve.voice.assistant import Clauses

TEXT = "Yes, I can do that for you, of course. It costs 3.5 euros. Shall I?"


def test_the_first_cut_comes_early_and_later_ones_where_sentences_end() -> None:
    clauses = Clauses()
    cut = [clause for word in TEXT.split(" ") for clause in clauses.add(word + " ")]
    assert cut == ["Yes, I can do that for you,", "of course.", "It costs 3.5 euros.", "Shall I?"]
    assert clauses.rest(TEXT) == []


def test_a_text_that_came_in_no_pieces_is_spoken_whole() -> None:
    assert Clauses().rest(f" {TEXT}") == [TEXT]
    assert Clauses().rest(" ") == []


@given(st.text("ab ,.!?3", max_size=80), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_nothing_is_lost_or_said_twice(text: str, sizes: list[int]) -> None:
    clauses, said, at, index = Clauses(), [], 0, 0
    while at < len(text):
        size = sizes[index % len(sizes)]
        said += clauses.add(text[at : at + size])
        at, index = at + size, index + 1
    said += clauses.rest(text)
    assert "".join("".join(said).split()) == "".join(text.split())
