"""What a core answers, what a million answers cost, and what 1 to 1,000 replicas would do: measured, then modelled.

    python -m bench.scale_out --output FOLDER                  # measure here (two cores, quiet), model, draw
    python -m bench.scale_out --output FOLDER --model-only     # model again from FOLDER/scale_out.json

Measured: a server on one core alone, loaded from another one; and the package's batches in a process on one core.
Modelled (`bench/queueing.py`): replicas of one core each with these times. What the model leaves out: the network, the
proxy's own limits, replicas that slow each other down on one machine, pulling images, failures, and requests that are
alike or come in bursts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine
from bench.environments import ensure_environment
from bench.layout import BODIES, LOGS, ROOT
from bench.load.wrk import drive
from bench.peers.contender import Launch
from bench.peers.onward.contender import COMMAND
from bench.processes import Server, free_port, machine_cpu_s
from bench.queueing import (
    Autoscaler,
    Service,
    at_random,
    closed_loop,
    erlang_c,
    growth,
    in_turn,
    open_loop,
    shorter_of_two,
)

PACKAGES = ("fraud", "vision", "intent", "embed")
CONNECTIONS = (1, 8, 64)
SECONDS = 4
TRIES = 3
QUIET_CORES = 0.1
RUN_S = 0.8
REPLICAS = (1, 3, 10, 30, 100, 300, 1000)
LOADS = (0.6, 0.8, 0.9)
CHOICES = {"at random": at_random, "in turn": in_turn, "shorter of two": shorter_of_two}
QUEUE_ROWS = 2048
Figures = dict[str, Any]


def main() -> None:
    """Measure where told to, model, write figures, table and plot."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale_out", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--packages", nargs="+", default=list(PACKAGES))
    parser.add_argument("--model-only", action="store_true")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)  # this process has matplotlib
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)  # this process times one package's batches
    options = parser.parse_args()
    if options.runs:
        sys.stdout.write(json.dumps(runs(options.runs)))
        return
    if options.draw:
        from bench import plots

        plots.draw_scale_out(json.loads(options.draw.read_text()), options.draw.with_suffix(".png"))
        return
    if not options.output:
        parser.error("--output is missing")
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "scale_out.json"
    if options.model_only:
        found = json.loads(file.read_text())
    else:
        before = json.loads(file.read_text())["packages"] if file.exists() else {}
        measured = {name: measure(name) for name in options.packages}
        found = {"machine": machine.facts(), "packages": {**before, **measured}}
    for name, measured in found["packages"].items():
        one = service(measured)
        measured["request_s"], measured["batch_s"] = one.request_s, one.batch_s
        measured["check"] = check(measured)
        measured["model"] = model(measured)
        sys.stderr.write(f"{name} modelled\n")
    found["growth"] = grow(found["packages"])
    file.write_text(json.dumps(found, indent=1) + "\n")
    (options.output / "scale_out.md").write_text(tables(found))
    subprocess.run(
        [str(ensure_environment("driver")), "-m", "bench.scale_out", "--draw", str(file)], check=True, cwd=ROOT
    )
    sys.stdout.write(tables(found))


def measure(name: str) -> Figures:
    """One package on one core: over HTTP by connections, its batches by rows; of several tries the quietest."""
    folder = ROOT / "var" / "repository" / name / "1.0.0"
    argv = ["taskset", "-c", "0", sys.executable, "-m", "bench.scale_out", "--runs", str(folder)]
    tries = [subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT).stdout for _ in range(TRIES)]
    runs_s = min(map(json.loads, tries), key=lambda found: float(np.mean(found[max(found, key=int)])))
    path, count = write_bodies(name, folder)
    port = free_port()
    argv = [
        "taskset",
        "-c",
        "0",
        str(COMMAND),
        "serve",
        str(folder),
        "--port",
        str(port),
        "--admin-port",
        str(port + 1),
    ]
    before = os.sched_getaffinity(0)
    with Server(Launch(argv=argv, environment={}), port, LOGS / "scale_out.log") as server:
        start_s = server.wait_ready("/v2/health/ready")
        os.sched_setaffinity(0, {1})  # what is started from here on is, too
        try:
            drive(port, path, BODIES / f"scale_out-{name}", count, 8, 1)
            over_http = [quietest(server, name, path, count, connections) for connections in CONNECTIONS]
        finally:
            os.sched_setaffinity(0, before)
        memory = server.usage().memory_bytes
    best = max(one["answers_per_s"] for one in over_http)
    sys.stderr.write(f"{name}: {best:.0f} answers/s over HTTP\n")
    return {
        "route": path, "start_s": round(start_s, 3), "memory_mib": memory >> 20, "over_http": over_http,
        "answers_per_s_per_core": best, "runs_s": runs_s,
    }  # fmt: skip


