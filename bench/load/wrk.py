"""Runs `wrk`, one thread, closed loop, over the rotating bodies of an exchange."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bench.environments import ensure_wrk
from bench.layout import LUA


class LoadError(Exception):
    """The load generator gave no figures."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the load generator saw in one run. Latencies are of answered requests, errors included in `errors`."""

    requests_per_s: float
    requests: int
    errors: int
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float
    generator_cpu: float  # cores


def drive(port: int, path: str, bodies: Path, body_count: int, connections: int, seconds: int) -> Load:
    """Load 127.0.0.1:`port` over `connections` kept-alive connections for `seconds`."""
    argv = [ensure_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(LUA)]
    argv += [f"http://127.0.0.1:{port}", "--", str(bodies), str(body_count), path]
    before, started = os.times(), time.perf_counter()
    outcome = subprocess.run(argv, capture_output=True, text=True, check=False)
    after, elapsed = os.times(), time.perf_counter() - started
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("{")]
    if outcome.returncode != 0 or not lines:
        raise LoadError(f"wrk failed: {outcome.stderr.strip() or outcome.stdout.strip()}")
    seen = json.loads(lines[-1])
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    kinds = ("connect_errors", "read_errors", "write_errors", "bad_statuses", "timeouts")
    return Load(
        requests_per_s=seen["requests"] / (seen["duration_us"] / 1e6),
        requests=seen["requests"],
        errors=sum(seen[kind] for kind in kinds),
        mean_us=seen["mean_us"],
        p50_us=seen["p50_us"],
        p90_us=seen["p90_us"],
        p99_us=seen["p99_us"],
        p999_us=seen["p999_us"],
        max_us=seen["max_us"],
        generator_cpu=spent / elapsed,
    )
