"""Tools as text: told to the model, held to their schemas, read back as calls; text that is none passes at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import InputError
from onward.execute.tool_calls import CLOSING, OPENING, ToolUse
from onward.types import Prompt, Sampling

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
NEWS = {"type": "function", "function": {"name": "news"}}
CALL = {"name": "weather", "arguments": {"city": "Rome"}}


def use(choice: Any = "", *, tools: tuple[dict[str, Any], ...] = (WEATHER, NEWS), **sampling: Any) -> ToolUse:
    return ToolUse(Prompt(sampling=Sampling(**sampling), tools=tools, tool_choice=choice))


def test_tools_are_told_in_the_system_message_and_calls_and_results_as_texts() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    told = use().messages([
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    ])  # fmt: skip
    assert told[0]["content"].startswith("Be brief.") and '"name": "weather"' in told[0]["content"]
    assert json.loads(told[2]["content"].removeprefix(OPENING).removesuffix(CLOSING)) == CALL
    assert told[3]["role"] == "user" and "sunny" in told[3]["content"]
    assert use("none").messages([{"role": "user", "content": "x"}]) == [{"role": "user", "content": "x"}]


def test_a_named_tool_is_the_only_one_and_an_unknown_one_is_refused() -> None:
    assert use({"function": {"name": "news"}}).schema["properties"]["name"] == {"const": "news"}
    assert len(use("required").schema["anyOf"]) == 2
    with pytest.raises(InputError, match="no such tool"):
        use({"function": {"name": "sports"}})
    with pytest.raises(InputError, match="form of its own"):
        use("required", json_schema={})


@given(st.text(), st.integers(1, 5))
def test_no_character_of_a_text_is_lost_however_it_comes(text: str, size: int) -> None:
    reading = use().reading()
    told = "".join(reading.take(text[at : at + size]) for at in range(0, len(text), size))
    rest, calls = reading.end()
    assert calls or told + rest == text


def test_a_call_is_held_back_and_read_and_one_cut_off_is_text() -> None:
    for choice, text in (("", OPENING + json.dumps(CALL) + CLOSING), ("required", json.dumps(CALL))):
        reading = use(choice).reading()
        assert [reading.take(letter) for letter in text] == [""] * len(text)
        rest, (call,) = reading.end()
        assert rest == "" and call["function"]["name"] == "weather" and call["id"]
        assert json.loads(call["function"]["arguments"]) == CALL["arguments"]
    cut = use("required").reading()
    cut.take('{"name": "wea')
    assert cut.end() == ('{"name": "wea', [])
