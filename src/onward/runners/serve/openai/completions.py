"""`POST /v1/completions`: a text in, how it goes on out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.forms import Chunks, encode, head, usage
from onward.runners.serve.openai.generation import Form, generate
from onward.runners.serve.openai.prompts import completion_prompts
from onward.runners.serve.openai.schema import CompletionRequest, read
from onward.runners.serve.openai.serving import Serving
from onward.types import Event, PackageId, Prompt

_decoder = msgspec.json.Decoder(CompletionRequest)


async def completions(call: Call, serving: Serving) -> None:
    """Answer a completion request."""
    request = read(_decoder, await call.body(serving.body_limit()))
    served = serving.language_model(request.model)
    prompts = completion_prompts(request, served.pipeline.manifest.sampling)
    form = _CompletionForm(request, prompts, served.id, call.request_id)
    deadline_s = call.deadline_s(served.pipeline.manifest.limits.deadline_ms / 1000)
    stream = bool(request.stream)
    await generate(call, served, prompts, form, deadline_s=deadline_s, param="prompt", stream=stream)


class _CompletionForm(Form):
    """What is generated, as text completions; their chunks have the same form."""

    def __init__(
        self, request: CompletionRequest, prompts: Sequence[Prompt], package: PackageId, request_id: str
    ) -> None:
        options = request.stream_options
        self.counts = options is not None and bool(options.include_usage)
        self._choices = request.n or 1
        self._echoed = [prompt.text if request.echo else "" for prompt in prompts]
        self._lengths = [0] * len(prompts)  # characters told so far: logprobs say where each token begins
        self._head = head("text_completion", "cmpl", request_id, request.model, package)
        self._chunks = Chunks(self._head, counts=self.counts, opened=b'"text":', closed=b"")

    def whole(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """The whole completion."""
        choices = [
            _choice(at, self._echoed[at] + answer["text"], answer.get("logprobs"), 0, answer["finish_reason"])
            for at, answer in enumerate(answers)
        ]
        return encode(self._head | {"choices": choices, "usage": usage(answers, self._choices)})

    def first(self, index: int) -> bytes:
        """The prompt, where it is to be echoed."""
        return self._chunks.text(index, self._echoed[index]) if self._echoed[index] else b""

    def delta(self, index: int, event: Event) -> bytes:
        """A chunk with a token or a few."""
        if not event.attributes:
            return self._chunks.text(index, event.text)
        start = self._lengths[index]
        self._lengths[index] += len(event.text)
        return self._chunks.choice(_choice(index, event.text, event.attributes.get("logprobs"), start, None))

    def last(self, index: int, answer: Mapping[str, Any]) -> bytes:
        """The chunk that says why it ends."""
        return self._chunks.choice(_choice(index, "", None, 0, answer["finish_reason"]))

    def counted(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """The chunk with the tokens."""
        return self._chunks.usage(usage(answers, self._choices))


def _choice(
    index: int, text: str, logprobs: Sequence[Mapping[str, Any]] | None, start: int, finish_reason: str | None
) -> dict[str, Any]:
    told = None if logprobs is None else _logprobs(logprobs, start)
    return {"index": index, "text": text, "logprobs": told, "finish_reason": finish_reason}


def _logprobs(content: Sequence[Mapping[str, Any]], start: int) -> dict[str, Any]:
    """The columns of this API, from the list that chat has; the first token begins at character `start`."""
    offsets: list[int] = []
    for token in content:
        offsets.append(start)
        start += len(token["token"])
    return {
        "tokens": [token["token"] for token in content],
        "token_logprobs": [token["logprob"] for token in content],
        "top_logprobs": [
            {other["token"]: other["logprob"] for other in token.get("top_logprobs", ())} for token in content
        ],
        "text_offset": offsets,
    }
