"""Whatever is sent to an inference route, the fast path and Starlette answer alike: the same status, the same body.

Requests are made up of pieces that are right and of what may be wrong with each: V2 as JSON and with binary tensors,
plain JSON, bytes of no sense; whole or in chunks, in one piece or torn anywhere.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from tests.acceptance.conftest import Server, serving, write_loan
from tests.acceptance.wire import readable, talk
from tests.packages import echo_package, mlp_package, reader_package

Servers: TypeAlias = tuple[Server, Server]
KINDS = (
    "application/json", "application/json; charset=utf-8", "Application/JSON", "text/plain", "image/png", "", "x",
    "application/x-www-form-urlencoded", "application/vnd.x+json", "text/plain; charset=none",
)  # fmt: skip
QUERIES = ("", "", "", "?outputs=contributions", "?outputs=nobody", "?outputs=", "?a=%ff", "?")
Told: TypeAlias = tuple[int, dict[str, str], Any, bool]
"""Status, the headers that say something, the body without the request's id, and whether the connection stays open."""
BLOBS = {"FP32": "<f", "INT64": "<q", "UINT8": "<B", "BOOL": "<?", "FP64": "<d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One request: where to, its headers beyond the usual, its body, how it is framed and where it is torn."""

    path: str
    headers: dict[str, str]
    body: bytes
    chunks: list[int] | None
    cuts: list[float]

    def pieces(self) -> list[bytes]:
        """As bytes, torn."""
        lines = [f"POST {self.path} HTTP/1.1", "Host: h", *(f"{name}: {value}" for name, value in self.headers.items())]
        body = self.body
        if self.chunks is None:
            lines.append(f"Content-Length: {len(body)}")
        else:
            lines.append("Transfer-Encoding: chunked")
            body = chunked(body, self.chunks)
        data = "\r\n".join([*lines, "", ""]).encode() + body
        at = sorted({int(cut * len(data)) for cut in self.cuts} - {0})
        return [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]


class Channel:
    """A connection that is kept while it can be."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def ask(self, pieces: list[bytes], count: int = 1) -> list[Told]:
        """Send the pieces, which are of so many requests, and read as many answers, or those up to a farewell."""
        for piece in pieces:
            self._socket.sendall(piece)
        told: list[Told] = []
        while len(told) < count and (not told or told[-1][3]):
            told.append(self._next())
        return told

    def _next(self) -> Told:
        status = int(self._file.readline().split()[1])
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name.lower()] = value
        body = self._file.read(int(headers.pop("content-length")))
        for name in ("date", "x-request-id"):
            headers.pop(name, None)
        stays = headers.pop("connection", "") != "close"
        if not stays:
            self.close()
            self._open()
        return status, headers, readable(body), stays

    def close(self) -> None:
        """Let go of it."""
        self._file.close()
        self._socket.close()


def chunked(body: bytes, sizes: list[int]) -> bytes:
    """The body in chunks of these sizes, over and over."""
    parts, at, turn = [], 0, 0
    while at < len(body):
        piece = body[at : at + sizes[turn % len(sizes)]]
        parts.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at, turn = at + len(piece), turn + 1
    return b"".join([*parts, b"0\r\n\r\n"])


anything = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**70), 2**70), some.floats(allow_nan=False), some.text(max_size=12),
    some.just([]), some.just({}), some.just([[1, 2], [3]]), some.just("x" * 300),
    some.sampled_from([1e400, -0.0, 2**63]),
)  # fmt: skip
numbers = some.floats(-1e6, 1e6, width=32)
right_of = {
    "FP32": numbers, "FP64": some.floats(allow_nan=False, allow_infinity=False),
    "INT64": some.integers(-(2**63), 2**63 - 1), "UINT8": some.integers(0, 255), "BOOL": some.booleans(),
    "BYTES": some.text(max_size=6),
}  # fmt: skip


def spoil(draw: some.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    """Now and then one of its parts is left out, or is anything."""
    if draw(some.integers(0, 5)) == 0 and value:
        name = draw(some.sampled_from(sorted(value)))
        if draw(some.booleans()):
            value.pop(name)
        else:
            value[name] = draw(anything)
    return value


@some.composite
def tensors(draw: some.DrawFn) -> tuple[str, dict[str, Any], bytes]:
    """A model, one tensor for it and, where it is binary, its bytes."""
    kind = draw(some.sampled_from(sorted(right_of)))
    rows = draw(some.integers(1, 4))
    values = draw(some.lists(right_of[kind], min_size=3 * rows, max_size=3 * rows))
    tensor: dict[str, Any] = {"name": "x", "shape": [rows, 3], "datatype": kind}
    blob = b""
    if draw(some.booleans()):
        blob = b"".join(pack(kind, value) for value in values)
        tensor["parameters"] = {"binary_data_size": len(blob)}
        if draw(some.integers(0, 7)) == 0:
            blob = blob[: draw(some.integers(0, len(blob)))]
    else:
        nested = [values[start : start + 3] for start in range(0, len(values), 3)]
        tensor["data"] = nested if draw(some.booleans()) else values
        if draw(some.integers(0, 4)) == 0:
            values[draw(some.integers(0, len(values) - 1))] = draw(anything)
    return f"echo-{kind.lower()}", spoil(draw, tensor), blob


def pack(kind: str, value: Any) -> bytes:
    """A number as its bytes; a text with its length in front."""
    if kind == "BYTES":
        return struct.pack("<I", len(value.encode())) + value.encode()
    return struct.pack(BLOBS[kind], value)


@some.composite
def v2(draw: some.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a V2 request."""
    model, tensor, blob = draw(tensors())
    request: dict[str, Any] = {"inputs": [tensor] * draw(some.sampled_from([1, 1, 1, 1, 0, 2]))}
    if draw(some.booleans()):
        request["id"] = draw(some.text(max_size=8))
    if draw(some.integers(0, 3)) == 0:
        output: dict[str, Any] = {"name": draw(some.sampled_from(["x_out", "x_out", "y"]))}
        if draw(some.booleans()):
            output["parameters"] = {"binary_data": draw(some.booleans())}
        request["outputs"] = [output]
    if draw(some.integers(0, 3)) == 0:
        request["parameters"] = {"binary_data_output": draw(some.booleans())}
    text = json.dumps(spoil(draw, request), allow_nan=True).encode()
    headers = {}
    if blob or draw(some.integers(0, 9)) == 0:
        length = draw(some.sampled_from([str(len(text))] * 9 + [str(len(text) - 1), "0", "-1", "x", "99999999"]))
        headers["Inference-Header-Content-Length"] = length
    return f"/v2/models/{model}/infer", headers, text + blob


@some.composite
def plain(draw: some.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a plain request."""
    item: dict[str, Any] = {
        "amount": draw(some.floats(100, 50000, width=32)), "income": draw(some.floats(0, 9000, width=32)),
        "years_employed": draw(some.integers(0, 60)), "purpose": draw(some.sampled_from(["car", "home", "other"])),
        "customer": draw(some.booleans()),
    }  # fmt: skip
    item = spoil(draw, spoil(draw, item))
    value: Any = draw(some.sampled_from([item, item, item, [item], [item, item], [], [item, 5], None, 3]))
    headers = {}
    if draw(some.booleans()):
        headers["Content-Type"] = draw(some.sampled_from(KINDS))
    query = draw(some.sampled_from(QUERIES))
    path = draw(some.sampled_from(["/models/loan", "/models/loan/versions/1.2.0", "/models/reader", "/models/mlp"]))
    return path + query, headers, json.dumps(value).encode()


@some.composite
def requests(draw: some.DrawFn) -> Sent:
    """A request of any kind."""
    path, headers, body = draw(some.one_of(v2(), v2(), plain()))
    odd = draw(some.integers(0, 19))
    if odd == 0:
        body = draw(some.binary(max_size=200))
    elif odd in (1, 2) and body:
        at = draw(some.integers(0, len(body) - 1))
        body = body[:at] + draw(some.binary(max_size=3)) + body[at + draw(some.integers(0, 3)) :]
    elif odd == 3:
        headers["Content-Encoding"] = draw(some.sampled_from(["gzip", "deflate", "br", "identity"]))
        if draw(some.booleans()):
            body = zlib.compress(body, wbits=31 if draw(some.booleans()) else 15)
    elif odd == 4:
        headers["x-onward-timeout-ms"] = draw(some.sampled_from(["9000", "0", "-1", "soon", "nan", "1e999"]))
    elif odd == 5:
        headers["Accept"] = draw(some.sampled_from(["text/event-stream", "application/json", "x/y"]))
    return Sent(
        path=path, headers=headers, body=body,
        chunks=draw(some.none() | some.lists(some.integers(1, 80), min_size=1, max_size=4)),
        cuts=draw(some.lists(some.floats(0, 0.999), max_size=3)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A server with the fast path, and one without it."""
    root = tmp_path_factory.mktemp("differential")
    for kind in right_of:
        echo_package(root / f"echo-{kind.lower()}" / "1.0.0", {"x": kind}, name=f"echo-{kind.lower()}")
    write_loan(root / "loan" / "1.2.0")
    reader_package(root / "reader" / "1.0.0")
    mlp_package(root / "mlp" / "1.0.0")
    with serving(root) as fast, serving(root, environment={"ONWARD_FAST_PATH": "off"}) as slow:
        yield fast, slow
        assert "Traceback" not in fast.log() + slow.log()


@pytest.fixture(scope="module")
def channels(servers: Servers) -> Iterator[tuple[Channel, Channel]]:
    """A connection to each."""
    opened = Channel(servers[0].port), Channel(servers[1].port)
    yield opened
    for channel in opened:
        channel.close()


def compare(channels: tuple[Channel, Channel], sent: Sent) -> None:
    """Both answer alike, and no answer is that something broke."""
    pieces = sent.pieces()
    (fast,), (slow,) = (channel.ask(pieces) for channel in channels)
    assert fast == slow
    assert fast[0] < 500 or fast[2]["code"] != "INTERNAL"


def compare_pipelined(channels: tuple[Channel, Channel], several: list[Sent], cuts: list[float]) -> None:
    """Sent one behind the other, they are answered in their order, as each would be alone."""
    data = b"".join(piece for sent in several for piece in sent.pieces())
    at = sorted({int(cut * len(data)) for cut in cuts} - {0})
    pieces = [data[start:end] for start, end in zip([0, *at], [*at, len(data)], strict=True)]
    fast, slow = (channel.ask(pieces, len(several)) for channel in channels)
    assert fast == slow and len(fast) == len(several)


short = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@short
@given(sent=requests())
def test_both_ways_answer_alike(channels: tuple[Channel, Channel], sent: Sent) -> None:
    compare(channels, sent)


@settings(short, max_examples=60)
@given(several=some.lists(requests(), min_size=2, max_size=6), cuts=some.lists(some.floats(0, 0.999), max_size=4))
def test_pipelined_requests_are_answered_alike(
    channels: tuple[Channel, Channel], several: list[Sent], cuts: list[float]
) -> None:
    compare_pipelined(channels, several, cuts)


@pytest.mark.long
@settings(short, max_examples=2_000, derandomize=False)
@given(several=some.lists(requests(), min_size=2, max_size=12), cuts=some.lists(some.floats(0, 0.999), max_size=6))
def test_pipelined_requests_are_answered_alike_for_long(
    channels: tuple[Channel, Channel], several: list[Sent], cuts: list[float]
) -> None:
    compare_pipelined(channels, several, cuts)


@pytest.mark.long
@settings(short, max_examples=8_000, derandomize=False)
@given(sent=requests())
def test_both_ways_answer_alike_for_long(channels: tuple[Channel, Channel], sent: Sent) -> None:
    compare(channels, sent)


@pytest.mark.long
async def test_heads_with_bytes_changed_are_understood_alike(servers: Servers) -> None:
    """Whatever is changed in a request's own bytes; what is wrong behind an answer that is due comes behind it."""
    dice = random.Random(7)
    text = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
    head = b"POST /v2/models/echo-fp32/infer HTTP/1.1\r\nHost: h\r\nX-A: b\r\n"
    whole = [
        head + b"Content-Length: %d\r\n\r\n%b" % (len(text), text),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(text, [30, 7]),
    ]
    turns = asyncio.Semaphore(100)

    async def one(data: bytes) -> None:
        async with turns:
            fast, slow = await asyncio.gather(*(talk(server.port, [data], half_close=False) for server in servers))
        if fast != slow:
            assert slow.statuses == (400,) and fast.statuses[-1:] == (400,) and fast.state == slow.state, data

    def changed() -> bytes:
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(2)] = bytes([dice.randrange(256)]) * dice.randrange(3)
        return bytes(data)

    await asyncio.gather(*(one(changed()) for _ in range(6000)))
