"""Raw bytes to a server and what comes back: answers, and what the connection is good for afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUIET_S = 0.5
_PROBE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
# Headers that differ from answer to answer (with the length of the request's id), or that `state` tells better.
_FLEETING = frozenset({"date", "x-request-id", "content-length", "connection"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer: a body of JSON comes without the id of its request."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one connection gave. `state` is `closed`, `open` (another request was answered on it) or `waiting`."""

    answers: tuple[Answer, ...]
    state: str
    continued: int = 0
    rest: bytes = b""

    @property
    def statuses(self) -> tuple[int, ...]:
        """The statuses alone."""
        return tuple(answer.status for answer in self.answers)


async def talk(
    port: int, pieces: Sequence[bytes], *, half_close: bool = False, pause_s: float = 0.02, heads: bool = False
) -> Outcome:
    """Send the pieces, one after the other, and tell what came back; `heads`: the answers have no bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened: socket.socket = writer.get_extra_info("socket")
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = bytearray()
    try:
        with contextlib.suppress(OSError):
            for index, piece in enumerate(pieces):
                if index:
                    await asyncio.sleep(pause_s)
                writer.write(piece)
                await writer.drain()
            if half_close:
                writer.write_eof()
        ended = await _listen(reader, received)
        data = bytes(received)
        if ended:
            return _outcome(data, "closed", heads)
        received.clear()
        with contextlib.suppress(OSError):
            writer.write(_PROBE)
        ended = await _listen(reader, received)
        if bytes(received).startswith(b"HTTP/1.1 200 ") and not ended:
            return _outcome(data, "open", heads)
        return _outcome(data + bytes(received), "closed" if ended else "waiting", heads)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _listen(reader: asyncio.StreamReader, received: bytearray) -> bool:
    """Read until it is quiet; True where the server has closed."""
    while True:
        try:
            piece = await asyncio.wait_for(reader.read(1 << 16), QUIET_S)
        except TimeoutError:
            return False
        except OSError:
            return True
        if not piece:
            return True
        received += piece


def _outcome(data: bytes, state: str, heads: bool) -> Outcome:
    answers: list[Answer] = []
    continued = 0
    while True:
        head, end, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
        if not end or match is None:
            break
        if match[1] == "100":
            continued += 1
            data = rest
            continue
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if heads:
            body, data = b"", rest
        elif headers.get("transfer-encoding") == "chunked":
            body, data = _unchunked(rest)
        else:
            length = int(headers.get("content-length", "0"))
            body, data = rest[:length], rest[length:]
        headers = {name: value for name, value in headers.items() if name not in _FLEETING}
        answers.append(Answer(status=int(match[1]), headers=headers, body=readable(body)))
    return Outcome(answers=tuple(answers), state=state, continued=continued, rest=data)


def _unchunked(data: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        line, _, data = data.partition(b"\r\n")
        size = int(line, 16)
        body, data = body + data[:size], data[size + 2 :]
        if not size:
            return body, data


def readable(body: bytes) -> Any:
    """JSON without the id of its request, or the bytes."""
    try:
        told = json.loads(body)
    except ValueError:
        return body
    if isinstance(told, dict):
        told.pop("request_id", None)
    return told
