"""Generating for chat and completions alike: admit, then the whole answer or its stream, and what goes wrong.

Knows the order of things; how they look is the `Form`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from onward.errors import ExecutionError, OnwardError
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.forms import DONE, EVENTS, failure
from onward.runners.serve.openai.runs import Admitting, Runs, told
from onward.types import Event, Prompt


class Form(ABC):
    """How one request's answer looks. `counts`: whether a stream ends with its tokens counted."""

    counts: bool

    @abstractmethod
    def whole(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """All choices in one body."""

    @abstractmethod
    def first(self, index: int) -> bytes:
        """What comes before a choice's first piece."""

    @abstractmethod
    def delta(self, index: int, event: Event) -> bytes:
        """A piece of a choice."""

    @abstractmethod
    def last(self, index: int, answer: Mapping[str, Any]) -> bytes:
        """What comes after a choice's last piece."""

    @abstractmethod
    def counted(self, answers: Sequence[Mapping[str, Any]]) -> bytes:
        """The tokens of all choices."""


async def generate(
    call: Call, served: Admitting, prompts: Sequence[Prompt], form: Form, *, deadline_s: float, param: str, stream: bool
) -> None:
    """Answer a request with a text for each prompt. `param` is where the prompts came from."""
    try:
        async with call.attended():
            runs = Runs(served, prompts, deadline_s=deadline_s)
            try:
                if stream:
                    await _stream(call, runs, len(prompts), form)
                else:
                    await call.respond(form.whole(await runs.answers()))
            finally:
                runs.close()
    except OnwardError as error:
        error = told(error, param)
        if not call.begun:
            raise error from None
        await call.end(failure(error))


async def _stream(call: Call, runs: Runs, choices: int, form: Form) -> None:
    """The status goes out with the first piece: what fails before it is an error like any other."""
    started = [False] * choices
    answers: list[Mapping[str, Any]] = [{}] * choices
    async for index, event in runs.events():
        data = b""
        if not started[index]:
            started[index] = True
            data = form.first(index)
        if event.kind == "delta":
            data += form.delta(index, event)
        elif event.kind == "end":
            answers[index] = event.result.answer if event.result is not None else {}
            data += form.last(index, answers[index]) if answers[index] else b""
        if not call.begun:
            await call.begin(EVENTS)
        if data:
            await call.write(data)
    if not all(answers):
        raise ExecutionError("the engine ended without an answer")
    await call.end(form.counted(answers) + DONE if form.counts else DONE)
