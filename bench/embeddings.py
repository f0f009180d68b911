"""Embeddings over HTTP: Onward beside sentence-transformers in FastAPI and Infinity, on the same weights.

    python -m bench.embeddings [--rounds N] [--seconds N] [--output FILE]

All answer OpenAI's `POST /v1/embeddings` with lists of numbers; 1 and 32 texts a request, texts of 4 to 110 words.
In every round each server is started afresh, its vectors are compared with the first contender's, then it is loaded
over 1 and over more connections; the order moves on by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.environments import ensure_environment
from bench.layout import BODIES, LOGS, MODELS, REPOSITORIES, ROOT
from bench.load.wrk import drive
from bench.materials import texts
from bench.peers.contender import Launch, Served
from bench.peers.onward.contender import Onward
from bench.processes import Server, free_port, machine_cpu_s

TEXTS = 512
CONNECTIONS = {1: (1, 8), 32: (1, 4)}  # by texts a request
SECONDS_OF_MANY = 2  # times as long where a request has many texts, so that it is asked often enough
IDLE_CORES = 0.05
TOLERANCE = 1e-3
PACKAGE = ROOT / "var" / "repository" / "embed" / "1.0.0"
ROUTE = "/v1/embeddings"
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    facts = machine.facts()
    for found in measure(options.contenders, options.rounds, options.seconds):
        if options.output:  # after every round: what ends the rest takes nothing away
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"machine": facts, **found}, indent=2) + "\n")


def measure(names: Sequence[str], rounds: int, seconds: int) -> Iterator[Figures]:
    """After every round: all rounds so far, and the medians of each contender."""
    folders = {size: _written(size) for size in CONNECTIONS}
    every: dict[str, list[Figures]] = {name: [] for name in names}
    reference: np.ndarray | None = None
    for number in range(rounds):
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            port = free_port()
            launch, ready = CONTENDERS[name](port)
            with Server(launch, port, LOGS / f"embeddings-{name}.log") as server:
                server.wait_ready(ready, timeout_s=120)
                vectors = _vectors(port, texts(TEXTS)[:64])
                reference = vectors if reference is None else reference
                apart = float(np.abs(vectors - reference).max())
                if apart > TOLERANCE:
                    raise SystemExit(f"{name}: vectors differ by {apart:.2g}")
                loads = {}
                for size, folder in folders.items():
                    drive(port, ROUTE, folder, TEXTS // size, 1, 1)
                    for connections in CONNECTIONS[size]:
                        _settle(server)
                        lasts_s = seconds * (SECONDS_OF_MANY if size > 1 else 1)
                        found = _loaded(server, folder, size, connections, lasts_s)
                        loads[f"{size} texts, {connections} connections"] = found
                every[name].append({"loads": loads, "apart": apart, "memory_bytes": server.usage().memory_bytes})
            print(f"round {number + 1}, {name}: " + ", ".join(
                f"{load}: {one['texts_per_s']:.0f}/s p50 {one['p50_us'] / 1e3:.1f} ms" for load, one in loads.items()
            ), flush=True)  # fmt: skip
        yield {"medians": {name: _median(told) for name, told in every.items()}, "every_round": every}


def _settle(server: Server) -> None:
    """Wait until a server is done with what the load generator left behind when its time was over."""
    for _ in range(150):
        before = server.usage().cpu_s
        time.sleep(0.2)
        if (server.usage().cpu_s - before) / 0.2 <= IDLE_CORES:
            return


def _loaded(server: Server, folder: Path, size: int, connections: int, seconds: int) -> Figures:
    everyone, before = machine_cpu_s(), server.usage()
    load = drive(server.port, ROUTE, folder, TEXTS // size, connections, seconds)
    used = (server.usage().cpu_s - before.cpu_s) / seconds
    if load.errors:
        raise SystemExit(f"{load.errors} of {load.requests} requests failed")
    other = max(0.0, (machine_cpu_s() - everyone) / seconds - used - load.generator_cpu)
    return {**asdict(load), "texts_per_s": load.requests_per_s * size, "cpu_cores": used, "other_cpu": other}


def _median(rounds: Sequence[Figures]) -> Figures:
    keys = ("texts_per_s", "p50_us", "p99_us", "other_cpu")
    loads = {load: {key: statistics.median(one["loads"][load][key] for one in rounds) for key in keys}
             for load in rounds[0]["loads"]}  # fmt: skip
    return {"loads": loads, "memory_bytes": statistics.median(one["memory_bytes"] for one in rounds)}


def _body(given: Sequence[str]) -> bytes:
    return json.dumps({"model": "embed", "input": list(given)}).encode()


def _written(size: int) -> Path:
    folder = BODIES / f"embeddings-{size}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headers.txt").write_text("Content-Type: application/json\n", "utf-8")
    every = texts(TEXTS)
    for at in range(TEXTS // size):
        (folder / f"body-{at}").write_bytes(_body(every[at * size : (at + 1) * size]))
    return folder


def _vectors(port: int, given: Sequence[str]) -> np.ndarray:
    """The vectors of some texts, asked for one by one and 32 at a time, which has to come to the same."""
    alone = np.concatenate([_asked(port, [text]) for text in given])
    together = np.concatenate([_asked(port, given[at : at + 32]) for at in range(0, len(given), 32)])
    if np.abs(alone - together).max() > TOLERANCE:
        raise SystemExit("a text's vector depends on the texts beside it")
    return together


def _asked(port: int, given: Sequence[str]) -> np.ndarray:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{ROUTE}", data=_body(given), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        data = json.loads(answer.read())["data"]
    return np.array([one["embedding"] for one in data], np.float32)


def _weights() -> Path:
    """The original model's folder, by the name that the requests use."""
    from gallery.intent.build import weights_folder

    place = MODELS / "embed"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(weights_folder(), target_is_directory=True)
    return place


def _onward(port: int) -> tuple[Launch, str]:
    if not (PACKAGE / "onward.lock").exists():
        raise SystemExit("the package embed is not built: run `python -m gallery build embed` first")
    contender, served = Onward(), Served(name="embed", folder=PACKAGE, form="text")
    REPOSITORIES.mkdir(parents=True, exist_ok=True)
    return contender.launch(served, {}, port), contender.ready_path(served)


def _sentence_transformers(port: int) -> tuple[Launch, str]:
    python = ensure_environment("sentence_transformers")
    argv = [str(python), "-m", "uvicorn", "bench.peers.sentence_transformers.serve:application", "--host", "127.0.0.1"]
    argv += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    environment = {"PYTHONPATH": str(ROOT), "BENCH_WEIGHTS": str(_weights()), "HF_HUB_OFFLINE": "1"}
    return Launch(argv=argv, environment=environment), "/ready"


def _infinity(port: int) -> tuple[Launch, str]:
    python = ensure_environment("infinity")
    argv = [str(python.with_name("infinity_emb")), "v2", "--model-id", str(_weights()), "--served-model-name", "embed"]
    argv += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", "32", "--url-prefix", "/v1"]
    argv += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return Launch(argv=argv, environment=environment), "/health"


CONTENDERS: dict[str, Callable[[int], tuple[Launch, str]]] = {
    "onward": _onward,
    "sentence-transformers": _sentence_transformers,
    "infinity": _infinity,
}

if __name__ == "__main__":
    sys.exit(main())