def quietest(server: Server, name: str, path: str, count: int, connections: int) -> Figures:
    """One load, tried until other programs leave the machine alone, at most so often; the quietest try."""
    tries: list[Figures] = []
    while len(tries) < TRIES and not any(one["others"] < QUIET_CORES for one in tries):
        used, spent, began = server.usage(), machine_cpu_s(), time.perf_counter()
        load = drive(server.port, path, BODIES / f"scale_out-{name}", count, connections, SECONDS)
        elapsed, after = time.perf_counter() - began, server.usage()
        if load.errors:
            raise SystemExit(f"{name}: {load.errors} of {load.requests} requests were refused")
        server_cores = (after.cpu_s - used.cpu_s) / elapsed
        others = (machine_cpu_s() - spent) / elapsed - server_cores - load.generator_cpu
        tries.append({
            "connections": connections, "answers_per_s": round(load.requests_per_s, 1), "p50_ms": load.p50_us / 1e3,
            "p99_ms": load.p99_us / 1e3, "server_cores": round(server_cores, 2), "others": round(max(0.0, others), 2),
        })  # fmt: skip
    return min(tries, key=lambda one: float(one["others"]))


def runs(folder: Path) -> dict[int, list[float]]:
    """Times of prepare, execute and generate together, by rows in a batch, in this process."""
    import onward

    with onward.open(folder) as pipeline:
        inputs = list(islice(cycle(example.input for example in examples(folder)), 256))
        found: dict[int, list[float]] = {}
        rows = 1
        while rows <= min(64, pipeline.manifest.batching.max_batch_size):
            items = inputs[:rows]
            pipeline.batch(items)
            times: list[float] = []
            until_s = time.perf_counter() + RUN_S
            while time.perf_counter() < until_s or len(times) < 8:
                began = time.perf_counter()
                prepared = [pipeline.prepare(item, None) for item in items]
                for item, tensors in zip(items, pipeline.execute(prepared, pipeline.default_fetches), strict=True):
                    pipeline.generate(dict(zip(pipeline.default_fetches, tensors, strict=True)), frozenset())
                    del item
                times.append(time.perf_counter() - began)
            found[rows] = [round(one, 7) for one in np.quantile(times, np.linspace(0.005, 0.995, 100)).tolist()]
            rows *= 2
    return found


def examples(folder: Path) -> Sequence[Any]:
    """The package's golden examples."""
    from onward.package.examples import read_examples

    return read_examples(folder)


def write_bodies(name: str, folder: Path) -> tuple[str, int]:
    """Requests of the golden examples, as wrk's script reads them: the path, and how many there are.

    Fraud is asked by V2, which decides nothing: a decision's cost is its commit, and stands in docs/why/decisions.md.
    """
    place = BODIES / f"scale_out-{name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    found = examples(folder)
    content_type, path = "application/json", f"/models/{name}"
    for number, example in enumerate(found):
        values = dict(example.input)
        if name == "fraud":
            path = f"/v2/models/{name}/infer"
            values |= {"card": f"card-{number}", "merchant": "m-1"}  # with nothing known of either
            kinds = {str: "BYTES", float: "FP32"}
            inputs = [
                {"name": key, "shape": [1], "datatype": kinds[type(value)], "data": [value]}
                for key, value in values.items()
            ]
            body = json.dumps({"inputs": inputs}).encode()
        elif "image" in values:
            content_type, body = "image/jpeg", values["image"]
        else:
            body = json.dumps(values).encode()
        (place / f"body-{number}").write_bytes(body)
    (place / "headers.txt").write_text(f"Content-Type: {content_type}\n")
    return path, len(found)


def service(measured: Figures) -> Service:
    """A replica of one core, as measured; what HTTP and threads cost is fitted to the fewest and the most callers."""
    bare = Service(runs_s={int(rows): times for rows, times in measured["runs_s"].items()})
    first, last = measured["over_http"][0], measured["over_http"][-1]
    return bare.fitted(first["answers_per_s"], last["answers_per_s"], last["connections"])


def check(measured: Figures) -> list[Figures]:
    """What the model says of the very loads that were measured; it was fitted to the first and the last of them."""
    made = []
    for seen in measured["over_http"]:
        found = closed_loop(service(measured), callers=seen["connections"], requests=20_000)
        made.append({
            "connections": seen["connections"], "answers_per_s": round(found.answers_per_s, 1),
            "p50_ms": round(found.percentile(0.5) * 1e3, 3), "measured_answers_per_s": seen["answers_per_s"],
            "measured_p50_ms": seen["p50_ms"],
        })  # fmt: skip
    return made


