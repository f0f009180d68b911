"""What the answers of generated text have in common: ids, usage, and chunks put together from prepared pieces.

A chunk is sent for every token of every stream, so only the text itself is encoded for each; the rest is bytes made
once a stream.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from onward.errors import OnwardError
from onward.runners.serve.openai.errors import error_object
from onward.types import PackageId

encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"
EVENTS = b"text/event-stream; charset=utf-8"


def fingerprint(package: PackageId) -> str:
    """Which package answered: changes whenever a file of it does."""
    return f"fp_{package.digest[:12]}"


def head(kind: str, prefix: str, request_id: str, model: str, package: PackageId) -> dict[str, Any]:
    """The fields that every object of one answer begins with."""
    return {
        "id": f"{prefix}-{request_id}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint(package),
    }


def usage(answers: Sequence[Mapping[str, Any]], choices: int = 1) -> dict[str, Any]:
    """The tokens of a request. A prompt is counted once, however many choices (`choices` of each) were made of it."""
    prompts = answers[::choices]
    read = sum(answer["prompt_tokens"] for answer in prompts)
    written = sum(answer["completion_tokens"] for answer in answers)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(answer.get("cached_tokens", 0) for answer in prompts)},
    }


class Chunks:
    """The chunks of one stream. `opened` is what stands in front of a choice's text: `"delta":{"content":`, say."""

    def __init__(self, head: Mapping[str, Any], *, counts: bool, opened: bytes, closed: bytes) -> None:
        self._head = b"data: " + encode(head)[:-1]
        # Where usage is asked for, every chunk has the field; all but the last without a value.
        self._tail = b',"usage":null}\n\n' if counts else b"}\n\n"
        self._choice = b"%b,\"choices\":[{\"index\":%%d,%b%%b%b,\"logprobs\":null,\"finish_reason\":null}]%b" % (
            self._head.replace(b"%", b"%%"), opened, closed, self._tail,
        )  # fmt: skip

    def text(self, index: int, text: str) -> bytes:
        """A piece of a choice's text."""
        return self._choice % (index, encode(text))

    def choice(self, choice: Mapping[str, Any]) -> bytes:
        """Any other piece of a choice."""
        return b'%b,"choices":[%b]%b' % (self._head, encode(choice), self._tail)

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The last chunk, where usage is asked for."""
        return b'%b,"choices":[],"usage":%b}\n\n' % (self._head, encode(usage))


def failure(error: OnwardError) -> bytes:
    """An error in the middle of a stream."""
    return b"data: %b\n\n" % encode(error_object(error))
