"""Texts side by side become one body or one stream in the API's form; nothing runs on for a client that has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from onward.errors import DeadlineExceeded, ExecutionError, OnwardError, Overloaded, TooLarge
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.chat import _ChatForm
from onward.runners.serve.openai.completions import _CompletionForm
from onward.runners.serve.openai.errors import Refused, tell
from onward.runners.serve.openai.generation import generate
from onward.runners.serve.openai.prompts import chat_prompts, completion_prompts
from onward.runners.serve.openai.schema import ChatRequest, CompletionRequest
from onward.types import Event, PackageId, Prompt, Result, Sampling

PACKAGE = PackageId(name="m", version="1.0.0", digest="0123456789abcdef")


class Text:
    """A text whose events are given; None waits for ever."""

    def __init__(self, events: Sequence[Event | Exception | None]) -> None:
        self.events = events
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self.events:
            await asyncio.sleep(0)
            if event is None:
                await asyncio.Event().wait()
            elif isinstance(event, Exception):
                raise event
            else:
                yield event

    def cancel(self) -> None:
        self.cancelled = True


class Engine:
    """Admits one given text after the other."""

    def __init__(self, *texts: Text | OnwardError) -> None:
        self.texts = list(texts)
        self.prompts: list[Prompt] = []

    def admit(self, prepared: Prompt, *, deadline_s: float) -> Text:
        self.prompts.append(prepared)
        text = self.texts[len(self.prompts) - 1]
        if isinstance(text, OnwardError):
            raise text
        return text


class Client:
    """What a server does with an ASGI application: keeps what is sent; `leave` is the client closing."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self._gone = asyncio.Event()
        self.call = Call({"type": "http", "method": "POST", "path": "/", "headers": []}, self.receive, self.send)

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def delta(text: str, **attributes: Any) -> Event:
    return Event(kind="delta", text=text, attributes=attributes)


def end(text: str, **more: Any) -> Event:
    counts = {"prompt_tokens": 5, "completion_tokens": 2, "cached_tokens": 3}
    answer = {"text": text, "finish_reason": "stop"} | counts | more
    return Event(kind="end", result=Result(answer=answer, tensors={}, package=PACKAGE))


async def chat(client: Client, engine: Engine, **fields: Any) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    request = msgspec.convert(body, ChatRequest)
    form = _ChatForm(request, PACKAGE, "r1")
    prompts = chat_prompts(request, Sampling())
    await generate(client.call, engine, prompts, form, deadline_s=1e9, param="messages", stream=bool(request.stream))


async def completion(client: Client, engine: Engine, **fields: Any) -> None:
    request = msgspec.convert({"model": "m", "prompt": "Once"} | fields, CompletionRequest)
    prompts = completion_prompts(request, Sampling())
    form = _CompletionForm(request, prompts, PACKAGE, "r1")
    await generate(client.call, engine, prompts, form, deadline_s=1e9, param="prompt", stream=bool(request.stream))


async def test_a_whole_chat_counts_its_prompt_once_and_every_choice() -> None:
    client, engine = Client(), Engine(Text([delta("a"), end("a")]), Text([end("b")]))
    await chat(client, engine, n=2)
    told = json.loads(client.body)
    assert [choice["message"]["content"] for choice in told["choices"]] == ["a", "b"]
    counted = told["usage"]
    assert (counted["prompt_tokens"], counted["completion_tokens"], counted["total_tokens"]) == (5, 4, 9)
    assert counted["prompt_tokens_details"] == {"cached_tokens": 3}
    assert (told["object"], told["system_fingerprint"]) == ("chat.completion", "fp_0123456789ab")


