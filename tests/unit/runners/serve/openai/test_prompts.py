"""OpenAI requests become prompts that say all that was asked, or are refused with the parameter's path."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from onward.runners.serve.openai.errors import Refused, tell
from onward.runners.serve.openai.prompts import chat_prompts, completion_prompts
from onward.runners.serve.openai.schema import ChatRequest, CompletionRequest, read
from onward.types import Prompt, Sampling

CHAT = msgspec.json.Decoder(ChatRequest)
COMPLETION = msgspec.json.Decoder(CompletionRequest)
USUAL = Sampling(max_tokens=77, temperature=0.3, stop=("END",))
ASK = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> list[Prompt]:
    return chat_prompts(read(CHAT, json.dumps({"model": "m", "messages": [ASK]} | fields).encode()), USUAL)


def completion(**fields: Any) -> list[Prompt]:
    return completion_prompts(read(COMPLETION, json.dumps({"model": "m", "prompt": "Once"} | fields).encode()), USUAL)


def refused(make: Any, **fields: Any) -> dict[str, Any]:
    with pytest.raises(Refused) as caught:
        make(**fields)
    told = tell(caught.value)
    assert told.status == 400
    error: dict[str, Any] = json.loads(told.body)["error"]
    assert error["type"] == "invalid_request_error"
    return error


def test_what_a_request_leaves_open_is_as_the_package_says() -> None:
    (prompt,) = chat(temperature=None, user="ann", metadata={"a": "b"}, store=True, parallel_tool_calls=False)
    assert prompt == Prompt(sampling=USUAL, messages=(ASK,))


def test_what_a_request_says_goes_before_the_package() -> None:
    (prompt,) = chat(
        temperature=0, top_p=0.5, max_completion_tokens=9, max_tokens=5, stop="x", seed=3, presence_penalty=1,
        frequency_penalty=-1, logit_bias={"7": -100}, logprobs=True, top_logprobs=4, top_k=1,
    )  # fmt: skip
    assert prompt.sampling == Sampling(
        max_tokens=9, temperature=0.0, top_p=0.5, stop=("x",), seed=3, presence_penalty=1.0, frequency_penalty=-1.0,
        logit_bias={7: -100.0}, logprobs=4, top_k=1,
    )  # fmt: skip


def test_choices_have_seeds_of_their_own_and_never_the_one_that_means_any() -> None:
    assert [prompt.sampling.seed for prompt in chat(n=3, seed=10)] == [10, 11, 12]
    assert all(0 <= (prompt.sampling.seed or 0) < (1 << 32) - 1 for prompt in chat(n=3, seed=-2))
    assert [prompt.sampling.seed for prompt in chat(n=2)] == [None, None]


def test_parts_of_text_are_joined_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (prompt,) = chat(messages=[{"role": "developer", "content": parts}, ASK])
    assert prompt.messages == ({"role": "system", "content": "a\nb"}, ASK)


def test_an_answer_with_tool_calls_may_be_sent_back_as_it_came() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    said = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "audio": None,
        "annotations": [],
        "tool_calls": [call],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}
    (prompt,) = chat(messages=[ASK, said, result], tools=[TOOL])
    assert prompt.messages[1]["tool_calls"] == [call] and prompt.messages[2] == result


def test_json_formats_become_schemas_and_tools_are_declared() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert chat(response_format=named)[0].sampling.json_schema == schema
    assert chat(response_format={"type": "json_object"})[0].sampling.json_schema == {"type": "object"}
    assert chat(response_format={"type": "text"})[0].sampling.json_schema is None
    choice = {"type": "function", "function": {"name": "weather"}}
    (prompt,) = chat(tools=[TOOL], tool_choice=choice)
    assert prompt.tools == (TOOL,) and prompt.tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"n": 10_000}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "invalid_value"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
    ],
)
def test_a_bad_chat_is_refused_with_the_parameters_path(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(chat, **fields)
    assert (error["param"], error["code"]) == (param, code)


def test_an_unknown_tool_is_refused_with_those_there_are() -> None:
    error = refused(chat, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "fly"}})
    assert error["param"] == "tool_choice.function.name" and "weather" in error["message"]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_what_is_not_text_is_refused_by_the_models_name(kind: str) -> None:
    error = refused(chat, messages=[{"role": "user", "content": [{"type": kind, kind: {"url": "x"}}]}])
    assert "'m'" in error["message"] and kind in error["message"] and error["param"] == "messages[0].content[0]"


def test_every_text_of_a_completion_gets_its_choices_and_sixteen_tokens() -> None:
    prompts = completion(prompt=["a", "b"], n=2, seed=1, logprobs=2)
    assert [(one.text, one.sampling.seed) for one in prompts] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert all(one.sampling.max_tokens == 16 and one.sampling.logprobs == 2 for one in prompts)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"), ({"prompt": [[1, 2]]}, "prompt"), ({"prompt": ["a", None]}, "prompt[1]"),
        ({"prompt": ["a"] * 129}, "prompt"), ({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"), ({"messages": []}, "messages"),
    ],
)  # fmt: skip
def test_a_bad_completion_is_refused(fields: dict[str, Any], param: str) -> None:
    assert refused(completion, **fields)["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read(CHAT, body)