def model(measured: Figures) -> list[Figures]:
    """Latency by replicas, load and how a replica is chosen."""
    one = service(measured)
    made = []
    for replicas in REPLICAS:
        for load in LOADS:
            for name, choose in CHOICES.items():
                requests = max(20_000, 100 * replicas)
                found = open_loop(one, replicas=replicas, load=load, requests=requests, choose=choose,
                                  queue_rows=QUEUE_ROWS)  # fmt: skip
                made.append({
                    "replicas": replicas, "load": load, "choice": name,
                    "answers_per_s": round(found.answers_per_s, 1), "refused": found.refused,
                    "p50_ms": round(found.percentile(0.5) * 1e3, 3), "p99_ms": round(found.percentile(0.99) * 1e3, 3),
                    "rows_per_batch": round(found.rows_per_batch, 2),
                    "one_queue_waits": round(erlang_c(replicas, load), 5),
                })  # fmt: skip
    return made


def grow(packages: dict[str, Figures]) -> list[Figures]:
    """From 1 replica to what 600 times its capacity needs, asked at once and doubling every minute."""
    made = []
    for name, measured in packages.items():
        capacity = service(measured).capacity
        scaler = Autoscaler(
            target_rows=max(1, min(round(0.1 * capacity), QUEUE_ROWS // 4)), most=1000, ready_s=10 + measured["start_s"]
        )
        for shape in ("at once", "doubling every minute"):

            def asked(at_s: float, shape: str = shape, capacity: float = capacity) -> float:
                grown = 600.0 if shape == "at once" else min(600.0, 0.5 * 2 ** (at_s / 60))
                return grown * capacity

            moments = list(growth(capacity, asked, scaler, queue_rows=QUEUE_ROWS, seconds=1200))
            total = sum(one.asked_per_s for one in moments)
            refused = [one.at_s for one in moments if one.refused_share > 0]
            made.append({
                "package": name, "shape": shape, "most_replicas": max(one.replicas for one in moments),
                "refused_share": round(sum(one.refused_share * one.asked_per_s for one in moments) / total, 4),
                "refused_until_s": refused[-1] if refused else 0,
                "longest_wait_s": round(max(one.queue_rows for one in moments) / capacity, 2),
                "replicas": [one.replicas for one in moments[::10]],
                "asked": [round(one.asked_per_s / capacity, 2) for one in moments[::10]],
            })  # fmt: skip
    return made


def tables(found: Figures) -> str:
    """The figures as Markdown."""
    lines = [
        "| package | answers/s per core | p50, p99 at 1 connection | ready after | memory | cores used by others |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["packages"].items():
        first = one["over_http"][0]
        latency = f"{first['p50_ms']:.2f}, {first['p99_ms']:.2f} ms"
        lines.append(f"| {name} | {one['answers_per_s_per_core']:,.0f} | {latency} | {one['start_s']:.1f} s "
                     f"| {one['memory_mib']} MiB | {max(row['others'] for row in one['over_http']):.2f} |")  # fmt: skip
    lines += [
        "",
        "| package | connections | answers/s measured, modelled | p50 measured, modelled |",
        "|---|---|---|---|",
    ]
    for name, one in found["packages"].items():
        for row in one["check"]:
            rates = f"{row['measured_answers_per_s']:,.0f}, {row['answers_per_s']:,.0f}"
            latency = f"{row['measured_p50_ms']:.2f}, {row['p50_ms']:.2f} ms"
            lines.append(f"| {name} | {row['connections']} | {rates} | {latency} |")
    lines += [
        "",
        "| package | replicas | load | p99 at random | in turn | shorter of two |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["packages"].items():
        by = {(row["replicas"], row["load"], row["choice"]): row["p99_ms"] for row in one["model"]}
        for replicas in (1, 10, 100, 1000):
            cells = " | ".join(f"{by[replicas, 0.8, choice]:.2f} ms" for choice in CHOICES)
            lines.append(f"| {name} | {replicas:,} | 0.8 | {cells} |")
    lines += ["", "| package | load grows | replicas at most | refused in all | refused until | longest wait |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row['package']} | {row['shape']} | {row['most_replicas']} | {row['refused_share']:.1%} "
        f"| {row['refused_until_s']} s | {row['longest_wait_s']:.2f} s |"
        for row in found["growth"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
