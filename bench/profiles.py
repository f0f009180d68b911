"""How fast profiles are: events a second that are durable, features read; beside Feast's online store on SQLite.

    python -m bench.profiles [--rounds 5] [--output bench/results/profiles.json] [--no-feast]

Both keep their data in a SQLite file on the same disk and are asked in turns, one process each, for nine features of
one entity. They do not do the same: Onward computes the features from the entity's events at each read (as of now, so
that windows slide), Feast looks up values that somebody computed before. Of each figure the median of the rounds is
given. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.environments import ensure_environment
from bench.layout import PEERS
from onward.package.records import Feature, ProfileSource
from onward.prepare.profile import Features
from onward.store.profiles import Profiles
from onward.store.sql import open_store
from onward.store.store import Store
from onward.store.writer import Writer

CARDS = 1_000
EVENTS_A_CARD = 50
READS = 2_000
SHOPS = 40
WRITES = 20_000
TOGETHER = 100
WAITING = 64
"""So many single events wait for their commit at a time, as from so many connections."""

Figures = dict[str, Any]
SPANS_S = {"1m": 60.0, "1h": 3600.0, "1d": 86400.0}
KIND = ("purchase",)
SOURCE = ProfileSource(entity="card", ttl_s=90 * 86400.0)
FEATURES = Features(
    SOURCE,
    [
        *(Feature(name=f"count_{name}", kinds=KIND, function="count", window_s=span_s, datatype="INT64", default=0)
          for name, span_s in SPANS_S.items()),
        *(Feature(name=f"spent_{name}", kinds=KIND, function="sum", field="amount", window_s=span_s, default=0.0)
          for name, span_s in SPANS_S.items()),
        Feature(name="since_last", kinds=KIND, function="time_since"),
        Feature(name="merchants", kinds=KIND, function="distinct", field="shop", datatype="INT64", default=0),
        Feature(name="latest", kinds=KIND, function="last_n", field="shop", n=10, datatype="BYTES", default=()),
    ],
)  # fmt: skip


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiles", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-feast", action="store_true", help="without the peer")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    found: Figures = {"machine": machine.facts(), "rounds": options.rounds, "cards": CARDS}
    found |= {"events_a_card": EVENTS_A_CARD, "reads_a_round": READS, "load_average": []}
    rounds: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        store, writer = stack.enter_context(_store(folder / "onward.db"))
        found["durability"] = dict(store.durability()) if hasattr(store, "durability") else {}
        feast = None if options.no_feast else stack.enter_context(_feast(folder / "feast"))
        _fill(Profiles(store, writer))
        for number in range(options.rounds):
            for name, figures in _round(store, writer, feast, number):
                rounds.setdefault(name, []).append(figures)
            found["load_average"].append(round(os.getloadavg()[0], 2))
    found["figures"] = {
        name: {key: statistics.median(one[key] for one in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }
    found["every_round"] = rounds
    for name, figures in found["figures"].items():
        print(f"{name:<52} " + ", ".join(f"{key} {value:,.3f}" for key, value in figures.items()), flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _round(store: Store, writer: Writer, feast: Peer | None, number: int) -> Iterator[tuple[str, Figures]]:
    cards = [f"c{card}" for card in random.Random(number).choices(range(CARDS), k=READS)]
    # Nothing is ever fresh: each read asks the store.
    asking = Profiles(store, writer, freshness_s=-1.0)
    yield "read, from the store", _latency(_reads(asking, cards))
    if feast is not None:
        yield "read, Feast", _latency(feast.ask({"do": "read", "entities": cards})["taken_s"])
    keeping = Profiles(store, writer, freshness_s=math.inf)
    _reads(keeping, sorted(set(cards)))
    yield "read, from the cache", _latency(_reads(keeping, cards))
    yield f"events, {TOGETHER} together", _rate(WRITES, lambda: _write_together(asking, number))
    yield f"events, one by one, {WAITING} waiting", _rate(WRITES, lambda: _write_singly(asking, number))
    if feast is not None:
        answer = feast.ask({"do": "write", "rows": 2_000, "batch": TOGETHER})
        yield f"rows of nine features, {TOGETHER} together, Feast", {"per_s": answer["rows"] / answer["taken_s"]}


def _reads(profiles: Profiles, cards: list[str]) -> list[float]:
    taken_s = []
    for card in cards:
        started = time.perf_counter()
        found = profiles.read("bench", card, FEATURES)
        taken_s.append(time.perf_counter() - started)
        if len(found["latest"]) != 10:
            raise SystemExit(f"a card without its events: {found}")
    return taken_s


def _fill(profiles: Profiles) -> None:
    """Give every card its events, over the last two days."""
    chance, now_s = random.Random(7), time.time()
    for card in range(CARDS):
        events = [_event(f"e{card}-{at}", chance, now_s - chance.random() * 2 * 86400) for at in range(EVENTS_A_CARD)]
        profiles.ingest("bench", f"c{card}", events).result()


def _event(event_id: str, chance: random.Random, at_s: float) -> Figures:
    data = {"amount": round(chance.expovariate(0.02), 2), "shop": f"shop-{chance.randrange(SHOPS)}", "currency": "EUR"}
    return {"id": event_id, "kind": "purchase", "at": at_s, "data": data}


def _write_together(profiles: Profiles, number: int) -> None:
    """Lists of events, each list durable before the next is sent; of cards that are never read."""
    chance = random.Random(number)
    for first in range(0, WRITES, TOGETHER):
        events = [_event(f"t{number}-{first + at}", chance, time.time()) for at in range(TOGETHER)]
        _all_new(profiles.ingest("bench", f"t{first}", events).result().accepted, TOGETHER)


def _write_singly(profiles: Profiles, number: int) -> None:
    """One event at a time, of which a number wait for the disk; the writer's group commit takes them together."""
    chance, waiting = random.Random(number), deque[Any]()
    for at in range(WRITES):
        if len(waiting) == WAITING:
            _all_new(waiting.popleft().result().accepted, 1)
        waiting.append(profiles.ingest("bench", f"s{at % CARDS}", [_event(f"s{number}-{at}", chance, time.time())]))
    for future in waiting:
        _all_new(future.result().accepted, 1)


