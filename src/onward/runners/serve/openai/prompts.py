"""OpenAI requests → prompts: one for every text that is asked for.

What a request leaves open is as the package's `[sampling]` says. Knows the records, not the engine or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.schema import (
    ChatRequest,
    CompletionRequest,
    Generating,
    Message,
    ObjectFormat,
    Part,
    SchemaFormat,
    Tool,
    ToolChoice,
)
from onward.types import Prompt, Sampling

_COMPLETION_TOKENS = 16  # what the API gives to a completion that names no number
_MOST_TEXTS = 128
_SEEDS = (1 << 32) - 1
_NOT_DONE = ("audio", "functions", "function_call", "reasoning_effort", "verbosity", "web_search_options")
_INSTEAD = {"functions": "; use tools", "function_call": "; use tool_choice"}


def chat_prompts(request: ChatRequest, usual: Sampling) -> list[Prompt]:
    """The `n` prompts of a chat request, alike but for their seeds. Raises `Refused`."""
    for name in _NOT_DONE:
        if getattr(request, name) is not None:
            raise Refused(f"{name} is not supported{_INSTEAD.get(name, '')}", param=name, kind="unsupported_parameter")
    _check_stream_options(request)
    tools = _tools(request)
    prompt = Prompt(
        sampling=_chat_sampling(request, usual),
        messages=tuple(_message(message, at, request.model) for at, message in enumerate(request.messages)),
        tools=tools,
        tool_choice=_tool_choice(request, tools),
    )
    return [_reseeded(prompt, at) for at in range(request.n or 1)]


def completion_prompts(request: CompletionRequest, usual: Sampling) -> list[Prompt]:
    """A prompt for every choice of a completion request: `n` for the first text, `n` for the next. Raises `Refused`."""
    _check_stream_options(request)
    if request.suffix:
        raise Refused("suffix is not supported", param="suffix", kind="unsupported_parameter")
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise Refused("best_of is only supported where it equals n", param="best_of", kind="unsupported_parameter")
    if request.echo and request.logprobs is not None:
        raise Refused("echo is not supported together with logprobs", param="echo", kind="unsupported_parameter")
    usual = replace(usual, max_tokens=_COMPLETION_TOKENS)
    sampling = replace(_sampling(request, usual), logprobs=request.logprobs)
    return [
        _reseeded(Prompt(sampling=sampling, text=text), at) for text in _texts(request) for at in range(request.n or 1)
    ]


def _texts(request: CompletionRequest) -> list[str]:
    prompt = request.prompt
    if prompt is None:
        raise Refused("missing required parameter: prompt", param="prompt", kind="missing_required_parameter")
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not texts:
        raise Refused("prompt: expected at least one text", param="prompt")
    if len(texts) * (request.n or 1) > _MOST_TEXTS:
        raise Refused(f"prompt: expected at most {_MOST_TEXTS} texts, times n", param="prompt")
    for at, text in enumerate(texts):
        if isinstance(text, int | list):
            raise Refused("prompt: arrays of tokens are not supported; send text", param="prompt", kind="invalid_type")
        if not isinstance(text, str):
            raise Refused(f"prompt[{at}]: expected text", param=f"prompt[{at}]", kind="invalid_type")
        if not text:
            # Whether a model has a token to begin with out of nothing is its own affair; mostly it has not.
            raise Refused("prompt: expected text that is not empty", param="prompt")
    return texts


def _check_stream_options(request: Generating) -> None:
    if request.stream_options is not None and not request.stream:
        raise Refused("stream_options is only allowed together with stream", param="stream_options")


def _chat_sampling(request: ChatRequest, usual: Sampling) -> Sampling:
    sampling = _sampling(request, usual)
    if request.max_completion_tokens is not None:
        sampling = replace(sampling, max_tokens=request.max_completion_tokens)
    form = request.response_format
    if isinstance(form, ObjectFormat | SchemaFormat):
        if sampling.grammar:
            raise Refused("grammar cannot be combined with a response_format of JSON", param="grammar")
        sampling = replace(sampling, json_schema=_schema(form))
    if request.top_logprobs is not None and not request.logprobs:
        raise Refused("top_logprobs is only allowed together with logprobs", param="top_logprobs")
    return replace(sampling, logprobs=(request.top_logprobs or 0) if request.logprobs else None)


def _sampling(request: Generating, usual: Sampling) -> Sampling:
    """The package's sampling with what the request says instead."""
    named = (
        "max_tokens", "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p",
        "repeat_penalty", "logit_bias", "grammar",
    )  # fmt: skip
    said = {name: value for name in named if (value := getattr(request, name)) is not None}
    if request.stop is not None:
        stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop)
        if "" in stop:
            raise Refused("stop: expected texts that are not empty", param="stop")
        said["stop"] = stop
    if request.seed is not None:
        said["seed"] = request.seed % _SEEDS  # the engine keeps the number after the last one for "any"
    for token in request.logit_bias or ():
        if token < 0:
            raise Refused(f"logit_bias: expected token ids, got {token}", param="logit_bias")
    return replace(usual, **said)


