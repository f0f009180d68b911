"""`onward compare`: every request once to both endpoints, then rounds of load that take turns.

First pass: answers. Who is asked first is drawn for each request, so that neither finds the other's caches warm. Then
the load: a block on one side, a block on the other, and the next round the other way round, so that what else the
machine does meanwhile falls on both. While one is measured the other is idle: they may share a machine.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onward.errors import MalformedBody, UsageError
from onward.runners.agreement.comparison import apart
from onward.runners.endpoints.endpoint import Endpoint
from onward.runners.endpoints.forms import at_path, steps_of, without
from onward.runners.endpoints.processes import cpu_s, is_here
from onward.runners.endpoints.recorded import Recorded, read_requests
from onward.runners.endpoints.report import Agreement, Apart, Bounds, Comparison, Side
from onward.runners.load.connection import NO_ANSWER, Client, Reply
from onward.runners.load.loops import Seen, closed

_ROUNDS = 5
_SEED = 1
_SETTLE_S = 0.1
# What says that the request is at fault. Other 4xx say that nothing was compared: no such model, no access, too many.
_REFUSALS = frozenset({400, 413, 415, 422})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to compare. `outputs` maps the old side's places in answers to the new one's; without any, whole answers are
    compared, but for the places in `ignored`. Processor time is that of `pids` and their children; prices are per hour.
    """

    requests: Path
    bounds: Bounds
    together: int = 8
    seconds: float = 10.0
    timeout_s: float = 30.0
    by_value: bool = False
    outputs: Mapping[str, str] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    pids: tuple[int | None, int | None] = (None, None)
    prices_per_hour: tuple[float | None, float | None] = (None, None)


def compare(old: Endpoint, new: Endpoint, settings: Settings, *, progress: Callable[[str], None]) -> Comparison:
    """Compare two endpoints. Raises `UsageError`, `MalformedBody` or `SourceUnreachable` before measuring."""
    for pid in settings.pids:
        if pid is not None and not is_here(pid):
            raise UsageError("no such process on this machine", where="--old-pid, --new-pid", found=str(pid))
    requests = read_requests(settings.requests)
    return asyncio.run(_compare(old, new, requests, settings, progress))


async def _compare(
    old: Endpoint, new: Endpoint, requests: Sequence[Recorded], settings: Settings, progress: Callable[[str], None]
) -> Comparison:
    sides = (old, new)
    clients = [Client(side.place, timeout_s=settings.timeout_s) for side in sides]
    try:
        messages = [
            [await side.message(one, client) for one in requests] for side, client in zip(sides, clients, strict=True)
        ]
        progress(f"asking both {len(requests)} requests")
        judge = _Judge(old, new, settings)
        await _ask_all(clients, messages, requests, judge, settings.together)
        seen = [_Measured(), _Measured()]
        busy_s = time.process_time()
        if settings.seconds > 0:
            await _take_turns(clients, messages, settings, seen, progress)
        busy_s = time.process_time() - busy_s
    finally:
        for client in clients:
            client.close()
    measured_s = sum(one.seen.elapsed_s for one in seen)
    told = [
        _side(side, requests, one, price)
        for side, one, price in zip(sides, seen, settings.prices_per_hour, strict=True)
    ]
    return Comparison(
        old=told[0], new=told[1], agreement=judge.found, bounds=settings.bounds, together=settings.together,
        seconds=settings.seconds, client_share=round(busy_s / measured_s, 3) if measured_s else 0.0,
    )  # fmt: skip


async def _ask_all(
    clients: Sequence[Client], messages: Sequence[Sequence[bytes]], requests: Sequence[Recorded], judge: _Judge,
    together: int,
) -> None:  # fmt: skip
    """Ask both sides each request, `together` requests at a time, in an order that is drawn for each."""
    waiting = iter(range(len(requests)))
    chance = random.Random(_SEED)  # reproducible, no secret

    async def ask() -> None:
        for index in waiting:
            first = chance.randrange(2)
            replies = {first: await clients[first].ask(messages[first][index])}
            replies[1 - first] = await clients[1 - first].ask(messages[1 - first][index])
            judge.take(requests[index], replies[0], replies[1])

    await asyncio.gather(*(ask() for _ in range(min(together, len(requests)))))
    judge.found.first.sort(key=lambda one: one.line)