async def test_a_stream_begins_with_the_role_and_ends_with_reason_usage_and_done() -> None:
    client, engine = Client(), Engine(Text([delta('q"%d\n'), delta("é"), end('q"%d\né')]))
    await chat(client, engine, stream=True, stream_options={"include_usage": True})
    *chunks, done = client.events()
    assert done == "[DONE]" and all(chunk["id"] == "chatcmpl-r1" for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0]["role"] == "assistant" and [one.get("content") for one in deltas[1:3]] == ['q"%d\n', "é"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 7
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert client.sent[0]["status"] == 200 and client.sent[-1].get("more_body", False) is False


async def test_streams_of_several_choices_keep_each_ones_order() -> None:
    client = Client()
    await chat(
        client, Engine(Text([delta("a"), delta("b"), end("ab")]), Text([delta("c"), end("c")])), n=2, stream=True
    )
    texts = ["", ""]
    for chunk in client.events()[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == ["ab", "c"]


async def test_tool_calls_and_logprobs_are_told_in_whole_and_in_pieces() -> None:
    calls = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    scored = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]
    events = [delta("a", logprobs=scored), delta("", tool_calls=calls)]
    last = end("", tool_calls=calls, logprobs=scored, finish_reason="tool_calls")
    whole, pieces = Client(), Client()
    await chat(whole, Engine(Text([*events, last])))
    await chat(pieces, Engine(Text([*events, last])), stream=True)
    (choice,) = json.loads(whole.body)["choices"]
    assert choice["message"]["tool_calls"] == calls and choice["message"]["content"] is None
    assert choice["logprobs"]["content"] == scored and choice["finish_reason"] == "tool_calls"
    told = [chunk["choices"][0] for chunk in pieces.events()[:-1]]
    assert told[1]["logprobs"]["content"] == scored and told[2]["delta"] == {"tool_calls": calls}


async def test_completions_echo_their_prompt_and_say_where_each_token_begins() -> None:
    client = Client()
    await completion(client, Engine(Text([end(" more")])), echo=True)
    assert json.loads(client.body)["choices"][0]["text"] == "Once more"
    scored = [{"token": t, "logprob": -1.0, "top_logprobs": [{"token": t, "logprob": -1.0}]} for t in ("ab", "c")]
    client = Client()
    events = [delta("ab", logprobs=scored[:1]), delta("c", logprobs=scored[1:]), end("abc", logprobs=scored)]
    await completion(client, Engine(Text(events)), logprobs=1, stream=True)
    told = [chunk["choices"][0]["logprobs"] for chunk in client.events()[:-2]]
    assert [one["text_offset"] for one in told] == [[0], [2]] and told[1]["top_logprobs"] == [{"c": -1.0}]


async def test_an_error_in_mid_stream_is_the_last_event_and_ends_the_other_choices() -> None:
    other = Text([delta("x"), None])
    client, engine = Client(), Engine(Text([delta("a"), delta("b"), ExecutionError()]), other)
    await chat(client, engine, n=2, stream=True)
    assert client.events()[-1]["error"]["type"] == "server_error" and "[DONE]" not in client.events()
    assert other.cancelled and client.call.ended


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (TooLarge(expected="at most 10 tokens"), 400, "context_length_exceeded"),
        (Overloaded(retry_after_s=2.0), 429, "rate_limit_exceeded"),
        (DeadlineExceeded(), 504, "deadline_exceeded"),
    ],
)
async def test_what_fails_before_the_first_piece_has_a_status(
    stream: bool, error: OnwardError, status: int, code: str
) -> None:
    first = Text([None])
    for engine in (Engine(Text([error])), Engine(first, error)):
        client = Client()
        with pytest.raises(OnwardError) as caught:
            await chat(client, engine, n=len(engine.texts), stream=stream)
        told = tell(caught.value)
        assert told.status == status and json.loads(told.body)["error"]["code"] == code and not client.sent
    assert first.cancelled  # all are admitted, or none
    assert ("retry-after" in told.headers) == (status == 429)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_stops_all_its_texts(stream: bool) -> None:
    texts = [Text([delta("a"), None]), Text([None])]
    client = Client()
    task = asyncio.create_task(chat(client, Engine(*texts), n=2, stream=stream))
    await asyncio.sleep(0.02)
    client.leave()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 1)
    assert client.call.gone and all(text.cancelled for text in texts)


async def test_an_engine_that_ends_without_an_answer_is_an_error() -> None:
    for stream in (False, True):
        client = Client()
        with pytest.raises((ExecutionError, Refused)):
            await chat(client, Engine(Text([])), stream=stream)
        assert not client.sent
