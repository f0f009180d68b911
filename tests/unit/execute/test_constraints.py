"""Schemas become grammars that end, or are refused: a text is never held to nothing without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="schemas need the extra `llm`")

from onward.errors import InputError
from onward.execute.constraints import ending, grammar_of
from onward.execute.tool_calls import ToolUse
from onward.types import Prompt, Sampling

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def grammar(sampling: Sampling, **prompt: Any) -> str:
    return grammar_of(sampling, ToolUse(Prompt(sampling=sampling, **prompt)))


def test_free_text_has_no_grammar_and_a_given_one_is_taken_as_it_is() -> None:
    assert grammar(Sampling()) == ""
    assert grammar(Sampling(grammar="root ::= [a-z]")) == "root ::= [a-z]"


def test_a_schema_and_tools_become_grammars() -> None:
    assert "%json" in grammar(Sampling(json_schema={"type": "object"}))
    assert "<tool_call>" in grammar(Sampling(), tools=(TOOL,))
    assert "<tool_call>" not in grammar(Sampling(), tools=(TOOL,), tool_choice="required")
    assert grammar(Sampling(), tools=(TOOL,), tool_choice="none") == ""


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"not": {"type": "string"}}, {"$ref": "http://elsewhere/x"},
     {"type": "string", "pattern": "("}, {"type": "array", "uniqueItems": True}],
)  # fmt: skip
def test_a_schema_that_text_cannot_be_held_to_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        grammar(Sampling(json_schema=schema))
    assert refused.value.where == "json_schema"
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with pytest.raises(InputError) as refused:
        grammar(Sampling(), tools=(tool,), tool_choice="required")
    assert refused.value.where == "tools"


def test_numbers_get_bounds_where_they_have_none() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer", "minimum": 3},
              "c": {"type": ["integer", "null"]}, "d": {"enum": [{"type": "number"}]}}}  # fmt: skip
    before = json.dumps(schema)
    made = ending(schema)["properties"]
    assert {"minimum", "maximum", "multipleOf"} <= made["a"].keys() and "maximum" in made["c"]
    assert made["b"] == {"type": "integer", "minimum": 3} and made["d"] == schema["properties"]["d"]
    assert json.dumps(schema) == before