class _Judge:
    """Compares the two answers to each request."""

    def __init__(self, old: Endpoint, new: Endpoint, settings: Settings) -> None:
        self.found = Agreement()
        self._old, self._new = old, new
        self._tolerance = settings.bounds.tolerance
        self._by_value = settings.by_value
        self._pairs = [
            (steps_of(theirs, where="--output"), steps_of(ours, where="--output"), ours)
            for theirs, ours in settings.outputs.items()
        ]
        self._ignored = [steps_of(path, where="--ignore") for path in settings.ignored]

    def take(self, request: Recorded, old: Reply, new: Reply) -> None:
        """Count one request."""
        found = self.found
        found.requests += 1
        if old.status == new.status and old.status in _REFUSALS:
            found.refused_by_both += 1
            return
        if not (200 <= old.status < 300 and 200 <= new.status < 300):
            found.failed += 1
            found.note(Apart(line=request.line, where=f": {_told(old)} and {_told(new)}"))
            return
        try:
            theirs, ours = self._answers(request, old, new)
            difference, where = apart(theirs, ours, self._tolerance)
        except (MalformedBody, RecursionError) as error:
            found.failed += 1
            found.note(Apart(line=request.line, where=f": {error}"))
            return
        found.largest_difference = max(found.largest_difference, difference)
        if where:
            found.differing += 1
            found.note(Apart(line=request.line, where=where, difference=difference))
        elif theirs == ours:
            found.equal += 1
        else:
            found.within_tolerance += 1

    def _answers(self, request: Recorded, old: Reply, new: Reply) -> tuple[object, object]:
        forms = {self._old.form(request), self._new.form(request)}
        by_value = self._by_value or len(forms) > 1 or bool(self._pairs)
        theirs = self._old.answer(request, old.body, by_value=by_value)
        ours = self._new.answer(request, new.body, by_value=by_value)
        for steps in self._ignored:
            theirs, ours = without(theirs, steps), without(ours, steps)
        if self._pairs:
            theirs = {name: at_path(theirs, steps) for steps, _, name in self._pairs}
            ours = {name: at_path(ours, steps) for _, steps, name in self._pairs}
        return theirs, ours


def _told(reply: Reply) -> str:
    if reply.status == NO_ANSWER:
        return reply.body.decode("utf-8", "replace")
    return f"status {reply.status} ({reply.body[:60].decode('utf-8', 'replace')!r})"


@dataclass(slots=True)
class _Measured:
    """What the blocks of one side have shown."""

    seen: Seen = field(default_factory=Seen)
    p99_s: list[float] = field(default_factory=list)
    cpu_s: float | None = None


async def _take_turns(
    clients: Sequence[Client], messages: Sequence[Sequence[bytes]], settings: Settings, measured: Sequence[_Measured],
    progress: Callable[[str], None],
) -> None:  # fmt: skip
    cycles = [itertools.cycle(one) for one in messages]
    block_s = settings.seconds / (2 * _ROUNDS)
    for turn in range(_ROUNDS):
        progress(f"round {turn + 1} of {_ROUNDS}, {settings.together} at a time")
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            await asyncio.sleep(_SETTLE_S)
            pid, one = settings.pids[which], measured[which]
            before_s = cpu_s(pid) if pid is not None else 0.0
            seen = await closed(clients[which], cycles[which], together=settings.together, seconds=block_s)
            if pid is not None:
                one.cpu_s = (one.cpu_s or 0.0) + cpu_s(pid) - before_s
            one.p99_s.append(seen.quantile_s(0.99))
            one.seen.join(seen)


def _side(side: Endpoint, requests: Sequence[Recorded], measured: _Measured, price_per_hour: float | None) -> Side:
    seen = measured.seen
    answered = len(seen.latencies_s)
    cost = price_per_hour / (seen.per_s * 3600) * 1e6 if price_per_hour is not None and seen.per_s else None
    cpu = measured.cpu_s / answered * 1000 if measured.cpu_s is not None and answered else None
    place = side.place
    return Side(
        url=f"http{'s' if place.tls else ''}://{place.authority}{place.path}", form=side.form(requests[0]),
        requests=answered, failures={str(status or "none"): count for status, count in seen.failures.items()},
        per_s=round(seen.per_s, 2), p50_ms=round(seen.quantile_s(0.5) * 1e3, 4),
        p95_ms=round(seen.quantile_s(0.95) * 1e3, 4), p99_ms=round(seen.quantile_s(0.99) * 1e3, 4),
        p99_ms_rounds=[round(one * 1e3, 4) for one in measured.p99_s],
        cpu_s_per_1000=None if cpu is None else round(cpu, 5),
        cost_per_million=None if cost is None else round(cost, 6),
    )  # fmt: skip
