"""An ASGI client and streams whose events are given, for the tests of speech and of transcriptions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from onward.errors import OnwardError
from onward.runners.serve.openai.call import Call
from onward.types import Event


class Client:
    """What a server does with an ASGI application: sends a body, keeps what is sent; `leave` is the client closing."""

    def __init__(self, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.sent: list[Any] = []
        self._body: bytes | None = body
        self._gone = asyncio.Event()
        pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        # "app": as under Starlette, which turns what is wrong with a form into an HTTPException.
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": pairs, "app": None}
        self.call = Call(scope, self.receive, self.send)

    async def receive(self) -> Any:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def leave(self) -> None:
        self._gone.set()

    @property
    def media_type(self) -> str:
        return dict(self.sent[0]["headers"])[b"content-type"].decode()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)

    @property
    def whole(self) -> bool:
        """Whether the answer has its end, and none came after it."""
        ends = [not message.get("more_body", False) for message in self.sent[1:]]
        return ends.count(True) == 1 and ends[-1]

    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


class Stream:
    """A stream whose events are given; None waits for ever."""

    def __init__(self, events: Sequence[Event | Exception | None]) -> None:
        self.events = events
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Event]:
        for event in self.events:
            await asyncio.sleep(0)
            if event is None:
                await asyncio.Event().wait()
            elif isinstance(event, Exception):
                raise event
            else:
                yield event

    def cancel(self) -> None:
        self.cancelled = True


class Model:
    """A served package: admits one stream; keeps what it is asked."""

    def __init__(self, stream: Stream | OnwardError, **limits: Any) -> None:
        self.stream = stream
        self.asked: list[Any] = []
        self.prepared: list[tuple[Any, Any]] = []
        self.refusal: OnwardError | None = None
        of = SimpleNamespace(**{"deadline_ms": 60_000, "characters": 100} | limits)
        self.pipeline = SimpleNamespace(manifest=SimpleNamespace(limits=of), prepare=self.prepare)
        names = ("text", "segments", "audio_s")
        self.signature = SimpleNamespace(
            inputs=[SimpleNamespace(name="clip", content="audio")],
            outputs=[SimpleNamespace(name=name) for name in names],
        )

    def prepare(self, item: Any, outputs: Any) -> Any:
        self.prepared.append((item, outputs))
        if self.refusal is not None:
            raise self.refusal
        return item

    def admit(self, asked: Any, *, deadline_s: float) -> Stream:
        self.asked.append(asked)
        if isinstance(self.stream, OnwardError):
            raise self.stream
        return self.stream

    def serving(self, limit: int = 1 << 20) -> Any:
        return SimpleNamespace(
            body_limit=lambda: limit,
            sound_limit=lambda: limit,
            voice=lambda model: self,
            transcriber=lambda model: self,
        )