def _all_new(accepted: int, sent: int) -> None:
    if accepted != sent:
        raise SystemExit(f"{accepted} of {sent} events were new")


def _rate(count: int, work: Callable[[], None]) -> Figures:
    started = time.perf_counter()
    work()
    return {"per_s": count / (time.perf_counter() - started)}


def _latency(taken_s: list[float]) -> Figures:
    ranked_ms = sorted(taken * 1e3 for taken in taken_s)
    return {"p50_ms": statistics.median(ranked_ms), "p99_ms": ranked_ms[math.ceil(0.99 * len(ranked_ms)) - 1]}


@contextlib.contextmanager
def _store(file: Path) -> Iterator[tuple[Store, Writer]]:
    store = open_store(f"sqlite:///{file}")
    writer = Writer(store)
    try:
        yield store, writer
    finally:
        writer.close()
        store.close()


class Peer:
    """Feast in a process of its own, asked a line at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, wish: Figures) -> Figures:
        """Send a wish, wait for its figures."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Figures:
        """The next line of figures."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("Feast has ended")
        found: Figures = json.loads(line)
        return found


@contextlib.contextmanager
def _feast(folder: Path) -> Iterator[Peer]:
    folder.mkdir()
    command = [str(ensure_environment("feast")), str(PEERS / "feast" / "reads.py"), str(folder), str(CARDS)]
    environment = {**os.environ, "FEAST_USAGE": "False"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip
    try:
        peer = Peer(process)
        peer.answer()
        yield peer
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


if __name__ == "__main__":
    main()
