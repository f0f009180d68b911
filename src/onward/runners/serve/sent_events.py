"""A stream of events as server-sent events: what is written, spoken or told piece by piece, and the whole at the end.

`delta` has a piece of text, `audio` a piece of sound, `end` the whole answer, `error` what went wrong instead. Knows
events and their form; not where they come from.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from onward.errors import Cancelled, OnwardError
from onward.flow import STAGES_MS
from onward.generate.answer import readable
from onward.runners.serve.exchange import Headers, error_body
from onward.types import Event

MEDIA_TYPE = "text/event-stream"
_log = logging.getLogger("onward.serve")
_encode = msgspec.json.Encoder().encode


def is_asked_for(headers: Headers) -> bool:
    """Whether a request accepts server-sent events."""
    return MEDIA_TYPE.encode() in headers.get(b"accept", b"").lower()


async def sent_events(events: AsyncGenerator[Event, None], request_id: bytes) -> AsyncGenerator[bytes, None]:
    """The bytes of each event. An error ends them, and is the last. Closing this closes the events."""
    async with aclosing(events):
        try:
            async for event in events:
                yield _sent(*_told(event, request_id))
        except Cancelled:
            return
        except OnwardError as error:
            yield _sent("error", error_body(error, request_id))
        except Exception:  # a fault of ours; the client has had its status line
            _log.exception("request %s failed", request_id.decode())
            fault = OnwardError("internal error; the server's log has the details under this request id")
            yield _sent("error", error_body(fault, request_id))


class SentEvents(StreamingResponse):
    """The response. What makes its events ends with it, also where the client leaves."""

    def __init__(self, content: AsyncGenerator[bytes, None], request_id: bytes) -> None:
        headers = {"x-request-id": request_id.decode(), "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, headers=headers, media_type=MEDIA_TYPE)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()


def _told(event: Event, request_id: bytes) -> tuple[str, bytes]:
    stage = {"stage": event.attributes["stage"]} if "stage" in event.attributes else {}
    if event.kind == "end":
        result = event.result
        whole: dict[str, Any] = {"request_id": request_id.decode()}
        if result is not None:
            whole |= {"answer": readable(result), "package": result.package.name, "version": result.package.version}
        return "end", _encode(whole | _timings(event.attributes))
    if event.blob is not None:
        sound = {"base64": base64.b64encode(event.blob.data).decode(), "media_type": event.blob.media_type}
        return "audio", _encode(sound | ({"text": event.text} if event.text else {}) | stage)
    return event.kind, _encode({"text": event.text} | stage)


def _timings(attributes: Mapping[str, Any]) -> dict[str, Any]:
    timings = attributes.get(STAGES_MS, {})
    return {STAGES_MS: {name: round(duration, 3) for name, duration in timings.items()}} if timings else {}


def _sent(kind: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
