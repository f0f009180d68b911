"""The two ways to put a load on a server, and what was seen.

Closed: so many callers, each sends its next request once it has its answer; that gives the throughput. Open: requests
are sent at times drawn beforehand, whether or not earlier ones have been answered, and a latency counts from when a
request was due, so that a server that stands still is charged for all who came meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from onward.runners.load.connection import NO_ANSWER, Client, Connection, Reply

_LEAD_S = 0.05
_NEAR_S = 0.0005
_LAST_S = 10.0
_LOOK_EVERY = 8


@dataclass(slots=True, kw_only=True)
class Seen:
    """What a load has shown: `latencies_s` of the answers with 2xx, the count of each other status, and its length.

    `late_s` is how late the generator itself sent at p99 (open loop): what it adds to every latency.
    """

    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[int] = field(default_factory=Counter)
    elapsed_s: float = 0.0
    offered: int = 0
    late_s: float = 0.0

    def take(self, reply: Reply, taken_s: float) -> None:
        """Count an answer."""
        if 200 <= reply.status < 300:
            self.latencies_s.append(taken_s)
        else:
            self.failures[reply.status] += 1

    def join(self, other: Seen) -> None:
        """Add what was seen at another time."""
        self.latencies_s += other.latencies_s
        self.failures += other.failures
        self.elapsed_s += other.elapsed_s
        self.offered += other.offered
        self.late_s = max(self.late_s, other.late_s)

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.elapsed_s if self.elapsed_s else 0.0

    def quantile_s(self, share: float) -> float:
        """The latency that `share` of the answers did not exceed; NaN where there are none."""
        ranked = sorted(self.latencies_s)
        return ranked[min(int(share * len(ranked)), len(ranked) - 1)] if ranked else float("nan")


async def closed(client: Client, messages: Iterator[bytes], *, together: int, seconds: float) -> Seen:
    """Keep `together` requests under way for `seconds`; what is under way then is still waited for."""
    seen = Seen()
    started_s = time.perf_counter()
    until_s = started_s + seconds

    async def call() -> None:
        while time.perf_counter() < until_s:
            reply = await client.ask(next(messages))
            seen.offered += 1
            seen.take(reply, reply.taken_s)

    await asyncio.gather(*(call() for _ in range(together)))
    seen.elapsed_s = time.perf_counter() - started_s
    return seen


async def opened(
    client: Client, messages: Sequence[bytes], *, per_s: float, seconds: float, connections: int, seed: int = 1
) -> Seen:
    """Send `per_s` requests a second for `seconds`, at random times (a Poisson process), over kept connections."""
    run = _Open(client, messages)
    for _ in range(max(connections - len(client.free), 0)):
        client.free.append(await client.connect())
    chance = random.Random(seed)  # reproducible, no secret
    started_s = due_s = time.perf_counter() + _LEAD_S
    while (due_s := due_s + chance.expovariate(per_s)) < started_s + seconds:
        early_s = due_s - time.perf_counter()
        if early_s > _NEAR_S:
            await asyncio.sleep(early_s)
        elif run.seen.offered % _LOOK_EVERY == 0:
            await asyncio.sleep(0)  # answers are looked at also while requests are behind their time
        run.send(due_s)
    until_s = time.perf_counter() + _LAST_S
    while run.answered < run.seen.offered and time.perf_counter() < until_s:
        await asyncio.sleep(0.005)
    seen = run.seen
    seen.elapsed_s = time.perf_counter() - started_s
    if run.answered < seen.offered:
        seen.failures[NO_ANSWER] += seen.offered - run.answered
    run.late_s.sort()
    seen.late_s = run.late_s[int(0.99 * (len(run.late_s) - 1))] if run.late_s else 0.0
    return seen


class _Open:
    """The requests of one open loop: those that are due wait here for a free connection."""

    def __init__(self, client: Client, messages: Sequence[bytes]) -> None:
        self.seen = Seen()
        self.late_s: list[float] = []
        self.answered = 0
        self._client = client
        self._messages = itertools.cycle(messages)
        self._waiting: deque[float] = deque()

    def send(self, due_s: float) -> None:
        self.seen.offered += 1
        self.late_s.append(time.perf_counter() - due_s)
        self._waiting.append(due_s)
        if self._client.free:
            self._give(self._client.free.pop())

    def _give(self, connection: Connection) -> None:
        due_s = self._waiting.popleft()

        def then(reply: Reply) -> None:
            self.answered += 1
            self.seen.take(reply, time.perf_counter() - due_s)
            if self._waiting and not connection.closed:
                # The connection is given its next request once it is free again, which it is after this.
                asyncio.get_running_loop().call_soon(self._next)

        connection.ask(next(self._messages), then, timeout_s=self._client.timeout_s)

    def _next(self) -> None:
        while self._waiting and self._client.free:
            self._give(self._client.free.pop())
