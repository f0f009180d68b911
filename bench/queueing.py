"""Replicas of a server that batches what waits, as a discrete-event model; and an autoscaler over time.

A replica is Onward's scheduler in its simplest form: while it is idle it takes a request at once, what arrives during
a run is the next batch, and beyond `queue_rows` a request is refused. Knows nothing of packages or of HTTP.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Choose = Callable[[Sequence[int], random.Random, int], int]
"""Picks a replica, given how many requests each has, a source of chance and the request's number."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """Seconds that a replica takes: measured runs by rows in a batch; what a request and a batch cost besides."""

    runs_s: Mapping[int, Sequence[float]]
    request_s: float = 0.0
    batch_s: float = 0.0

    @property
    def largest(self) -> int:
        """The rows of the largest batch that was measured."""
        return max(self.runs_s)

    @property
    def capacity(self) -> float:
        """The rows a second that one replica can do at most."""
        means = {rows: sum(runs) / len(runs) for rows, runs in self.runs_s.items()}
        return max(rows / (mean + rows * self.request_s + self.batch_s) for rows, mean in means.items())

    def fitted(self, alone: float, crowded: float, callers: int) -> Service:
        """With the costs besides that explain the answers a second to one caller, and to so many, in closed loops.

        One caller: a row a batch. Many: batches as large as they are many, or as were measured. What cannot be
        explained by costs that are not negative is left unexplained.
        """
        means = {rows: sum(runs) / len(runs) for rows, runs in self.runs_s.items()}
        full = max(rows for rows in means if rows <= callers)
        besides_alone, besides_crowded = 1 / alone - means[1], 1 / crowded - means[full] / full
        batch_s = (besides_alone - besides_crowded) / (1 - 1 / full) if full > 1 else 0.0
        batch_s = min(max(0.0, batch_s), max(0.0, besides_alone))
        request_s = max(0.0, besides_crowded - batch_s / full)
        return Service(runs_s=self.runs_s, request_s=request_s, batch_s=batch_s)

    def draw(self, rows: int, chance: random.Random) -> float:
        """A time for a batch: one of those measured at the sizes around it, in proportion."""
        above = min(size for size in self.runs_s if size >= rows)
        time_s = chance.choice(self.runs_s[above])
        if above != rows:
            below = max(size for size in self.runs_s if size < rows)
            share = (rows - below) / (above - below)
            time_s = share * time_s + (1 - share) * chance.choice(self.runs_s[below])
        return time_s + rows * self.request_s + self.batch_s


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What callers saw: latencies in seconds, sorted; requests refused; requests answered a second; rows a batch."""

    latencies_s: Sequence[float]
    refused: int
    answers_per_s: float
    rows_per_batch: float

    def percentile(self, share: float) -> float:
        """The latency within which this share of requests was answered."""
        if not self.latencies_s:
            return math.nan
        return self.latencies_s[min(len(self.latencies_s) - 1, int(share * len(self.latencies_s)))]


def at_random(loads: Sequence[int], chance: random.Random, number: int) -> int:
    """As kube-proxy's iptables do."""
    return chance.randrange(len(loads))


def in_turn(loads: Sequence[int], chance: random.Random, number: int) -> int:
    """Round robin: as one proxy does."""
    return number % len(loads)


def shorter_of_two(loads: Sequence[int], chance: random.Random, number: int) -> int:
    """The one with fewer requests of two drawn at random: as Envoy's least-request does."""
    one, other = chance.randrange(len(loads)), chance.randrange(len(loads))
    return one if loads[one] <= loads[other] else other


class _Fleet:
    def __init__(self, service: Service, replicas: int, queue_rows: int, chance: random.Random) -> None:
        self.service, self.queue_rows, self.chance = service, queue_rows, chance
        self.queues: list[deque[float]] = [deque() for _ in range(replicas)]
        self.running: list[list[float]] = [[] for _ in range(replicas)]
        self.loads = [0] * replicas
        self.ends: list[tuple[float, int]] = []
        self.batches = 0

    def add(self, replica: int, now_s: float) -> bool:
        """A request arrives; False: refused."""
        if len(self.queues[replica]) >= self.queue_rows:
            return False
        self.queues[replica].append(now_s)
        self.loads[replica] += 1
        if not self.running[replica]:
            self._begin(replica, now_s)
        return True

    def finish(self) -> tuple[float, list[float]]:
        """The next batch to end: when, and when its requests had arrived."""
        end_s, replica = heapq.heappop(self.ends)
        done = self.running[replica]
        self.running[replica] = []
        self.loads[replica] -= len(done)
        if self.queues[replica]:
            self._begin(replica, end_s)
        return end_s, done

    def _begin(self, replica: int, now_s: float) -> None:
        queue = self.queues[replica]
        rows = min(len(queue), self.service.largest)
        self.running[replica] = [queue.popleft() for _ in range(rows)]
        self.batches += 1
        heapq.heappush(self.ends, (now_s + self.service.draw(rows, self.chance), replica))


