"""On ASGI's way, too, a client that leaves takes what was asked for with it."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Scope

from onward.execute.work import NEW
from onward.package.repository import Repository
from onward.runners.serve.app import make_app
from onward.runners.serve.asgi import AsgiExchange
from onward.runners.serve.exchange import Exchange, Handler, Route
from onward.runners.serve.models import Models
from tests.packages import reader_package

FORM = b'--x\r\ncontent-disposition: form-data; name="text"\r\n\r\na\r\n--x--\r\n'
# path, body, headers
WAYS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "gzip": ("/models/reader", gzip.compress(b'{"text": "a"}'), {"content-encoding": "gzip"}),
    "multipart": ("/models/reader", FORM, {"content-type": "multipart/form-data; boundary=x"}),
    "without the fast path": ("/models/reader", b'{"text": "a"}', {}),
    "V2": (
        "/v2/models/reader/infer",
        b'{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}', {},
    ),
}  # fmt: skip


class Client:
    """Sends a body, and leaves when told to."""

    def __init__(self, body: bytes) -> None:
        self.left = asyncio.Event()
        self.sent: list[Message] = []
        self._body: bytes | None = body

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def scope_of(path: str, headers: dict[str, str]) -> Scope:
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": named, "root_path": "", "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1),
    }  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_what_waits_is_given_up_when_its_client_leaves(way: str, tmp_path: Path) -> None:
    path, body, headers = WAYS[way]
    reader_package(tmp_path / "reader" / "1.0.0")
    with ThreadPoolExecutor(max_workers=1) as pool:
        models = Models(Repository(tmp_path), pool)
        await models.scan()
        lane = models.get("reader").lane  # type: ignore[union-attr]
        scheduler = lane.scheduler
        scheduler.running = scheduler.instances  # all are busy
        client = Client(body)
        asking = asyncio.create_task(make_app(models)(scope_of(path, headers), client.receive, client.send))
        async with asyncio.timeout(5):
            while not scheduler.queued_rows:
                await asyncio.sleep(0.001)
            client.left.set()
            await asking
        assert scheduler.queued_rows == 0 and lane.preparing_rows == 0
        scheduler.running = 0
        await models.close()


def exchange_of(client: Client, handle: Handler) -> AsgiExchange:
    return AsgiExchange(Route(handle, max_body_bytes=9), Request(scope_of("/models/m", {}), client.receive))


class Work:
    """Work that knows whether it was given up."""

    abandoned = False

    def abandon(self) -> None:
        self.abandoned = True


async def test_nothing_listens_on_once_the_answer_is_there() -> None:
    def handle(exchange: Exchange) -> None:
        asyncio.get_running_loop().call_later(0.01, exchange.respond, b"{}")

    before = asyncio.all_tasks()
    response = await exchange_of(Client(b""), handle).answer()
    assert response.status_code == 200 and response.body == b"{}"
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("stops", [False, True])
async def test_work_is_given_up_with_its_client_and_with_the_server(stops: bool) -> None:
    work = Work()

    def handle(exchange: Exchange) -> None:
        exchange.work = work

    client = Client(b"")
    answering = asyncio.create_task(exchange_of(client, handle).answer())
    await asyncio.sleep(0.005)
    assert not work.abandoned and not answering.done()
    if stops:
        answering.cancel()
    else:
        client.left.set()
    with pytest.raises(asyncio.CancelledError if stops else ClientDisconnect):
        await answering
    assert work.abandoned


async def test_room_that_is_kept_for_those_who_were_told_to_come_back_is_not_for_whose_connection_is_unknown() -> None:
    standings: list[int] = []

    def handle(exchange: Exchange) -> None:
        standings.append(exchange.standing)
        exchange.respond(b"{}")

    await exchange_of(Client(b""), handle).answer()
    assert standings == [NEW]
