"""`WS /voice/{name}`: who may talk, with whom, and how many at a time.

Everything that is wrong is told in an `error` event before the connection is closed: a browser's script cannot read an
HTTP answer to a WebSocket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.websockets import WebSocket

from onward.errors import DeadlineExceeded, OnwardError, Overloaded, UsageError
from onward.runners.serve.caller import caller_of
from onward.runners.serve.models import Models
from onward.runners.serve.staged import StagedModel
from onward.runners.serve.voice.assistant import Assistant, Talk
from onward.runners.serve.voice.frames import Start, encode_event, error_event, read_start
from onward.runners.serve.voice.loop import VoiceLoop, close_code
from onward.runners.serve.voice.measures import VoiceMeasures
from onward.runners.serve.voice.session import SessionLimits
from onward.runners.serve.voice.staged_assistant import StagedAssistant
from onward.runners.serve.voice.websocket import SocketWire, closing_of

MAX_SESSIONS = 32
START_TIMEOUT_S = 10.0


class VoiceEndpoint:
    """The endpoint over a server's models."""

    def __init__(
        self,
        models: Models,
        *,
        assistant: Callable[[str], Assistant] | None = None,
        limits: SessionLimits | None = None,
        max_sessions: int = MAX_SESSIONS,
    ) -> None:
        self._models = models
        self._assistant = assistant or self._served
        self._limits = limits
        self._max_sessions = max_sessions
        self.sessions = 0
        self._measures: dict[tuple[str, str], VoiceMeasures] = {}

    def measures(self) -> Iterable[VoiceMeasures]:
        """What each assistant has done."""
        return list(self._measures.values())

    async def serve(self, websocket: WebSocket) -> None:
        """One connection, from its handshake to its end."""
        if not _is_same_origin(websocket.headers):
            await websocket.close()  # before it is accepted: a 403
            return
        await websocket.accept()
        wire = SocketWire(websocket)
        self.sessions += 1
        try:
            await self._talk(websocket, wire)
        except OnwardError as error:
            await wire.send(encode_event(error_event(error)))
            await wire.close(close_code(error), error.code)
        except ConnectionError:
            return
        finally:
            self.sessions -= 1

    async def _talk(self, websocket: WebSocket, wire: SocketWire) -> None:
        if self.sessions > self._max_sessions:
            raise Overloaded("too many people talk at a time", expected=f"at most {self._max_sessions} sessions")
        assistant = self._assistant(websocket.path_params["name"])
        caller = caller_of(dict(websocket.headers.raw))
        start = await self._start(wire)
        talk = Talk(customer=start.customer, conversation=start.conversation, tenant=caller.tenant)
        named = assistant.named
        key = (named["package"], named["version"])
        measures = self._measures.setdefault(key, VoiceMeasures(*key))
        probability = await assistant.ear()
        loop = VoiceLoop(
            wire, assistant, start, talk, measures, probability=probability, closing=closing_of(websocket),
            limits=self._limits, clock=time.monotonic,
        )  # fmt: skip
        measures.sessions += 1
        try:
            await loop.run()
        finally:
            measures.sessions -= 1

    async def _start(self, wire: SocketWire) -> Start:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                frame = await wire.receive()
        except TimeoutError:
            raise DeadlineExceeded("the first frame did not come", where="first frame") from None
        if frame is None:
            raise ConnectionError("the client has gone")
        return read_start(frame)

    def _served(self, name: str) -> Assistant:
        served = self._models.get(name)
        if not isinstance(served, StagedModel):
            raise UsageError("nobody can talk with this package", where=name[:80], expected="the task voice-assistant")
        return StagedAssistant(served)


def _is_same_origin(headers: Headers) -> bool:
    """Whether a browser's page comes from this server: no rule of the browser keeps others from opening WebSockets."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
