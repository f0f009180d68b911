"""The connection between the supervisor and one worker: questions with answers, and notices, both ways at once.

Knows frames; not what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from onward.errors import OnwardError, TooLarge, Unavailable
from onward.runners.serve.workers.frames import (
    LENGTH,
    MAX_FRAME_BYTES,
    BrokenFrame,
    Envelope,
    Message,
    Refused,
    decode,
    encode,
)

_log = logging.getLogger("onward.serve")
Handler: TypeAlias = Callable[[Message], Awaitable[Message | None]]


class Declined(OnwardError):
    """The other process could not do it."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message, where=refused.where)
        self.code, self.status = refused.code, refused.status  # type: ignore[misc]


def _refused(error: OnwardError) -> Refused:
    return Refused(code=error.code, message=error.message, status=error.status, where=error.where)


class Link:
    """One end. `handle` answers what the other end asks; `run` reads until the other end is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handler) -> None:
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_open = True

    @classmethod
    async def over(cls, channel: socket.socket, handle: Handler) -> Link:
        """A link over one end of a pair of sockets, which it owns from then on."""
        reader, writer = await asyncio.open_unix_connection(sock=channel, limit=1 << 20)
        return cls(reader, writer, handle)

    async def run(self) -> None:
        """Read frames until there are no more; what is still unanswered then fails with `Unavailable`."""
        try:
            while True:
                (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
                if length > MAX_FRAME_BYTES:
                    raise BrokenFrame(f"a frame of {length} bytes")
                self._take(decode(await self._reader.readexactly(length)))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end is gone
        except BrokenFrame as broken:
            _log.error("the connection between supervisor and worker is broken: %s", broken)
        finally:
            self.close()

    def _take(self, envelope: Envelope) -> None:
        if envelope.is_answer:
            waiting = self._asked.pop(envelope.number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(envelope.message)
            return
        task = asyncio.ensure_future(self._answer(envelope))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, envelope: Envelope) -> None:
        try:
            answer = await self._handle(envelope.message)
        except OnwardError as error:
            answer = _refused(error)
        except Exception as error:
            _log.exception("%s could not be answered", type(envelope.message).__name__)
            answer = Refused(code=OnwardError.code, message=type(error).__name__, status=OnwardError.status)
        if envelope.number and answer is not None:
            try:
                self._send(Envelope(envelope.number, True, answer))
            except TooLarge as error:  # unsaid: the other end would wait for it, or hang up on it
                self._send(Envelope(envelope.number, True, _refused(error)))

    def tell(self, message: Message) -> None:
        """Say something that needs no answer; nothing happens where nobody is left to hear it."""
        try:
            self._send(Envelope(0, False, message))
        except TooLarge as error:
            _log.error("%s is not told: %s", type(message).__name__, error)

    async def ask(self, message: Message, *, timeout_s: float | None = None) -> Message:
        """Ask, and wait for the answer. Raises `Declined`, `Unavailable` where it does not come, or `TooLarge`."""
        if not self.is_open:
            raise Unavailable("the other process is gone")
        number = next(self._numbers)
        waiting: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = waiting
        try:
            self._send(Envelope(number, False, message))
            async with asyncio.timeout(timeout_s):
                answer = await waiting
        except TimeoutError:
            raise Unavailable(f"no answer within {timeout_s:g} s") from None
        finally:
            self._asked.pop(number, None)
        if isinstance(answer, Refused):
            raise Declined(answer)
        return answer

    def _send(self, envelope: Envelope) -> None:
        if self.is_open:
            with contextlib.suppress(OSError):
                self._writer.write(encode(envelope))

    def close(self) -> None:
        """Hang up; idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        self._writer.close()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(Unavailable("the other process is gone"))
                waiting.exception()  # whoever waits is told; where nobody does, nobody need be
        self._asked.clear()
