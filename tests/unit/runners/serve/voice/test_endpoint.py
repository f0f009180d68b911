"""`WS /voice/{name}` over real sockets: upgrades on the fast path, refusals, limits, and the server's end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route as StarletteRoute
from starlette.routing import WebSocketRoute

from onward.errors import ModelNotFound
from onward.runners.serve import connection, patience
from onward.runners.serve.app import on_onward_error
from onward.runners.serve.exchange import Exchange, OnwardError, Route
from onward.runners.serve.http import protocol_for
from onward.runners.serve.process import HttpServer
from onward.runners.serve.voice import endpoint as endpoint_module
from onward.runners.serve.voice.assistant import Assistant
from onward.runners.serve.voice.endpoint import VoiceEndpoint
from onward.runners.serve.voice.frames import MAX_FRAME_BYTES
from onward.runners.serve.voice.routes import not_a_socket, socket_protocol
from onward.runners.serve.voice.session import SessionLimits
from tests.unit.runners.serve.voice.answering import Parrot
from tests.unit.runners.serve.voice.speaking import sound

client = pytest.importorskip("websockets.asyncio.client", reason="the extra speech is not installed")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

START = json.dumps({"type": "start", "sample_rate_hz": 16_000})
UTTERANCE = sound("....." + "s" * 20 + "." * 30).tobytes()


class Voices:
    def __init__(self, server: uvicorn.Server, port: int, endpoint: VoiceEndpoint) -> None:
        self.server, self.port, self.endpoint = server, port, endpoint

    def connect(self, name: str = "parrot", **options: Any) -> Any:
        return client.connect(f"ws://127.0.0.1:{self.port}/voice/{name}", compression=None, **options)


@asynccontextmanager
async def serving(
    parrot: Parrot, *, keep_alive_s: int = 75, assistant: Callable[[str], Assistant] | None = None, **options: Any
) -> AsyncIterator[Voices]:
    def named(name: str) -> Assistant:
        if name != "parrot":
            raise ModelNotFound(where=name)
        return parrot

    def answer(exchange: Exchange) -> None:
        exchange.respond(b'"fast"')

    endpoint = VoiceEndpoint(None, assistant=assistant or named, **options)  # type: ignore[arg-type]
    routes = [WebSocketRoute("/voice/{name}", endpoint.serve), StarletteRoute("/voice/{name}", not_a_socket)]
    app = Starlette(routes=routes, exception_handlers={OnwardError: on_onward_error})
    fast = protocol_for({b"/models/tiny": Route(answer, max_body_bytes=100)})
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=fast, ws=socket_protocol(), ws_max_size=MAX_FRAME_BYTES,
        ws_per_message_deflate=False, lifespan="off", log_config=None, access_log=False,
        timeout_keep_alive=keep_alive_s, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = HttpServer(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield Voices(server, server.servers[0].sockets[0].getsockname()[1], endpoint)
    server.should_exit = True
    async with asyncio.timeout(10):
        await task
    assert parrot.running == 0 and endpoint.sessions == 0


async def event(socket: Any, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(5):
        while True:
            frame = await socket.recv()
            if isinstance(frame, str) and json.loads(frame)["type"] == kind:
                told: dict[str, Any] = json.loads(frame)
                return told


async def closed(socket: Any) -> tuple[int | None, list[Any]]:
    """How the server closes the connection, and what it sent before."""
    frames = []
    async with asyncio.timeout(5):
        try:
            while True:
                frames.append(await socket.recv())
        except ConnectionClosed:
            return socket.close_code, frames


async def test_a_spoken_turn_over_a_real_socket() -> None:
    async with serving(Parrot(hears=["hello"])) as voices, voices.connect() as socket:
        await socket.send(START)
        assert (await event(socket, "ready"))["version"] == "1.0.0"
        for at in range(0, len(UTTERANCE), 1000):
            await socket.send(UTTERANCE[at : at + 1000])
        assert (await event(socket, "reply"))["text"] == "You said hello"
        await event(socket, "audio_end")


async def test_a_connection_that_was_the_fast_paths_may_become_a_websocket() -> None:
    """The same connection: an inference first, then the upgrade."""
    async with serving(Parrot(hears=["hello"])) as voices:
        reader, writer = await asyncio.open_connection("127.0.0.1", voices.port)
        writer.write(b"POST /models/tiny HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        assert b"200 OK" in await reader.readuntil(b'"fast"')
        writer.write(_handshake(voices.port))
        assert b"101 Switching Protocols" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_an_upgrade_behind_an_unanswered_request_is_not_made() -> None:
    held: list[Exchange] = []
    async with serving(Parrot(hears=["hello"])) as voices:
        routes = voices.server.config.http_protocol_class.routes  # type: ignore[union-attr]
        routes[b"/models/tiny"].handler = held.append
        reader, writer = await asyncio.open_connection("127.0.0.1", voices.port)
        writer.write(b"POST /models/tiny HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        writer.write(_handshake(voices.port))
        while not held:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        held[0].respond(b'"late"')
        answered = await reader.read()
        assert answered.endswith(b'"late"') and b"101" not in answered
        writer.close()


async def test_the_timers_of_the_fast_path_leave_a_quiet_websocket_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_S", 0.1)
    monkeypatch.setattr(patience, "SILENCE_S", 0.1)
    monkeypatch.setattr(connection, "_SWEEP_S", 0.05)
    async with serving(Parrot(hears=["hello"]), keep_alive_s=1) as voices, voices.connect() as socket:
        await socket.send(START)
        await event(socket, "ready")
        await asyncio.sleep(1.5)
        await socket.send(UTTERANCE)
        await event(socket, "audio_end")


async def test_an_unknown_model_is_told_before_the_connection_ends() -> None:
    async with serving(Parrot(hears=["hello"])) as voices, voices.connect("nobody") as socket:
        code, frames = await closed(socket)
    assert code == 1008 and json.loads(frames[0])["code"] == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("frame", [b"\x00\x00", "hello", '{"type": "start", "sample_rate_hz": "fast"}'])
async def test_a_wrong_first_frame_is_told_before_the_connection_ends(frame: str | bytes) -> None:
    async with serving(Parrot(hears=["hello"])) as voices, voices.connect() as socket:
        await socket.send(frame)
        code, frames = await closed(socket)
    assert code == 1007 and json.loads(frames[0])["code"] == "MALFORMED_BODY"


async def test_a_frame_that_is_too_large_ends_the_connection() -> None:
    async with serving(Parrot(hears=["hello"])) as voices, voices.connect() as socket:
        await socket.send(START)
        await event(socket, "ready")
        await socket.send(b"\x00" * (MAX_FRAME_BYTES + 2))
        assert (await closed(socket))[0] == 1009


async def test_a_client_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "START_TIMEOUT_S", 0.1)
    async with serving(Parrot(hears=["hello"])) as voices, voices.connect() as socket:
        code, frames = await closed(socket)
    assert code == 1008 and json.loads(frames[0])["code"] == "DEADLINE_EXCEEDED"


async def test_no_more_people_than_that_talk_at_a_time() -> None:
    async with serving(Parrot(hears=["hello"]), max_sessions=1) as voices, voices.connect() as socket:
        await socket.send(START)
        await event(socket, "ready")
        async with voices.connect() as second:
            code, frames = await closed(second)
        assert code == 1013 and json.loads(frames[0])["code"] == "QUEUE_FULL"
        await socket.send(UTTERANCE)
        await event(socket, "audio_end")


async def test_a_page_of_another_origin_is_not_let_in() -> None:
    async with serving(Parrot(hears=["hello"])) as voices:
        with pytest.raises(InvalidStatus) as refused:
            async with voices.connect(origin="http://evil.example"):
                pass
        assert refused.value.response.status_code == 403
        async with voices.connect(origin=f"http://127.0.0.1:{voices.port}") as socket:
            await socket.send(START)
            await event(socket, "ready")


async def test_a_plain_request_is_told_that_this_is_a_websockets_path() -> None:
    async with serving(Parrot(hears=["hello"])) as voices, httpx.AsyncClient() as browser:
        answer = await browser.get(f"http://127.0.0.1:{voices.port}/voice/parrot")
        assert answer.status_code == 400 and "WebSocket" in answer.json()["error"]


async def test_a_client_that_vanishes_in_the_middle_of_a_reply_leaves_nothing_running() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: ["word "] * 5000, piece_s=0.002)
    async with serving(parrot) as voices:
        async with voices.connect() as socket:
            await socket.send(START)
            await socket.send(UTTERANCE)
            await event(socket, "reply_delta")
            assert parrot.running > 0
            socket.transport.abort()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not parrot.running and not voices.endpoint.sessions:
                break
        assert parrot.running == 0 and voices.endpoint.sessions == 0


async def test_the_servers_end_is_said_after_the_reply_that_is_being_made() -> None:
    parrot = Parrot(hears=["hello"], replies=lambda text: "a" * 60, piece_s=0.01)
    async with serving(parrot) as voices, voices.connect() as talking, voices.connect() as idle:
        for socket in (talking, idle):
            await socket.send(START)
            await event(socket, "ready")
        await talking.send(UTTERANCE)
        await event(talking, "timings")
        voices.server.should_exit = True
        began_s = time.monotonic()
        assert (await closed(idle))[0] == 1001
        assert time.monotonic() - began_s < 0.6
        code, frames = await closed(talking)
        told = [json.loads(frame) for frame in frames if isinstance(frame, str)]
        assert code == 1001 and [one["type"] for one in told] == ["audio_end", "closing"]
        assert told[0]["audio_s"] == pytest.approx(6.0)


async def test_an_idle_session_ends_normally() -> None:
    limits = SessionLimits(idle_s=0.2)
    async with serving(Parrot(hears=["hello"]), limits=limits) as voices, voices.connect() as socket:
        await socket.send(START)
        code, frames = await closed(socket)
    assert code == 1000 and json.loads(frames[-1]) == {"type": "closing", "reason": "idle", "idle_s": 0.2}


def _handshake(port: int) -> bytes:
    return (
        b"GET /voice/parrot HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % port
    )
