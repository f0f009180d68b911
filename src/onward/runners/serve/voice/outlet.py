"""What goes down to a client, in order: events, and the sound between them, one frame at a time.

Sound waits until it has been written, so that a client that does not read stops the making of it; sound that is not
wanted any more is taken out of the line. Knows the wire only as something that sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from onward.runners.serve.voice.frames import encode_event

SEND_TIMEOUT_S = 10.0
_MAX_WAITING = 1000


class Wire(Protocol):
    """One WebSocket, accepted."""

    async def receive(self) -> str | bytes | None:
        """The next frame; None once the client is gone."""
        ...

    async def send(self, frame: str | bytes) -> None:
        """Write a frame; waits while the client does not read. Raises `ConnectionError` once it is gone."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye."""
        ...


class Outlet:
    """The line of frames to one client."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._line: deque[tuple[str | bytes, asyncio.Future[None] | None]] = deque()
        self._filled = asyncio.Event()
        self._goodbye: tuple[int, str] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether nothing more will be sent but what waits."""
        return self._goodbye is not None

    def tell(self, event: Mapping[str, Any]) -> None:
        """Put an event at the end of the line."""
        if self._goodbye is None and len(self._line) < _MAX_WAITING:
            self._line.append((encode_event(event), None))
            self._filled.set()

    async def play(self, pcm: bytes) -> None:
        """Send sound; returns once it has been written. Raises `ConnectionError`."""
        if self._goodbye is not None:
            raise ConnectionError("the connection is being closed")
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((pcm, written))
        self._filled.set()
        await written

    def drop_sound(self) -> None:
        """What sound still waits is not wanted any more."""
        for frame, written in [one for one in self._line if isinstance(one[0], bytes)]:
            self._line.remove((frame, written))
            if written is not None:
                written.cancel()

    def close(self, code: int, reason: str) -> None:
        """Say goodbye once everything in the line has been sent."""
        if self._goodbye is None:
            self._goodbye = (code, reason)
            self._filled.set()

    async def run(self) -> None:
        """Send what comes, until goodbye. Raises `ConnectionError` or `TimeoutError` where the client is gone."""
        while True:
            while self._line:
                frame, written = self._line.popleft()
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._wire.send(frame)
                if written is not None and not written.done():
                    written.set_result(None)
            if self._goodbye is not None:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._wire.close(*self._goodbye)
                return
            self._filled.clear()
            await self._filled.wait()
