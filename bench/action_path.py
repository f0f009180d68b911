"""An action's way beside Celery's: a request is acknowledged once its action cannot be lost, then a web hook is sent.

    python -m bench.action_path [--seconds N] [--stores sqlite postgresql] [--output FILE]

Onward: model, 20 rules, decision, audit entry and outbox row in one transaction, relay in the same process. Celery: a
route that enqueues a task, over a broker in the same kind of database, and a worker of eight threads; no model, no
policy, no audit. Both send to the same service. Closed loop of wrk, then the time until all has been carried out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import deciding, machine
from bench.decisions import _database
from bench.environments import ensure_environment
from bench.layout import PEERS, ROOT
from bench.load.wrk import drive
from bench.peers.contender import Launch
from bench.processes import Server, free_port

CONNECTIONS = (1, 32)
DRAIN_S = 20.0
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.action_path", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, help="length of one timed run")
    parser.add_argument("--stores", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    found: Figures = {"machine": machine.facts(), "seconds": options.seconds, "figures": {}}
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        folder = Path(place)
        deciding.write_repository(folder / "repository")
        deciding.write_bodies(folder / "bodies", all_act=True)
        for kind in options.stores:
            for name, run in (("onward", _onward), ("celery", _celery)):
                for connections in CONNECTIONS:
                    here = folder / f"{kind}-{name}-{connections}"
                    here.mkdir()
                    with _database(kind, here) as url, _target(here) as port:
                        figures = run(folder, here, url, port, connections, options.seconds)
                    what = f"{kind}, {name}, {connections} connection(s)"
                    found["figures"][what] = figures
                    shown = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items())
                    print(f"{what:<40} {shown}", flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _onward(folder: Path, here: Path, url: str, target: int, connections: int, seconds: int) -> Figures:
    port = free_port()
    actions = deciding.write_actions(here / "actions.toml", target)
    argv = [str(ROOT / ".venv" / "bin" / "onward"), "serve", str(folder / "repository"), "--port", str(port)]
    argv += ["--admin-port", str(port + 1), "--store", url, "--actions", str(actions), "--key-file", str(here / "key")]
    with Server(Launch(argv=argv), port, here / "log") as server:
        server.wait_ready("/v2/health/ready")
        return _loaded(folder, port, f"/models/{deciding.NAME}", target, connections, seconds)


def _celery(folder: Path, here: Path, url: str, target: int, connections: int, seconds: int) -> Figures:
    port, peer = free_port(), PEERS / "celery"
    python = str(ensure_environment("celery"))
    broker = url.replace("sqlite://", "sqla+sqlite://").replace("postgresql://", "sqla+postgresql+psycopg://")
    environment = {"BROKER": broker, "TARGET": f"http://127.0.0.1:{target}/{deciding.ACTION}", "PYTHONPATH": str(peer)}
    worker = [python, "-m", "celery", "-A", "tasks", "worker", "--pool", "threads", "--concurrency", "8"]
    worker += ["--without-gossip", "--without-mingle", "--loglevel", "WARNING"]
    web = [python, "-m", "uvicorn", "serve:app", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    with Server(Launch(argv=web, environment=environment), port, here / "web.log") as server:
        server.wait_ready("/ready")
        first = json.dumps(deciding.request(0)).encode()  # makes the broker's tables, before the worker looks
        server.wait_answer("/act", first, {"Content-Type": "application/json"}, 10.0)
        with Server(Launch(argv=worker, environment=environment), port, here / "worker.log"):
            if not _until(lambda: _told(target)["posts"] >= 1):
                raise SystemExit(f"the worker carries nothing out:\n{(here / 'worker.log').read_text()[-2000:]}")
            return _loaded(folder, port, "/act", target, connections, seconds)


def _loaded(folder: Path, port: int, path: str, target: int, connections: int, seconds: int) -> Figures:
    """Load, then wait for what was acknowledged to be carried out."""
    drive(port, path, folder / "bodies", deciding.BODIES, connections, 1)
    before, started = _told(target)["posts"], time.perf_counter()
    load = drive(port, path, folder / "bodies", deciding.BODIES, connections, seconds)
    meanwhile = (_told(target)["posts"] - before) / (time.perf_counter() - started)
    after = _told(target)["posts"]
    time.sleep(DRAIN_S / 5)
    alone = (_told(target)["posts"] - after) / (DRAIN_S / 5)
    told = _told(target)
    return {
        "acknowledged_per_s": load.requests_per_s, "p50_ms": load.p50_us / 1e3, "p99_ms": load.p99_us / 1e3,
        "errors": load.errors, "carried_out_per_s_under_load": meanwhile, "carried_out_per_s_after": alone,
        "sent_twice": told["posts"] - told["distinct"],
    }  # fmt: skip


@contextlib.contextmanager
def _target(here: Path) -> Iterator[int]:
    port = free_port()
    argv = [sys.executable, "-m", "bench.target", str(port)]
    with Server(Launch(argv=argv), port, here / "target.log") as server:
        server.wait_ready("/count")
        yield port


def _told(target: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{target}/count", timeout=10) as answer:
        told: dict[str, int] = json.load(answer)
        return told


def _until(holds: Any, within_s: float = 20.0) -> bool:
    give_up_s = time.monotonic() + within_s
    while not (held := holds()) and time.monotonic() < give_up_s:
        time.sleep(0.05)
    return bool(held)


if __name__ == "__main__":
    main()
