"""Events on the wire: their form, their end, and that what makes them ends with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from onward.errors import Cancelled, DeadlineExceeded, OnwardError
from onward.runners.serve.sent_events import SentEvents, is_asked_for, sent_events
from onward.types import Blob, Event, PackageId, Result

WHOLE = Result(
    answer={"said": "hello", "audio": Blob(data=b"pcm", media_type="audio/wav")}, tensors={},
    package=PackageId(name="whole", version="1.0.0", digest="d"),
)  # fmt: skip


class Source:
    """Events, then what is raised; knows whether it was closed."""

    def __init__(self, *events: Event, fails: BaseException | None = None, endless: bool = False) -> None:
        self.events, self.fails, self.endless, self.closed = events, fails, endless, False

    async def __call__(self) -> AsyncGenerator[Event, None]:
        try:
            for event in self.events:
                yield event
            if self.fails is not None:
                raise self.fails
            while self.endless:
                await asyncio.sleep(0.01)
        finally:
            self.closed = True


async def told(source: Source) -> list[tuple[str, Any]]:
    written = b"".join([piece async for piece in sent_events(source(), b"r-1")]).decode()
    blocks = [block.split("\n") for block in written.split("\n\n") if block]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


async def test_every_kind_of_event_has_its_form() -> None:
    sound = Blob(data=b"\x01\x02", media_type="audio/L16;rate=22050;channels=1")
    events = (
        Event(kind="delta", text="hel\nlo", attributes={"stage": "free"}),
        Event(kind="blob", text="hello", blob=sound, attributes={"stage": "speak"}),
        Event(kind="end", result=WHOLE, attributes={"stages_ms": {"free": 1.23456}}),
    )
    assert await told(Source(*events)) == [
        ("delta", {"text": "hel\nlo", "stage": "free"}),
        ("audio", {"base64": "AQI=", "media_type": sound.media_type, "text": "hello", "stage": "speak"}),
        ("end", {
            "request_id": "r-1", "answer": {"said": "hello", "audio": {"media_type": "audio/wav", "base64": "cGNt"}},
            "package": "whole", "version": "1.0.0", "stages_ms": {"free": 1.235},
        }),
    ]  # fmt: skip


@pytest.mark.parametrize(("error", "code"), [(DeadlineExceeded(), "DEADLINE_EXCEEDED"), (KeyError("x"), "INTERNAL")])
async def test_what_goes_wrong_is_the_last_event_and_a_fault_of_ours_says_no_more(
    error: BaseException, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(Event(kind="delta", text="a"), fails=error)
    kinds = await told(source)
    assert [kind for kind, _ in kinds] == ["delta", "error"] and kinds[1][1]["code"] == code
    assert kinds[1][1]["request_id"] == "r-1" and "KeyError" not in json.dumps(kinds) and source.closed
    assert ("r-1" in caplog.text) is not isinstance(error, OnwardError)


async def test_who_left_is_told_nothing() -> None:
    assert await told(Source(fails=Cancelled())) == []


async def test_a_client_that_leaves_ends_what_makes_the_events() -> None:
    source = Source(Event(kind="delta", text="a"), endless=True)
    response = SentEvents(sent_events(source(), b"r-1"), b"r-1")
    sent: list[Any] = []

    async def receive() -> Any:
        while len(sent) < 2:
            await asyncio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    await asyncio.wait_for(response(scope, receive, send), 5)
    assert source.closed and sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"x-request-id"] == b"r-1"


async def test_events_are_for_who_accepts_them() -> None:
    assert is_asked_for({b"accept": b"Text/Event-Stream, */*"})
    assert not is_asked_for({b"accept": b"application/json"}) and not is_asked_for({})
