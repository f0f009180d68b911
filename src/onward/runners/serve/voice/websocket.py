"""uvicorn's WebSocket protocol, so that the server's end is told to whoever talks and a dead client is let go of.

Imported only where the `websockets` package is installed. Knows nothing of voices.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CLOSING = "closing"
"""The key of the connection's state under which an `asyncio.Event` says that the server is ending."""
_CLOSE_TIMEOUT_S = 2.0


class SocketProtocol(WebSocketsSansIOProtocol):
    """On shutdown the application closes the connection when it is through; uvicorn would close it at once."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.close_timeout = _CLOSE_TIMEOUT_S
        self._closing = asyncio.Event()

    def handle_connect(self, event: Any) -> None:
        """uvicorn's; the application finds `closing` in its scope's state."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"][CLOSING] = self._closing

    def shutdown(self) -> None:
        """Tell the application, if it is talking; else close."""
        self._closing.set()
        if self.close_sent or self.disconnected or not self.handshake_complete:
            super().shutdown()

    def keepalive_timeout(self) -> None:
        """uvicorn's; and a client that does not read would keep what has been written for it for ever."""
        super().keepalive_timeout()
        self.loop.call_later(_CLOSE_TIMEOUT_S, self.transport.abort)

    async def run_asgi(self) -> None:
        """uvicorn's; afterwards the connection does not outlive the time for goodbyes."""
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(2 * _CLOSE_TIMEOUT_S, self.transport.abort)


class SocketWire:
    """An accepted WebSocket as the loop wants it: see `onward.runners.serve.voice.outlet.Wire`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes | None:
        """See `Wire`."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        data: bytes | None = message.get("bytes")
        text: str | None = message.get("text")
        return data if data is not None else text

    async def send(self, frame: str | bytes) -> None:
        """See `Wire`."""
        try:
            if isinstance(frame, bytes):
                await self._websocket.send_bytes(frame)
            else:
                await self._websocket.send_text(frame)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise ConnectionError("the client has gone") from error

    async def close(self, code: int, reason: str) -> None:
        """See `Wire`."""
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise ConnectionError("the client has gone") from error


def closing_of(websocket: WebSocket) -> asyncio.Event:
    """The event that says that the server is ending; one that never happens under another server."""
    found = websocket.scope.get("state", {}).get(CLOSING)
    return found if isinstance(found, asyncio.Event) else asyncio.Event()
