"""The official `openai` client, unchanged, against a real server with a language model: chat and completions."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

pytest.importorskip("xllamacpp", reason="language models need the extra `llm`")

from gallery.assistant_llm import build as assistant
from onward.package.assembly import assemble
from tests.acceptance.conftest import Server, serving

pytestmark = pytest.mark.weights
NAME = "assistant-llm"
HELLO: list[Any] = [{"role": "user", "content": "Name three colours of the rainbow."}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer"},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("openai-chat")
    package = root / NAME / "1.0.0"
    assistant.build(package, progress=lambda step, share: None)
    assemble(package)
    with serving(root) as server:
        yield server


@pytest.fixture(scope="module")
def client(running: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


def text(client: openai.OpenAI, **options: Any) -> str:
    options = {"messages": HELLO, "temperature": 0, "max_tokens": 24} | options
    said = client.chat.completions.create(model=NAME, **options).choices[0].message.content
    assert isinstance(said, str)
    return said


def running_streams(server: Server) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("onward_running_streams{"))


def test_the_whole_answer_says_why_it_ended_and_counts_its_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=NAME, messages=HELLO, temperature=0, max_tokens=8)
    assert answer.object == "chat.completion" and answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].message.content
    assert answer.usage is not None and answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8 > 12
    same = client.chat.completions.create(
        model=f"{NAME}==1.0.0", messages=HELLO, temperature=0, max_completion_tokens=8
    )
    assert same.choices[0].message.content == answer.choices[0].message.content


def test_a_stream_is_the_whole_answer_in_pieces_and_may_end_with_its_usage(client: openai.OpenAI) -> None:
    whole = text(client)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": 24}
    chunks = list(client.chat.completions.create(model=NAME, messages=HELLO, stream=True, **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    assert len(chunks) > 5 and chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] in ("length", "stop")
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_a_stream_ends_in_done(running: Server) -> None:
    body = {"model": NAME, "messages": HELLO, "stream": True, "max_tokens": 3}
    with httpx.stream("POST", running.url + "/v1/chat/completions", json=body, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


def test_a_seed_gives_the_same_text_again_another_one_another_text(client: openai.OpenAI) -> None:
    one, again, other = (text(client, temperature=1.0, seed=seed) for seed in (7, 7, 8))
    assert one == again != other


def test_n_choices_differ_and_a_stream_of_them_is_told_apart_by_index(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"n": 3, "temperature": 1.0, "seed": 1, "max_tokens": 12}
    answer = client.chat.completions.create(model=NAME, messages=HELLO, **options)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    parts: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(model=NAME, messages=HELLO, stream=True, **options):
        for choice in chunk.choices:
            parts[choice.index] += choice.delta.content or ""
    assert list(parts.values()) == texts


def test_a_stop_text_ends_the_answer_and_is_not_in_it(client: openai.OpenAI) -> None:
    whole = text(client)
    stop = whole[len(whole) // 2 :][:3]
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "stop": [stop]}
    answer = client.chat.completions.create(model=NAME, messages=HELLO, **options).choices[0]
    assert answer.message.content == whole[: whole.index(stop)] and answer.finish_reason == "stop"


def test_a_strict_schema_is_kept_and_a_json_object_is_one(client: openai.OpenAI) -> None:
    strict: Any = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    for seed in range(3):
        options: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 200}
        made = json.loads(text(client, response_format=strict, **options))
        assert set(made) == {"name", "age", "kind"} and isinstance(made["age"], int) and made["kind"] in ("a", "b")
    ask: list[Any] = [{"role": "user", "content": 'Answer only with JSON like {"colour": "red"}.'}]
    free = text(client, messages=ask, response_format={"type": "json_object"}, max_tokens=300)
    assert isinstance(json.loads(free), dict)


def test_a_tool_that_must_be_called_is_called_with_arguments_of_its_schema(client: openai.OpenAI) -> None:
    ask: list[Any] = [{"role": "user", "content": "What will the weather be in Paris for the next 3 days?"}]
    options: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "temperature": 0, "max_tokens": 200}
    answer = client.chat.completions.create(model=NAME, messages=ask, **options).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.tool_calls
    call = answer.message.tool_calls[0]
    assert call.type == "function" and call.function.name == "get_weather" and call.id
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "days"} and isinstance(arguments["days"], int)
    told = ""
    for chunk in client.chat.completions.create(model=NAME, messages=ask, stream=True, **options):
        for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            told += (part.function.arguments or "") if part.function else ""
    assert json.loads(told) == arguments
    back: list[Any] = [
        *ask, answer.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"forecast": "sunny"}'},
    ]  # fmt: skip
    assert client.chat.completions.create(model=NAME, messages=back, tools=[WEATHER], max_tokens=8).choices


def test_log_probabilities_are_told_with_their_alternatives(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 3}
    answer = client.chat.completions.create(model=NAME, messages=HELLO, **options).choices[0]
    assert answer.logprobs is not None and answer.logprobs.content is not None
    assert "".join(one.token for one in answer.logprobs.content).startswith(answer.message.content or "?")
    for one in answer.logprobs.content:
        assert one.logprob <= 0 and len(one.top_logprobs) == 3
        assert one.logprob == pytest.approx(max(other.logprob for other in one.top_logprobs), abs=1e-5)


def test_completions_go_on_with_a_text_whole_and_streamed(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 8}
    whole = client.completions.create(**options)
    assert whole.object == "text_completion" and "Paris" in whole.choices[0].text
    parts = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True) if chunk.choices]
    assert "".join(parts) == whole.choices[0].text and len(parts) > 2
    several = client.completions.create(**options | {"prompt": ["The capital of France is", "One, two, three,"]})
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == whole.choices[0].text != several.choices[1].text


def test_a_bias_can_forbid_a_token(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": NAME, "prompt": "The capital of France is", "temperature": 0, "max_tokens": 1}
    usual = client.completions.create(**options).choices[0].text
    # Which number the token has is not told by this API: ranges are forbidden in turn until the text is another.
    for first in range(0, 49_152, 4_096):
        bias = {str(token): -100 for token in range(first, first + 4_096)}
        if client.completions.create(**options, logit_bias=bias).choices[0].text != usual:
            return
    pytest.fail("no bias made a difference")


@pytest.mark.parametrize(
    ("options", "status", "param"),
    [
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 10_000}, 400, "n"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 20_000}]}, 400, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
         400, "response_format"),
        ({"extra_body": {"grammar": "root ::= ("}}, 400, "grammar"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_news"}}}, 400,
         "tool_choice.function.name"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(b"x").decode()}}]}]},
         400, "messages[0].content[0]"),
        ({"model": "no-such-model"}, 404, "model"),
        ({"extra_body": {"top_q": 1}}, 400, "top_q"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_the_apis_own_form_and_the_engine_goes_on(
    client: openai.OpenAI, options: dict[str, Any], status: int, param: str
) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": HELLO, "max_tokens": 4} | options
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(**asked)
    error = refused.value
    assert error.status_code == status and error.param == param, error.body
    assert isinstance(error.body, dict) and error.body["type"] and error.body["message"]
    assert text(client, max_tokens=4)


async def test_streams_side_by_side_each_are_what_they_are_alone(running: Server) -> None:
    asks = [f"Write a sentence about the number {number}." for number in range(12)]

    async def stream(client: openai.AsyncOpenAI, ask: str) -> str:
        messages: list[Any] = [{"role": "user", "content": ask}]
        options: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "stream": True}
        said = ""
        async for chunk in await client.chat.completions.create(model=NAME, messages=messages, **options):
            said += chunk.choices[0].delta.content or ""
        return said

    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        alone = [await stream(client, ask) for ask in asks]
        assert await asyncio.gather(*(stream(client, ask) for ask in asks)) == alone


async def test_a_client_that_leaves_stops_its_generation(running: Server) -> None:
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
        options: dict[str, Any] = {"max_tokens": 2000, "stream": True, "logit_bias": {"2": -100, "0": -100}}
        stream = await client.chat.completions.create(model=NAME, messages=HELLO, **options)
        async for _ in stream:
            break
        assert await asyncio.to_thread(running_streams, running) == 1
        await stream.close()
        for _ in range(100):
            if await asyncio.to_thread(running_streams, running) == 0:
                break
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(running_streams, running) == 0


def test_the_list_of_models_has_it(client: openai.OpenAI, running: Server) -> None:
    assert NAME in [model.id for model in client.models.list()]
    assert client.models.retrieve(NAME).owned_by
    assert Path(running.log_file).is_file()
