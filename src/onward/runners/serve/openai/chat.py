"""`POST /v1/chat/completions`: messages in, an answer out, in one piece or token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.forms import Chunks, encode, head, usage
from onward.runners.serve.openai.generation import Form, generate
from onward.runners.serve.openai.prompts import chat_prompts
from onward.runners.serve.openai.schema import ChatRequest, read
from onward.runners.serve.openai.serving import Serving
from onward.types import Event, PackageId

_decoder = msgspec.json.Decoder(ChatRequest)


async def chat(call: Call, serving: Serving) -> None:
    """Answer a chat request."""
    request = read(_decoder, await call.body(serving.body_limit()))
    served = serving.language_model(request.model)
    prompts = chat_prompts(request, served.pipeline.manifest.sampling)
    form = _ChatForm(request, served.id, call.request_id)
    deadline_s = call.deadline_s(served.pipeline.manifest.limits.deadline_ms / 1000)
    stream = bool(request.stream)
    await generate(call, served, prompts, form, deadline_s=deadline_s, param="messages", stream=stream)


class _ChatForm(Form):
    """What is generated, as chat completions and their chunks."""

    def __init__(self, request: ChatRequest, package: PackageId, request_id: str) -> None:
        options = request.stream_options
        self.counts = options is not None and bool(options.include_usage)
        self._choices = request.n or 1
        kind = "chat.completion.chunk" if request.stream else "chat.completion"
        self._head = head(kind, "chatcmpl", request_id, request.model, package)
        self._chunks = Chunks(self._head, counts=self.counts, opened=b'"delta":{"content":', closed=b"}")

    def whole(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """The whole completion."""
        choices = [_choice(at, answer) for at, answer in enumerate(answers)]
        return encode(self._head | {"choices": choices, "usage": usage(answers, self._choices)})

    def first(self, index: int) -> bytes:
        """The chunk that says who speaks."""
        return self._chunks.choice(_piece(index, {"role": "assistant", "content": "", "refusal": None}))

    def delta(self, index: int, event: Event) -> bytes:
        """A chunk with a token or a few."""
        if not event.attributes:
            return self._chunks.text(index, event.text)
        delta: dict[str, Any] = {"content": event.text} if event.text else {}
        if "tool_calls" in event.attributes:
            delta["tool_calls"] = event.attributes["tool_calls"]
        return self._chunks.choice(_piece(index, delta, event.attributes.get("logprobs")))

    def last(self, index: int, answer: Mapping[str, Any]) -> bytes:
        """The chunk that says why it ends."""
        return self._chunks.choice(_piece(index, {}, finish_reason=answer["finish_reason"]))

    def counted(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """The chunk with the tokens."""
        return self._chunks.usage(usage(answers, self._choices))


def _choice(index: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    calls = answer.get("tool_calls")
    message: dict[str, Any] = {"role": "assistant", "content": answer["text"], "refusal": None}
    if calls:
        message |= {"content": answer["text"] or None, "tool_calls": calls}
    logprobs = _logprobs(answer.get("logprobs"))
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer["finish_reason"]}


def _piece(
    index: int, delta: Mapping[str, Any], logprobs: Sequence[Any] | None = None, finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}


def _logprobs(content: Sequence[Any] | None) -> dict[str, Any] | None:
    return None if content is None else {"content": content, "refusal": None}
