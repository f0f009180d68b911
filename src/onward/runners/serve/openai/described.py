"""The OpenAI API as OpenAPI: its bodies are described by the records that they are read into."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from onward.runners.serve.openai.schema import ChatRequest, CompletionRequest, EmbeddingRequest
from onward.runners.serve.openai.speech import SpeechRequest
from onward.runners.serve.openai.transcriptions import FORMATS

Schema: TypeAlias = dict[str, Any]
_REFERENCE = "#/components/schemas/{name}"
_POSTED: tuple[tuple[str, type[Struct], str, bool], ...] = (
    ("/v1/chat/completions", ChatRequest, "Messages in, an answer out, whole or as it is written.", True),
    ("/v1/completions", CompletionRequest, "A text in, how it goes on out.", True),
    ("/v1/embeddings", EmbeddingRequest, "Texts in, their vectors out.", False),
    ("/v1/audio/speech", SpeechRequest, "A text in, its sound out, as it is spoken.", True),
)
_GOT = (
    ("/v1/models", "The packages that this API can use."),
    ("/v1/models/{model}", "One of them."),
)


def paths() -> Schema:
    """The operations. Their errors have this API's own form."""
    bodies, _ = _schemas()
    described: Schema = {}
    for (path, _, summary, streams), body in zip(_POSTED, bodies, strict=True):
        kind = "audio/*" if path.startswith("/v1/audio") else "application/json"
        answer: Schema = {kind: {}} | ({"text/event-stream": {}} if streams else {})
        described[path] = {"post": {
            "tags": ["openai"], "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": _responses(answer),
        }}  # fmt: skip
    form = {"type": "object", "required": ["file", "model"], "properties": {
        "file": {"type": "string", "contentMediaType": "audio/*"}, "model": {"type": "string"},
        "response_format": {"enum": list(FORMATS), "default": "json"}, "stream": {"type": "boolean", "default": False},
    }}  # fmt: skip
    described["/v1/audio/transcriptions"] = {"post": {
        "tags": ["openai"], "summary": "A sound file in, what is said in it out.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": _responses({"application/json": {}, "text/plain": {}, "text/event-stream": {}}),
    }}  # fmt: skip
    for path, summary in _GOT:
        names = ["model"] if "{model}" in path else []
        described[path] = {"get": {
            "tags": ["openai"], "summary": summary, "responses": _responses({"application/json": {}}),
            "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                           for name in names],
        }}  # fmt: skip
    return described


def components() -> Schema:
    """What the operations refer to."""
    text: Schema = {"type": ["string", "null"]}
    error = {"type": "object", "properties": dict.fromkeys(("message", "type", "param", "code"), text)}
    return _schemas()[1] | {"OpenAIError": {"type": "object", "properties": {"error": error}, "required": ["error"]}}


def _schemas() -> tuple[tuple[Schema, ...], Schema]:
    return msgspec.json.schema_components([record for _, record, _, _ in _POSTED], ref_template=_REFERENCE)


def _responses(content: Schema) -> Schema:
    error = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="OpenAIError")}}}
    return {
        "200": {"description": "The answer.", "content": content},
        "4XX": {"description": "What is wrong with the request.", "content": error},
        "5XX": {"description": "What is wrong here.", "content": error},
    }
