"""What invariant mode costs: `intent` in both modes, in turn, behind the queue and the instances that serve it.

    python -m bench.invariance [--seconds 8] [--rounds 5] [--out FOLDER]

64 callers ask at a time, each again as soon as it has its answer; preparation, HTTP and JSON are left out, since they
are the same in both modes. Once with customers' held-out utterances, once with made-up rows of 1 to 256 tokens, as many
below 16 as above. Every round runs both modes, so that what else the machine does falls on both; the cost is told in
rows per second of processor time, which other programs disturb less, and beside it in rows per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import facts
from bench.quantizing import utterances
from onward.execute.certification import told
from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE
from onward.pipeline import Pipeline
from onward.runners.serve.lane import Lane, answer
from onward.runners.serve.request import Waiting
from onward.telemetry import ModelMetrics
from onward.types import Prepared

RESULTS = Path(__file__).with_name("results") / "2026-11-25-invariant"
MODES = ("throughput", "invariant")
_CALLERS = 64
_LONGEST = 256
_ROWS = 2000


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(prog="python -m bench.invariance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", type=Path, default=Path("var/repository"))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    about = facts()
    with tempfile.TemporaryDirectory() as place:
        opened: dict[str, Pipeline] = {}
        took_s = {}
        for mode in MODES:
            started_s = time.perf_counter()
            opened[mode] = Pipeline.open(_copy(options.repository / "intent" / "1.0.0", Path(place) / mode, mode))
            took_s[mode] = round(time.perf_counter() - started_s, 1)
        first = opened["throughput"]
        inputs = {
            "utterances": [first.prepare({"text": text}) for text in utterances()], "1 to 256 tokens": _mixed(),
        }  # fmt: skip
        figures = {
            name: [asyncio.run(_round(opened, rows, options.seconds)) for _ in range(options.rounds)]
            for name, rows in inputs.items()
        }
        assert opened["invariant"].invariant is not None
        shapes = told(opened["invariant"].invariant.shapes)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = {"machine": about, "callers": _CALLERS, "open_s": took_s, "shapes": shapes,
            "tokens": {name: _spread(rows) for name, rows in inputs.items()},
            "rounds": figures, "cost_percent": {name: _costs(rounds) for name, rounds in figures.items()}}  # fmt: skip
    (options.out / "intent.json").write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    for name, rounds in figures.items():
        print(f"{name}: {_costs(rounds)}; {rounds[-1]}")


def _copy(package: Path, folder: Path, mode: str) -> Path:
    shutil.copytree(package, folder, ignore=shutil.ignore_patterns(LOCK_FILE))
    file = folder / "onward.toml"
    file.write_text(file.read_text("utf-8").replace("[batching]\n", f'[batching]\nmode = "{mode}"\n'), "utf-8")
    assemble(folder)
    return folder


def _mixed() -> list[Prepared]:
    rng = np.random.default_rng(0)
    rows = []
    for length in np.exp(rng.uniform(0, np.log(_LONGEST + 0.99), _ROWS)).astype(int).tolist():
        ids = rng.integers(1000, 30_000, (1, length))
        rows.append(Prepared(tensors={"input_ids": ids, "attention_mask": np.ones_like(ids)}, length=length))
    return rows


async def _round(opened: dict[str, Pipeline], rows: Sequence[Prepared], seconds: float) -> dict[str, dict[str, float]]:
    return {mode: await _speed(pipeline, rows, seconds) for mode, pipeline in opened.items()}


async def _speed(pipeline: Pipeline, rows: Sequence[Prepared], seconds: float) -> dict[str, float]:
    """Rows a second, and a second of processor time."""
    metrics = ModelMetrics("intent", "1.0.0")
    lane = Lane(pipeline, metrics, inline=False)
    started_s, used_s = time.monotonic(), time.process_time()
    until_s = started_s + seconds

    async def caller(number: int) -> None:
        while time.monotonic() < until_s:
            row = rows[number % len(rows)]
            number += 37
            key = None
            await answer(lane, Waiting(row.tensors, pipeline.default_fetches, 1, row.length, key, until_s + 60))

    await asyncio.gather(*(caller(number * 101) for number in range(_CALLERS)))
    took_s, busy_s = time.monotonic() - started_s, time.process_time() - used_s
    await lane.drain()
    return {"per_s": round(metrics.rows / took_s, 1), "per_cpu_s": round(metrics.rows / busy_s, 1)}


def _spread(rows: Sequence[Prepared]) -> dict[str, float]:
    lengths = sorted(row.length for row in rows)
    tenth = len(lengths) // 10
    mean = round(statistics.fmean(lengths), 1)
    return {
        "p10": lengths[tenth],
        "median": lengths[5 * tenth],
        "mean": mean,
        "p90": lengths[9 * tenth],
        "most": lengths[-1],
    }


def _costs(rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """How much slower invariant mode is, in percent of the other: the median of the rounds, and each."""
    told: dict[str, Any] = {}
    for measure in ("per_cpu_s", "per_s"):
        costs = [100 * (1 - one["invariant"][measure] / one["throughput"][measure]) for one in rounds]
        told[measure] = {"median": round(statistics.median(costs), 1), "rounds": [round(cost, 1) for cost in costs]}
    return told


if __name__ == "__main__":
    main()