def open_loop(service: Service, *, replicas: int, load: float, requests: int, choose: Choose = at_random,
              queue_rows: int = 1024, seed: int = 1) -> Outcome:  # fmt: skip
    """Requests arrive by chance (Poisson) at `load` of what all replicas can do; the first fifth is not counted."""
    chance = random.Random(seed)
    rate = load * replicas * service.capacity
    fleet, now_s, refused, answered = _Fleet(service, replicas, queue_rows, chance), 0.0, 0, 0
    counted_from_s = requests / 5 / rate
    latencies: list[float] = []

    def take(until_s: float) -> None:
        nonlocal answered
        while fleet.ends and fleet.ends[0][0] <= until_s:
            end_s, arrivals = fleet.finish()
            answered += len(arrivals)
            latencies.extend(end_s - arrived_s for arrived_s in arrivals if arrived_s >= counted_from_s)

    for number in range(requests):
        now_s += chance.expovariate(rate)
        take(now_s)
        refused += not fleet.add(choose(fleet.loads, chance, number), now_s) and now_s >= counted_from_s
    within_s = now_s
    done_within = answered
    take(math.inf)
    rows = answered / fleet.batches
    return Outcome(latencies_s=sorted(latencies), refused=refused, answers_per_s=done_within / within_s,
                   rows_per_batch=rows)  # fmt: skip


def closed_loop(service: Service, *, callers: int, requests: int, seed: int = 1) -> Outcome:
    """So many callers of one replica, each asking again at once: what a load generator does."""
    chance = random.Random(seed)
    fleet, latencies, end_s = _Fleet(service, 1, 1 << 30, chance), [], 0.0
    for _ in range(callers):
        fleet.add(0, 0.0)
    while len(latencies) < requests:
        end_s, arrivals = fleet.finish()
        latencies.extend(end_s - arrived_s for arrived_s in arrivals)
        for _ in arrivals:
            fleet.add(0, end_s)
    return Outcome(latencies_s=sorted(latencies), refused=0, answers_per_s=len(latencies) / end_s,
                   rows_per_batch=len(latencies) / fleet.batches)  # fmt: skip


def erlang_c(servers: int, load: float) -> float:
    """The share of requests that wait with `servers` servers at one queue (M/M/c), each busy `load` of the time."""
    offered = servers * load
    blocked = 1.0  # Erlang B, by its recurrence: no factorials to overflow
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """The HorizontalPodAutoscaler's rule with the figures of our manifest. `ready_s`: from asked for to serving."""

    target_rows: float
    most: int
    ready_s: float
    every_s: float = 15.0
    lag_s: float = 15.0
    tolerance: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A second of growth: what is asked for, the replicas that serve, rows waiting in each, the share refused."""

    at_s: float
    asked_per_s: float
    replicas: int
    queue_rows: float
    refused_share: float


def growth(capacity: float, asked: Callable[[float], float], scaler: Autoscaler, *, queue_rows: int, seconds: int,
           replicas: int = 1) -> Iterator[Moment]:  # fmt: skip
    """How replicas follow a rising load, in steps of a second: queues as fluid, shared evenly between replicas."""
    waiting, ready, wanted = 0.0, replicas, replicas
    coming: deque[tuple[float, int]] = deque()
    seen: deque[tuple[float, float]] = deque()
    for now_s in range(seconds):
        while coming and coming[0][0] <= now_s:
            ready += coming.popleft()[1]
        asked_per_s = asked(now_s)
        waiting = max(0.0, waiting + asked_per_s - ready * capacity)
        refused = max(0.0, waiting - ready * queue_rows)
        waiting -= refused
        seen.append((now_s, waiting / ready))
        yield Moment(at_s=now_s, asked_per_s=asked_per_s, replicas=ready, queue_rows=waiting / ready,
                     refused_share=refused / asked_per_s if asked_per_s else 0.0)  # fmt: skip
        if now_s and now_s % scaler.every_s == 0:
            while len(seen) > 1 and seen[1][0] <= now_s - scaler.lag_s:
                seen.popleft()
            ratio = seen[0][1] / scaler.target_rows
            if ratio > 1 + scaler.tolerance:
                more = min(scaler.most, 2 * wanted, math.ceil(ready * ratio)) - wanted
                if more > 0:
                    wanted += more
                    coming.append((now_s + scaler.ready_s, more))
