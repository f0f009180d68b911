"""The bodies of OpenAI requests as records, decoded and checked in one go by msgspec.

A parameter nobody knows is refused rather than ignored: an answer that silently leaves out what was asked for is a
wrong answer. What is of no consequence here (`user`, `metadata`, …) is accepted. Knows nothing of models.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from onward.runners.serve.openai.errors import Refused

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_ALTERNATIVES = 20

Penalty: TypeAlias = Annotated[float, Meta(ge=-2.0, le=2.0)]
Portion: TypeAlias = Annotated[float, Meta(ge=0.0, le=1.0)]
Stop: TypeAlias = str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None
Bias: TypeAlias = dict[int, Annotated[float, Meta(ge=-100.0, le=100.0)]]

T = TypeVar("T")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")


class Ignored(Struct, kw_only=True):
    """What changes nothing here: for the caller's own books, or a hint about caching and speed."""

    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prediction: Any = None
    parallel_tool_calls: bool | None = None


class StreamOptions(Struct, kw_only=True):
    """`stream_options`. The padding that `include_obfuscation` asks for is not sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generating(Ignored, kw_only=True):
    """What chat and completions have in common. None: as the package says."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Portion | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    stop: Stop = None
    seed: Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None = None
    # Not OpenAI's, but known by these names to other servers of open models.
    top_k: Annotated[int, Meta(ge=0, le=1 << 20)] | None = None
    min_p: Portion | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    grammar: Annotated[str, Meta(max_length=1 << 16)] | None = None


class Function(Struct, kw_only=True):
    """A function declared to the model."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, kw_only=True):
    """One of `tools`."""

    type: Literal["function"]
    function: Function


class Named(Struct, kw_only=True):
    """The function that `tool_choice` names."""

    name: str


class ToolChoice(Struct, kw_only=True):
    """A `tool_choice` that names a function."""

    type: Literal["function"]
    function: Named


class Called(Struct, kw_only=True):
    """The function of a tool call: `arguments` is JSON in text."""

    name: str
    arguments: str = ""


class ToolCall(Struct, kw_only=True):
    """A tool call in a message of the assistant's."""

    id: str
    type: Literal["function"] = "function"
    function: Called


class Part(Struct, kw_only=True):
    """A part of a message. Only the type of those that are not text is looked at."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Message(Struct, kw_only=True):
    """One message; what an answer of this API holds may be sent back as it is."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    refusal: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class NamedSchema(Struct, kw_only=True):
    """The `json_schema` of a response format."""

    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    """Any text."""


class ObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Some JSON object."""


class SchemaFormat(Struct, tag_field="type", tag="json_schema", kw_only=True):
    """JSON that fits a schema."""

    json_schema: NamedSchema


class ChatRequest(Generating, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1 << 24)] | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_ALTERNATIVES)] | None = None
    modalities: list[Literal["text"]] | None = None
    # Known, and not done here: refused where they are not null.
    audio: Any = None
    functions: Any = None
    function_call: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionRequest(Generating, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/completions`."""

    prompt: str | list[Any] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_ALTERNATIVES)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class EmbeddingRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/embeddings`."""

    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: Any = None


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body. Raises `Refused` with the parameter's path."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the body is not JSON: {error}", kind="invalid_json") from None
    except RecursionError:
        raise Refused("the body is nested too deeply", kind="invalid_json") from None


def _refusal(problem: str) -> Refused:
    """What msgspec found wrong, with its path in the API's words."""
    at = _PATH.search(problem)
    path = at.group(1) if at else ""
    text = _PATH.sub("", problem)
    for pattern, kind, told in (
        (_UNKNOWN, "unknown_parameter", "unknown parameter"),
        (_MISSING, "missing_required_parameter", "missing required parameter"),
    ):
        found = pattern.match(text)
        if found:
            param = f"{path}.{found.group(1)}" if path else found.group(1)
            return Refused(f"{told}: {param}", param=param, kind=kind)
    wrong_type = text.startswith("Expected") and "got `" in text
    text = text[:1].lower() + text[1:]
    return Refused(f"{path}: {text}" if path else text, param=path, kind="invalid_type" if wrong_type else "")
