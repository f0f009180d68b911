"""One measurement: start a server, check its answers, warm it up, load it, stop it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.answers import check_answers
from bench.exchange import Exchange, exchange_for
from bench.layout import LOGS
from bench.load.wrk import Load, drive
from bench.peers.contender import Contender, Served, Setting
from bench.processes import Server, free_port, machine_cpu_s
from bench.workloads import Workload

Record = dict[str, Any]
LIMIT = "limit"  # not a server: its rows/s count, and it computes no client's answer


def measure(
    contender: Contender, workload: Workload, served: Served, setting: Setting, *, seconds: int, warmup_s: int = 1
) -> Iterator[Record]:
    """Yield one record per start (`kind` = start) and one per number of connections (`kind` = load).

    The server runs only while this generator does. Raises StartError or WrongAnswerError before anything is timed.
    """
    base = {"workload": workload.name, "contender": contender.name, "setting": setting}
    exchange = exchange_for(served, contender.dialect(served, setting))
    bodies = exchange.written(f"{workload.name}-{contender.name}")
    port = free_port()
    launch = contender.launch(served, setting, port)
    log = LOGS / f"{workload.name}-{contender.name}.log"
    with Server(launch, port, log) as server:
        ready_s = server.wait_ready(contender.ready_path(served))
        answered_s = ready_s
        if contender.name != LIMIT:
            answered_s = server.wait_answer(exchange.path, exchange.bodies[0], exchange.headers)
        checked = 0 if contender.name == LIMIT else check_answers(port, exchange)
        usage = server.usage()
        yield base | {
            "kind": "start",
            "ready_s": ready_s,
            "answered_s": answered_s,
            "answers_checked": checked,
            "memory_bytes": usage.memory_bytes,
            "processes": usage.processes,
        }
        if workload.connections:
            drive(port, exchange.path, bodies, len(exchange.bodies), max(workload.connections), warmup_s)
        for connections in workload.connections:
            yield base | _loaded(contender, server, exchange, bodies, connections, seconds)


def _loaded(
    contender: Contender, server: Server, exchange: Exchange, bodies: Path, connections: int, seconds: int
) -> Record:
    rows_before = _rows(server.port) if contender.name == LIMIT else 0
    machine_before, before, started = machine_cpu_s(), server.usage(), time.perf_counter()
    load: Load = drive(server.port, exchange.path, bodies, len(exchange.bodies), connections, seconds)
    elapsed = time.perf_counter() - started
    after, machine_after = server.usage(), machine_cpu_s()
    record: Record = {"kind": "load", "connections": connections, **asdict(load)}
    record["cpu_cores"] = (after.cpu_s - before.cpu_s) / elapsed
    busy = (machine_after - machine_before) / elapsed
    record["other_cpu"] = max(0.0, busy - record["cpu_cores"] - load.generator_cpu)  # who else used the machine
    record["memory_bytes"] = after.memory_bytes
    record["processes"] = after.processes
    if contender.name == LIMIT:
        record["replies_per_s"] = record["requests_per_s"]
        record["requests_per_s"] = (_rows(server.port) - rows_before) / elapsed
    return record


def _rows(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/rows")
    count = int(connection.getresponse().read())
    connection.close()
    return count
