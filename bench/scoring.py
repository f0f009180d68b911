"""Scoring jobs side by side: `onward batch` beside what else reads a file, answers its rows and writes them.

    python -m bench.scoring [fraud] [vision] [embed] [growth] [--rounds N] [--rows N] [--output FILE]

Every contender is started as a user would start it, reads the same input and writes the same answers; its time is from
the start of its process to its end. In every round the order moves on by one. The limit is the processor time of
scanning, executing and writing alone (each on one thread, by itself), over the number of cores: a job that keeps every
core busy with nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine
from bench.batch_materials import pictures, sentences, transactions
from bench.environments import ensure_environment
from bench.jobs import Spent, measure
from bench.layout import MODELS, PEERS, ROOT

REPOSITORY = ROOT / "var" / "repository"
PYTHON = str(ROOT / ".venv" / "bin" / "python")
ONWARD = str(ROOT / ".venv" / "bin" / "onward")
QUIET = {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
ROWS = {"fraud": 10_000_000, "vision": 20_000, "embed": 200_000}
MATERIALS: dict[str, Callable[[int], Path]] = {"fraud": transactions, "vision": pictures, "embed": sentences}
GROWTH = (100_000, 1_000_000, 10_000_000, 100_000_000)
LARGEST_FILE_ROWS = 10_000_000
Figures = dict[str, Any]


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring", description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", default=["fraud", "vision", "embed", "growth"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="instead of the workload's own number")
    parser.add_argument("--contenders", nargs="+", help="only these")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    told: Figures = {"machine": machine.facts(), "rounds": options.rounds, "workloads": {}}
    with tempfile.TemporaryDirectory(prefix="onward-bench-", dir=ROOT / "var" / "bench") as place:
        for workload in options.workloads:
            if workload == "growth":
                told["workloads"][workload] = growth(Path(place))
            else:
                rows = options.rows or ROWS[workload]
                told["workloads"][workload] = compare(workload, rows, options.rounds, Path(place), options.contenders)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(told, indent=2) + "\n")


def compare(workload: str, rows: int, rounds: int, place: Path, wanted: list[str] | None) -> Figures:
    """Every contender's median rate, and the limit's."""
    source = MATERIALS[workload](rows)
    names = [name for name in CONTENDERS[workload] if not wanted or name in wanted]
    every: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        for name in [*names[number % len(names):], *names[: number % len(names)]]:  # fmt: skip
            spent = _run(name, workload, source, place / f"{name.replace(' ', '-')}.parquet", place)
            found = {"rows_per_s": rows / spent.wall_s, "wall_s": spent.wall_s, "cpu_s": spent.cpu_s,
                     "memory_bytes": spent.memory_bytes}  # fmt: skip
            if name == "onward":
                found["plan"] = json.loads(spent.said.splitlines()[-1])["plan"]
            every[name].append(found)
            print(f"{workload}, round {number + 1}, {name}: {json.dumps(found)}", flush=True)
    figures: Figures = {"rows": rows, "every_round": every, "medians": {}}
    for name, found in every.items():
        figures["medians"][name] = {key: statistics.median(one[key] for one in found)
                                    for key in ("rows_per_s", "cpu_s", "memory_bytes")}  # fmt: skip
    if workload != "embed" and "onward" in every:
        figures["limit"] = limit(workload, source, place / "onward.parquet", every["onward"][0]["plan"]["batch_rows"])
    _print(workload, figures)
    return figures


def limit(workload: str, source: Path, answers: Path, batch_rows: int) -> Figures:
    """Rows a second where all cores do nothing but scan, execute and write."""
    parts = {}
    for part in ("scan", "execute", "write"):
        argv = [PYTHON, "-m", "bench.scoring_limit", workload, part, str(source), str(answers), str(batch_rows)]
        made = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        parts[part] = json.loads(made.stdout.splitlines()[-1])["cpu_us_a_row"]
    return {"cpu_us_a_row": parts, "rows_per_s": (os.cpu_count() or 1) * 1e6 / sum(parts.values())}


def growth(place: Path) -> Figures:
    """Time and memory from a hundred thousand rows to a hundred million: the last is one file listed many times."""
    found: Figures = {}
    for rows in GROWTH:
        spent = _run("onward", "fraud", _listed(rows, place), place / "growth.parquet", place)
        found[str(rows)] = {"wall_s": spent.wall_s, "memory_bytes": spent.memory_bytes}
        print(f"growth, {rows} rows: {json.dumps(found[str(rows)])}", flush=True)
    return found


def _listed(rows: int, place: Path) -> Path:
    """A file of so many rows; beyond ten million, a folder that has the file of ten million under many names."""
    file = transactions(min(rows, LARGEST_FILE_ROWS))
    if rows <= LARGEST_FILE_ROWS:
        return file
    folder = place / f"listed-{rows}"
    folder.mkdir()
    for index in range(rows // LARGEST_FILE_ROWS):
        (folder / f"{index:04}.parquet").hardlink_to(file)
    return folder


def _run(name: str, workload: str, source: Path, output: Path, place: Path) -> Spent:
    shutil.rmtree(output, ignore_errors=True)
    argv = CONTENDERS[workload][name](workload, str(source), str(output))
    return measure(argv, log=place / "log", environment=QUIET)


def _onward(workload: str, source: str, output: str) -> list[str]:
    options = ["--no-decide"] if workload == "fraud" else []
    keep = ["--keep", "id"] if workload == "fraud" else []
    return [ONWARD, "batch", str(REPOSITORY / workload), source, output, "--restart", "--json", *options, *keep]


def _loop(workload: str, source: str, output: str) -> list[str]:
    script = str(PEERS / "pandas_loop" / "score.py")
    return [PYTHON, script, workload, str(REPOSITORY / workload / "1.0.0"), source, output]


def _mlflow(workload: str, source: str, output: str) -> list[str]:
    script = str(PEERS / "mlflow" / "score.py")
    return [str(ensure_environment("mlflow")), script, workload, str(REPOSITORY / workload / "1.0.0"), source, output]


def _ray(workload: str, source: str, output: str) -> list[str]:
    script = str(PEERS / "ray_data" / "score.py")
    package = str(REPOSITORY / workload / "1.0.0")
    return [str(ensure_environment("ray_data")), script, workload, package, source, output]


def _encode(workload: str, source: str, output: str) -> list[str]:
    from gallery.intent.build import weights_folder

    place = MODELS / "embed"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(weights_folder(), target_is_directory=True)
    script = str(PEERS / "sentence_transformers" / "encode.py")
    return [str(ensure_environment("sentence_transformers")), script, str(place), source, output]


CONTENDERS: dict[str, dict[str, Callable[[str, str, str], list[str]]]] = {
    "fraud": {"onward": _onward, "ray data": _ray, "pandas loop": _loop, "mlflow": _mlflow},
    "vision": {"onward": _onward, "ray data": _ray, "loop": _loop},
    "embed": {"onward": _onward, "sentence-transformers": _encode},
}


def _print(workload: str, figures: Figures) -> None:
    rates = {name: one["rows_per_s"] for name, one in figures["medians"].items()}
    if "limit" in figures:
        rates["limit"] = figures["limit"]["rows_per_s"]
    for name, rate in rates.items():
        ratio = rates.get("onward", rate) / rate
        memory = figures["medians"].get(name, {}).get("memory_bytes", 0) / 1e6
        print(f"{workload:<8} {name:<24} {rate:10.1f} rows/s, onward is {ratio:5.2f} times that; {memory:6.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
