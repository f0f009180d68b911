"""Generated prose: what passes, what does not, and the grammar that is made of the same rules."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from onward.errors import ExecutionError
from onward.generate.prose import Writing, numbers, sentences, words
from onward.package.manifest import parse_manifest
from onward.package.records import JsonText, Manifest, Prose

ITEM = {"product": "Kiln & Co. mug 2", "facts": "350 ml\nglazed by hand\nin 1,000 colours\nfour sizes", "json": False}
GOOD = (
    "The Kiln & Co. mug 2 holds 350 ml of tea and is glazed by hand. It comes in 1000 colours, so one will suit you. "
    "Choose one of the four sizes!"
)
PROSE = Prose(
    input="paragraph", opening="The {product}", min_words=20, min_sentences=3, numbers_from=("product", "facts"),
    forbidden=("here is", "as an AI"), quotes={"title": "product", "bullets": "facts"},
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "paragraph": {"type": "string"},
        "bullets": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3},
    },
    "required": ["title", "paragraph", "bullets"],
    "additionalProperties": False,
}


def writing_of(folder: Path, *steps: Prose | JsonText, schema: dict[str, Any] | None = None) -> Writing:
    (folder / "schema.json").write_text(json.dumps(schema or SCHEMA))
    return Writing(cast(Manifest, SimpleNamespace(generate=steps)), folder)


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    return writing_of(tmp_path, PROSE, JsonText(when="json"))


def test_a_full_paragraph_of_given_numbers_passes(writing: Writing) -> None:
    assert writing.check(GOOD, ITEM) == []
    assert writing.fields(f" {GOOD}\n", ITEM) == {"paragraph": GOOD}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (GOOD.replace("350", "450"), "the number 450 is not in the input"),
        (GOOD.replace("four", "five"), "the number 5 is not in the input"),
        (GOOD.replace("350 ml", "35 ml"), "the number 35 is not in the input"),
        (GOOD.removesuffix("!"), "it does not end as a sentence does"),
        (GOOD.replace("hand. It", "hand.\nIt"), "it is more than one paragraph"),
        (GOOD.replace("tea", "{drink}"), '"{drink}" is left of a template'),
        (GOOD.replace("tea", "[your drink]"), '"[your drink]" is left of a template'),
        (GOOD.replace("tea", "<|im_end|>"), '"<|im_end|>" is left of a template'),
        (GOOD.replace("It comes", "Here is how it comes"), '"here is" may not be in it'),
        (GOOD.replace("The Kiln", "A Kiln"), 'it does not begin with "The Kiln & Co. mug 2"'),
        ("The Kiln & Co. mug 2 is nice.", "7 words, expected at least 20"),
        (GOOD.replace(". It", ", it").replace(". Choose", ", choose"), "1 sentences, expected at least 3"),
        (f"{GOOD}\n- cheap.", "it has a list or a heading in it"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(writing: Writing, text: str, problem: str) -> None:
    assert problem in writing.check(text, ITEM)


def test_forbidden_words_are_whole_words(writing: Writing) -> None:
    assert writing.check(GOOD.replace("It comes", "There is more. It comes"), ITEM) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,000 and 1000", {1000}),
        ("two pockets, 2.0 litres", {2}),
        ("twenty-four hours, twenty four", {24}),
        ("at 20,000 mm or 49.90 EUR", {20000, Decimal("49.9")}),
        ("A4, IPX7, 5-year, 100%", {4, 7, 5, 100}),
        ("this one is often weightless", set()),
        ("a dozen", {12}),
    ],
)
def test_numbers_are_the_same_however_they_are_written(text: str, found: set[Any]) -> None:
    assert numbers(text) == {Decimal(number) for number in found}


def test_sentences_and_words_are_counted_as_people_do() -> None:
    assert sentences("It is 1.5 m long, e.g. for tents of Mill & Co. in all. Really? Yes!") == 3
    assert words("It is 1.5 m long, isn't it?") == 7


def test_json_is_checked_whole_and_its_members_become_outputs(writing: Writing) -> None:
    item = ITEM | {"json": True}
    answer = {"title": ITEM["product"], "paragraph": GOOD, "bullets": ["350 ml", "four sizes"]}
    assert writing.check(json.dumps(answer), item) == []
    assert writing.fields(json.dumps(answer), item) == answer
    assert writing.check(json.dumps(answer | {"bullets": ["360 ml"]}), item) == [
        '"360 ml" of bullets is no line of facts',
        "the number 360 is not in the input",
    ]
    assert writing.check(GOOD, item) == ["the model's text is not JSON; expected a JSON object"]
    with pytest.raises(ExecutionError, match="not a JSON object"):
        writing.fields("[1]", item)


def test_without_steps_every_text_passes(tmp_path: Path) -> None:
    free = writing_of(tmp_path)
    assert free.check("", {}) == []
    assert free.fields("hello ", {}) == {"text": "hello"}
    assert free.grammar({}) == ""
    assert (free.attempts, free.checks) == (1, False)


def test_the_grammar_has_the_numbers_of_the_item_and_no_others(writing: Writing) -> None:
    grammar = writing.grammar(ITEM)
    word = next(line for line in grammar.splitlines() if line.startswith("word ::="))
    assert word == 'word ::= (upper | lower) ending? | "2" | "350" | "1,000"'
    # "two" and "four" are among the facts; "five" is not and may not end a word after its last letter.
    assert "lower-five ::= [abcdefghijklmnopqrstuvwxyz] rest\n" in grammar
    assert next(line for line in grammar.splitlines() if line.startswith("lower-four ::=")).endswith('| ""')
    assert "[0-9]" not in grammar


def test_the_grammar_quotes_lines_in_their_order_and_none_twice(writing: Writing) -> None:
    grammar = writing.grammar(ITEM | {"json": True})
    assert r'title-0-0 ::= "\"Kiln & Co. mug 2\""' in grammar
    assert r"bullets-4-1 ::=" not in grammar  # after the last line alone there would be one too few
    assert r'bullets-4-2 ::= "]"' in grammar


def test_a_schema_that_the_grammar_cannot_tell_is_left_to_the_engine(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    other = writing_of(tmp_path, PROSE, JsonText(), schema=schema)
    assert other.grammar(ITEM) == ""
    assert other.schema(ITEM) == schema


def test_every_rule_of_a_grammar_is_defined_once(writing: Writing) -> None:
    for as_json in (False, True):
        rules = [line.split(" ::= ") for line in writing.grammar(ITEM | {"json": as_json}).splitlines()]
        names = [name for name, _ in rules]
        assert len(names) == len(set(names))
        for _, body in rules:
            outside = "".join(_unquoted(body))
            used = {word for word in outside.replace("(", " ").replace(")", " ").split() if word[0].isalpha()}
            assert {word.split("?")[0].split("{")[0] for word in used} <= set(names)


def _unquoted(body: str) -> list[str]:
    return [re.sub(r'"(?:\\.|[^"\\])*"|\[[^\]]*\](?:\{[^}]*\})?', " ", body)]


MANIFEST = """format = 1
[package]
name = "writer"
version = "1.0.0"
[[input]]
name = "product"
datatype = "BYTES"
content = "text"
[[output]]
name = "paragraph"
datatype = "BYTES"
[[prepare]]
step = "prompt"
template = "{product}"
[execute]
backend = "llama"
[[generate]]
step = "prose"
input = "paragraph"
"""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('numbers_from = ["produkt"]', "numbers_from[0]: no such input"),
        ('opening = "The {thing}"', "opening: no such input"),
        ('quotes = { title = "thing" }', "quotes.title: no such input"),
    ],
)
def test_a_prose_step_that_names_what_is_not_there_is_refused(line: str, message: str) -> None:
    with pytest.raises(Exception, match="no such input") as caught:
        parse_manifest(MANIFEST + line)
    assert message in str(caught.value)
