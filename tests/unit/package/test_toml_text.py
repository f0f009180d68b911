from __future__ import annotations

import time
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.package.toml_text import MAX_KEY_PARTS, MAX_WORD_LENGTH, load_toml

PIECES = ("a", "b", "1", ".", "=", '"', "'", '"""', "'''", "\\", "#", "\n", " ", "[", "]", "{", "}", ",", "é", "-")


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_what_is_not_refused_for_its_size_is_read_as_tomllib_reads_it(text: str) -> None:
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(tomllib.TOMLDecodeError):
            load_toml(text)
    else:
        assert load_toml(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "a = '''" + ".".join("a" * 40) + "'''",
        'a = "' + ".".join("a" * 40) + '"',
        'a = """' + ".".join("a" * 40) + '\\""" "" """',
        "# " + ".".join("a" * 40) + "\na = 1",
        'a = "' + "9" * 5000 + '"',
        "a = [" + "1.5, " * 1000 + "]",
        "a = ['', " + '"", """""", ' + "'''''', " + '"""a""""", ' + "'''a''''']",
    ],
)
def test_texts_and_comments_may_say_anything(text: str) -> None:
    assert load_toml(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * (MAX_KEY_PARTS + 1)) + " = 1",
        " . ".join(['"a"'] * (MAX_KEY_PARTS + 1)) + " = 1",
        "[" + ".".join("a" * (MAX_KEY_PARTS + 1)) + "]",
        "a = {" + ".".join("a" * (MAX_KEY_PARTS + 1)) + " = 1}",
        "a = " + "9" * (MAX_WORD_LENGTH + 1),
        "a = 0x" + "f" * MAX_WORD_LENGTH,
        "a" * (MAX_WORD_LENGTH + 1) + " = 1",
    ],
)
def test_what_would_take_tomllib_for_ever_is_refused(text: str) -> None:
    tomllib.loads(text) if "9" not in text else None  # valid, but for its size
    with pytest.raises(tomllib.TOMLDecodeError, match="more than"):
        load_toml(text)


def test_a_million_characters_are_looked_at_in_little_time() -> None:
    started_s = time.process_time()
    for piece in ("a.", "a-", "a ", '"', "'", "\\", '"a".', "a" * 1000 + " ", '\\"""x"', "\\'''x'", '"""', "'''", '""'):
        with pytest.raises(tomllib.TOMLDecodeError):
            load_toml(piece * (1_000_000 // len(piece)))
    assert time.process_time() - started_s < 4
