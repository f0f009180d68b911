"""The texts of one request as they are generated, side by side: all admitted or none, all cancelled together.

Knows the streamed model and its events; nothing of the API's forms.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from onward.errors import ExecutionError, InputError, OnwardError, TooLarge
from onward.runners.serve.openai.errors import Refused
from onward.types import Event, Prompt

Answer: TypeAlias = Mapping[str, Any]
"""The answer of a text's last event: `text`, `finish_reason`, `prompt_tokens`, …"""
_PARAMS = {"json_schema": "response_format"}


class Running(Protocol):
    """A text that is being generated: its events, until it ends, fails or is cancelled."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events; the last one has kind "end"."""
        ...

    def cancel(self) -> None:
        """Nobody waits for it any more; idempotent."""
        ...


class Admitting(Protocol):
    """What generates: takes a prompt in, or says at once why it does not."""

    def admit(self, prepared: Prompt, *, deadline_s: float) -> Running:
        """Begin. Raises `Overloaded`, `TooLarge` or `InputError`."""
        ...


class Runs:
    """The running texts of one request. To be closed, whatever happens: a slot is held until then."""

    def __init__(self, served: Admitting, prompts: Sequence[Prompt], *, deadline_s: float) -> None:
        self._running: list[Running] = []
        self._tasks: Sequence[asyncio.Task[Any]] = ()
        try:
            for prompt in prompts:
                self._running.append(served.admit(prompt, deadline_s=deadline_s))
        except BaseException:
            self.close()
            raise

    async def answers(self) -> list[Answer]:
        """Every text's answer, in the order of the prompts. Raises the first error there is."""
        if len(self._running) == 1:
            return [await _answer(self._running[0])]
        tasks = [asyncio.create_task(_answer(running)) for running in self._running]
        self._tasks = tasks
        return await asyncio.gather(*tasks)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """The events of all texts as they come, each with the index of its prompt. Raises the first error there is."""
        if len(self._running) == 1:
            async for event in self._running[0]:
                yield 0, event
            return
        merged: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(2 * len(self._running))

        async def forward(index: int, running: Running) -> None:
            try:
                async for event in running:
                    await merged.put((index, event))
                await merged.put((index, None))
            except Exception as error:
                await merged.put((index, error))

        self._tasks = [asyncio.create_task(forward(*pair)) for pair in enumerate(self._running)]
        left = len(self._running)
        while left:
            at, found = await merged.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield at, found

    def close(self) -> None:
        """Nobody waits any more: what still runs is cancelled."""
        for task in self._tasks:
            task.cancel()
        for running in self._running:
            running.cancel()


def told(error: OnwardError, param: str) -> OnwardError:
    """An error of the engine's as the API tells it: `param` is where the prompt came from."""
    if isinstance(error, TooLarge):
        return Refused(str(error), param=param, kind="context_length_exceeded")
    if isinstance(error, InputError) and not isinstance(error, Refused):
        return Refused(str(error), param=_PARAMS.get(error.where, error.where) or param)
    return error


async def _answer(running: Running) -> Answer:
    async for event in running:
        if event.kind == "end" and event.result is not None:
            return event.result.answer
    raise ExecutionError("the engine ended without an answer")
