"""Calls of tools for any language model: told to it as text, held to their schemas by a grammar, read from its text.

The form is the one that most open models were trained on: functions in `<tools>`, a call as
`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, what it gave as `<tool_response>`. One call an answer. Knows no
engine.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from onward.errors import InputError
from onward.types import Prompt

OPENING, CLOSING = "<tool_call>", "</tool_call>"
Message = Mapping[str, Any]

_MAY = "You may call a function to help with what the user asks"
_MUST = "Call the function that helps with what the user asks"
_HOW = (
    'The functions, one a line:\n<tools>\n{tools}\n</tools>\nA call is a JSON object with the name of the function and '
    'its arguments: ' + OPENING + '{{"name": "…", "arguments": {{…}}}}' + CLOSING
)  # fmt: skip


class ToolUse:
    """The tools of one prompt and what is asked of them: to call one, or none, or as the model sees fit."""

    def __init__(self, prompt: Prompt) -> None:
        """Raises `InputError` for a choice that names no tool, or for tools beside another form of the text."""
        choice = prompt.tool_choice or "auto"
        self._tools = [] if choice == "none" else [tool["function"] for tool in prompt.tools]
        if isinstance(choice, Mapping):
            name = choice.get("function", {}).get("name")
            self._tools = [tool for tool in self._tools if tool["name"] == name]
            if not self._tools:
                known = ", ".join(tool["function"]["name"] for tool in prompt.tools) or "none is declared"
                raise InputError("there is no such tool", where="tool_choice", expected=known, found=repr(name))
            choice = "required"
        self.must = choice == "required" and bool(self._tools)
        self.may = choice == "auto" and bool(self._tools)
        if self.must and (prompt.sampling.grammar or prompt.sampling.json_schema is not None):
            raise InputError("a call of a tool has a form of its own", where="tool_choice", expected="no other form")

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as a chat template that knows no tools takes them: only texts, the tools in the system's."""
        told = [_as_text(message) for message in messages]
        if not self._tools:
            return told
        tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in self._tools)
        text = f"{_MUST if self.must else _MAY}. {_HOW.format(tools=tools)}"
        if told and told[0]["role"] == "system":
            return [{"role": "system", "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
        return [{"role": "system", "content": text}, *told]

    @property
    def schema(self) -> Mapping[str, Any]:
        """What the JSON of a call is: one of the functions with arguments of its schema."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool["name"]}, "arguments": _arguments(tool)},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in self._tools
        ]
        return calls[0] if len(calls) == 1 else {"anyOf": calls}

    def reading(self) -> Reading:
        """Reads one text."""
        return Reading(must=self.must, may=self.may)


class Reading:
    """A text as it comes: what of it is to be told at once, and at its end the call that it was."""

    def __init__(self, *, must: bool, may: bool) -> None:
        self._must, self._may = must, may
        self._held = ""

    def take(self, text: str) -> str:
        """The part of the text so far that is certainly no call, once each."""
        if not (self._must or self._may):
            return text
        self._held += text
        if self._must or OPENING.startswith(self._held[: len(OPENING)]):
            return ""
        self._may = False
        told, self._held = self._held, ""
        return told

    def end(self) -> tuple[str, list[dict[str, Any]]]:
        """What was held back: as text, or as the one call that it is."""
        held, self._held = self._held, ""
        body = held.removeprefix(OPENING).removesuffix(CLOSING)
        try:
            call = json.loads(body)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, TypeError, KeyError):  # cut off by the number of tokens, or a text that begins like a call
            return held, []
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        return "", [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}]


def _arguments(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    # An empty schema would allow anything, which no function takes.
    return tool.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _as_text(message: Message) -> Message:
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise InputError("this model takes text only", where="messages", expected="messages of text")
    role = message["role"]
    if role == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = [
        f'{OPENING}{{"name": {json.dumps(call["function"]["name"])}, "arguments": '
        f'{call["function"]["arguments"] or "{}"}}}{CLOSING}'
        for call in message.get("tool_calls") or ()
    ]  # fmt: skip
    return {"role": role, "content": "\n".join(filter(None, [content, *calls]))}
