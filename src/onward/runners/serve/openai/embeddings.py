"""`POST /v1/embeddings`: texts in, their vectors out, in order.

Texts of like length are run together and several runs go at once, so that no short text is padded to a long one and no
instance idles beside one that works through the whole request.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from onward.errors import InputError, OnwardError
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.forms import encode
from onward.runners.serve.openai.schema import EmbeddingRequest, read
from onward.runners.serve.openai.serving import Serving
from onward.runners.serve.served import ServedModel

MAX_TEXTS = 2048
_RUNS_AN_INSTANCE = 2
_decoder = msgspec.json.Decoder(EmbeddingRequest)


async def embeddings(call: Call, serving: Serving) -> None:
    """Answer an embeddings request."""
    request = read(_decoder, await call.body(serving.body_limit()))
    served = serving.embedder(request.model)
    texts = _texts(request.input)
    size = served.signature.outputs[0].shape[-1]
    if request.dimensions is not None and request.dimensions > size:
        raise Refused(f"dimensions: model {request.model!r} has {size}", param="dimensions")
    deadline_s = call.deadline_s(served.pipeline.manifest.limits.deadline_ms / 1000)
    async with call.attended():
        vectors, tokens = await _embed(served, texts, deadline_s, call.request_id.encode(), call.priority())
        body = _body(vectors, request, tokens)
        await call.respond(body)


def _texts(given: str | list[Any]) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise Refused(f"input: expected 1 to {MAX_TEXTS} texts, got {len(texts)}", param="input")
    for at, text in enumerate(texts):
        param = "input" if isinstance(given, str) else f"input[{at}]"
        if isinstance(text, int | list):
            raise Refused("input: arrays of tokens are not supported; send text", param="input", kind="invalid_type")
        if not isinstance(text, str):
            raise Refused(f"{param}: expected text", param=param, kind="invalid_type")
        if not text:
            raise Refused(f"{param}: expected text that is not empty", param=param)
    return texts


async def _embed(
    served: ServedModel, texts: Sequence[str], deadline_s: float, request_id: bytes, priority: int
) -> tuple[npt.NDArray[np.float32], int]:
    """The texts' vectors, (texts, size), and how many tokens they were."""
    manifest = served.pipeline.manifest
    field, output = served.signature.inputs[0].name, served.signature.outputs[0].name
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    at_once = manifest.execute.instances * _RUNS_AN_INSTANCE
    rows = min(manifest.batching.max_batch_size, manifest.limits.rows, math.ceil(len(texts) / at_once))
    turn = asyncio.Semaphore(at_once)
    rows_of: list[Any] = [None] * len(texts)

    async def run(chunk: Sequence[int]) -> None:
        async with turn:
            try:
                items = [{field: texts[at]} for at in chunk]
                results = await served.answer(items, deadline_s=deadline_s, request_id=request_id, priority=priority)
            except InputError as error:
                raise _in_request(error, chunk, len(texts)) from None
        for at, result in zip(chunk, results, strict=True):
            rows_of[at] = result.tensors[output][0]

    chunks = [order[start : start + rows] for start in range(0, len(order), rows)]
    if len(chunks) == 1:
        await run(chunks[0])
    else:
        tasks = [asyncio.create_task(run(chunk)) for chunk in chunks]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
    vectors = np.stack(rows_of).astype("<f4", copy=False)
    if len(texts) == 1:  # quicker than a hand-over to a thread
        return vectors, _tokens(served, field, texts)
    return vectors, await asyncio.to_thread(_tokens, served, field, texts)


def _tokens(served: ServedModel, field: str, texts: Sequence[str]) -> int:
    """How many tokens the model read. They are told only here, so that texts are tokenised a second time."""
    return sum(served.pipeline.prepare({field: text}).length for text in texts)


def _in_request(error: InputError, chunk: Sequence[int], texts: int) -> OnwardError:
    """An error of one text, with its place in the request instead of that among those that it ran with."""
    place, closed, _ = error.where.removeprefix("[").partition("]")
    at = chunk[int(place)] if closed and place.isdigit() else chunk[0]
    param = "input" if texts == 1 else f"input[{at}]"
    error.where = ""
    return Refused(f"{param}: {error}", param=param)


def _body(vectors: npt.NDArray[np.float32], request: EmbeddingRequest, tokens: int) -> bytes:
    if request.dimensions is not None and request.dimensions < vectors.shape[1]:
        vectors = vectors[:, : request.dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.ascontiguousarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), "<f4")
    told: list[Any]
    if request.encoding_format == "base64":
        told = [base64.b64encode(row.tobytes()).decode("ascii") for row in vectors]
    else:
        told = vectors.tolist()
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(told)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return encode({"object": "list", "data": data, "model": request.model, "usage": usage})
