"""An open loop: requests are sent at their times, drawn beforehand, whether or not earlier ones have been answered.

A latency counts from when a request was due, so that a server that stands still is charged for all who came meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Steady:
    """What was seen at a rate. `late_us` is how late the generator itself was, at p99: it should be small."""

    offered_per_s: float
    answered_per_s: float
    requests: int
    errors: int
    p50_us: float
    p99_us: float
    max_us: float
    late_us: float


class _Connection(asyncio.Protocol):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._data = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._run.free.append(self)

    def send(self, due: float, request: bytes) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._data[:end].lower()
        at = head.find(b"content-length:") + 15
        length = int(head[at : head.find(b"\r\n", at) if head.find(b"\r\n", at) > 0 else None])
        if len(self._data) < end + 4 + length:
            return
        self._run.answered(self._due, head.startswith(b"http/1.1 200"))
        self._data = b""
        self._run.give(self)


class _Run:
    def __init__(self, requests: Sequence[bytes]) -> None:
        self.free: list[_Connection] = []
        self.waiting: deque[float] = deque()
        self.taken_s: list[float] = []
        self.late_s: list[float] = []
        self.errors = 0
        self._requests = requests
        self._next = 0

    def due(self, at: float) -> None:
        self.late_s.append(time.perf_counter() - at)
        self.waiting.append(at)
        if self.free:
            self.give(self.free.pop())

    def give(self, connection: _Connection) -> None:
        if not self.waiting:
            self.free.append(connection)
            return
        self._next += 1
        connection.send(self.waiting.popleft(), self._requests[self._next % len(self._requests)])

    def answered(self, due: float, well: bool) -> None:
        self.taken_s.append(time.perf_counter() - due)
        self.errors += not well


def steady(
    port: int, path: str, bodies: Sequence[bytes], *, per_s: float, seconds: float, connections: int = 256
) -> Steady:
    """Send `per_s` requests a second for `seconds`, at random times (a Poisson process), over kept connections."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    requests = [head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies]
    return asyncio.run(_steady(port, requests, per_s, seconds, connections))


async def _steady(port: int, requests: Sequence[bytes], per_s: float, seconds: float, connections: int) -> Steady:
    loop, run, chance = asyncio.get_running_loop(), _Run(requests), random.Random(1)
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
    started = due = time.perf_counter() + 0.05
    sent = 0
    while (due := due + chance.expovariate(per_s)) < started + seconds:
        if due - time.perf_counter() > 0.0005:
            await asyncio.sleep(due - time.perf_counter())
        elif sent % 8 == 0:
            await asyncio.sleep(0)  # answers are looked at also while requests are behind their time
        run.due(due)
        sent += 1
    until = time.perf_counter() + 10.0
    while len(run.taken_s) < sent and time.perf_counter() < until:
        await asyncio.sleep(0.01)
    took_s = time.perf_counter() - started
    ranked = sorted(run.taken_s) or [0.0]
    late = sorted(run.late_s) or [0.0]
    return Steady(
        offered_per_s=sent / seconds,
        answered_per_s=len(run.taken_s) / took_s,
        requests=sent,
        errors=run.errors + sent - len(run.taken_s),
        p50_us=ranked[len(ranked) // 2] * 1e6,
        p99_us=ranked[int(0.99 * (len(ranked) - 1))] * 1e6,
        max_us=ranked[-1] * 1e6,
        late_us=late[int(0.99 * (len(late) - 1))] * 1e6,
    )