def _schema(form: ObjectFormat | SchemaFormat) -> Mapping[str, Any]:
    if isinstance(form, ObjectFormat):
        return {"type": "object"}
    schema = form.json_schema.schema
    return {"type": "object"} if schema is None else schema


def _reseeded(prompt: Prompt, at: int) -> Prompt:
    """The prompt of choice `at`: with a seed of its own, so that the choices differ and stay the same."""
    seed = prompt.sampling.seed
    if at == 0 or seed is None:
        return prompt
    return replace(prompt, sampling=replace(prompt.sampling, seed=(seed + at) % _SEEDS))


# --- Messages ---


def _message(message: Message, at: int, model: str) -> dict[str, Any]:
    """A message as the chat template takes it: text in one piece, and nothing that is not there."""
    where = f"messages[{at}]"
    text = _content(message, where, model)
    role = "system" if message.role == "developer" else message.role
    made: dict[str, Any] = {"role": role, "content": text}
    if message.tool_calls:
        if role != "assistant":
            raise Refused(f"{where}: only the assistant calls tools", param=f"{where}.tool_calls")
        made["tool_calls"] = [
            {"id": call.id, "type": "function",
             "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls
        ]  # fmt: skip
    elif message.content is None and not text:
        raise Refused(
            f"{where}: missing required parameter: content", param=f"{where}.content", kind="missing_required_parameter"
        )
    if role == "tool":
        if not message.tool_call_id:
            param = f"{where}.tool_call_id"
            raise Refused(f"missing required parameter: {param}", param=param, kind="missing_required_parameter")
        made["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        made["name"] = message.name
    return made


def _content(message: Message, where: str, model: str) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        return message.refusal or ""
    texts = [_part(part, f"{where}.content[{at}]", model) for at, part in enumerate(message.content)]
    return "\n".join(texts)


def _part(part: Part, where: str, model: str) -> str:
    if part.type == "text":
        if part.text is None:
            param = f"{where}.text"
            raise Refused(f"missing required parameter: {param}", param=param, kind="missing_required_parameter")
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    found = part.type[:40]
    raise Refused(f"{where}: model {model!r} takes text only, not {found!r}", param=where, kind="unsupported_content")


# --- Tools ---


def _tools(request: ChatRequest) -> tuple[dict[str, Any], ...]:
    tools = request.tools or []
    names = [tool.function.name for tool in tools]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise Refused(f"tools[{at}]: there is another function {name!r}", param=f"tools[{at}].function.name")
    return tuple(map(_tool, tools))


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    declared: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        declared["description"] = function.description
    declared["parameters"] = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": declared}


def _tool_choice(request: ChatRequest, tools: tuple[dict[str, Any], ...]) -> str | Mapping[str, Any]:
    choice = request.tool_choice
    if choice is None:
        return ""
    if isinstance(choice, ToolChoice):
        name = choice.function.name
        declared = [tool["function"]["name"] for tool in tools]
        if name not in declared:
            known = f"one of {', '.join(declared)}" if declared else "tools to choose from"
            param = "tool_choice.function.name"
            raise Refused(f"tool_choice: there is no tool {name[:80]!r}; expected {known}", param=param)
        return {"type": "function", "function": {"name": name}}
    if choice == "required" and not tools:
        raise Refused("tool_choice is only allowed together with tools", param="tool_choice")
    return choice
