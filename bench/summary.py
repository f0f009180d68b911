"""Turns raw records into medians, ratios and verdicts, as JSON and as Markdown."""

from __future__ import annotations

from statistics import median
from typing import Any

from bench.contenders import PEER_NAMES, SUBJECT
from bench.measurement import LIMIT, Record
from bench.workloads import LIMIT_RATIO, READY_AIM_S, READY_MUST_S, SINGLE_P50_AIM_US, WORKLOADS, Workload

MEDIANS = (
    "requests_per_s",
    "p50_us",
    "p90_us",
    "p99_us",
    "p999_us",
    "cpu_cores",
    "generator_cpu",
    "other_cpu",
    "memory_bytes",
)
Cell = dict[str, Any]
Summary = dict[str, Any]


def summarise(records: list[Record]) -> Summary:
    """Return `{workload: {connections or "start": {contender: figures}}}` with a list of verdicts per workload."""
    summary: Summary = {}
    for workload in WORKLOADS:
        mine = [record for record in records if record["workload"] == workload.name]
        if not mine:
            continue
        cells = {str(count): _loads(mine, count) for count in workload.connections}
        if workload.name == "start":
            cells["start"] = _starts(mine)
        failures = sorted({f"{one['contender']}: {one['error']}" for one in mine if one["kind"] == "failure"})
        summary[workload.name] = {
            "title": workload.title,
            "cells": cells,
            "verdicts": _verdicts(workload, cells),
            "failures": failures,
        }
    return summary


def _loads(records: list[Record], connections: int) -> dict[str, Cell]:
    runs: dict[str, list[Record]] = {}
    for record in records:
        if record["kind"] == "load" and record["connections"] == connections:
            runs.setdefault(record["contender"], []).append(record)
    cells = {}
    for name, mine in runs.items():
        cell: Cell = {key: round(median(run[key] for run in mine), 2) for key in MEDIANS}
        cell["min"] = round(min(run["requests_per_s"] for run in mine), 1)
        cell["max"] = round(max(run["requests_per_s"] for run in mine), 1)
        cell["errors"] = sum(run["errors"] for run in mine)
        cell["requests"] = sum(run["requests"] for run in mine)
        cell["rounds"] = len(mine)
        cell["setting"] = mine[-1]["setting"]
        cells[name] = cell
    return cells


def _starts(records: list[Record]) -> dict[str, Cell]:
    cells = {}
    for name in dict.fromkeys(record["contender"] for record in records if record["kind"] == "start"):
        mine = [record for record in records if record["kind"] == "start" and record["contender"] == name]
        ready = [record["ready_s"] for record in mine]
        cells[name] = {
            "ready_s": round(median(ready), 3),
            "min": round(min(ready), 3),
            "max": round(max(ready), 3),
            "answered_s": round(median(record["answered_s"] for record in mine), 3),
            "memory_bytes": median(record["memory_bytes"] for record in mine),
            "starts": len(mine),
        }
    return cells


def _verdicts(workload: Workload, cells: dict[str, dict[str, Cell]]) -> list[str]:
    found: list[str] = []
    for key, by_name in cells.items():
        ours = by_name.get(SUBJECT)
        peers = {name: by_name[name] for name in PEER_NAMES if name in by_name}
        if ours is None or not peers:
            continue
        if key == "start":
            found.append(_judged("ready", ours["ready_s"], READY_MUST_S, READY_AIM_S, "s", lower=True))
            continue
        if workload.objective == "latency":
            best = min(peers, key=lambda name: peers[name]["p50_us"])
            must = peers[best]["p50_us"]
            text = _judged("p50", ours["p50_us"], must, SINGLE_P50_AIM_US, "µs", lower=True)
            found.append(f"{text}; best peer {best}")
            continue
        best = max(peers, key=lambda name: peers[name]["requests_per_s"])
        target = workload.targets[int(key)]
        ratio = ours["requests_per_s"] / peers[best]["requests_per_s"]
        judged = _judged(f"ratio to {best}", ratio, target.must, target.aim, "×", lower=False)
        found.append(f"{key} connections: {judged}")
        if workload.name == "small-json":
            lowest = min(by_name, key=lambda name: by_name[name]["p99_us"])
            verdict = "met" if lowest == SUBJECT else f"MISSED, lowest is {lowest}"
            found.append(f"{key} connections: p99 lowest (must): {verdict}")
        if LIMIT in by_name:
            share = ours["requests_per_s"] / by_name[LIMIT]["requests_per_s"]
            verdict = "met" if share >= LIMIT_RATIO else "not met"
            found.append(f"{key} connections: {share:.2f} × the limit, aim ≥ {LIMIT_RATIO} ×: {verdict}")
    return found


def _judged(what: str, value: float, must: float, aim: float, unit: str, *, lower: bool) -> str:
    sign = "≤" if lower else "≥"
    must_met = value <= must if lower else value >= must
    aim_met = value <= aim if lower else value >= aim
    state = "MISSED" if not must_met else "aim met" if aim_met else "must met, aim not met"
    return f"{what} {value:.2f} {unit} (must {sign} {must:g}, aim {sign} {aim:g}): {state}"


def markdown(summary: Summary, machine: dict[str, Any], versions: dict[str, str], how: str) -> str:
    """Lay a summary out as Markdown tables."""
    lines = ["# Bench results", "", how, ""]
    packages = ", ".join(f"{name} {value}" for name, value in machine["packages"].items())
    lines.append(
        f"{machine['cores']} cores of {machine['processor']} ({', '.join(machine['processor_flags'])}), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}, {packages}; "
        f"load average at the start {machine['load_average_at_start']}; commit {machine['commit'] or 'none'}"
        f"{' with uncommitted changes' if machine['uncommitted_changes'] else ''}."
    )
    lines += ["", *[f"- {name}: {version}" for name, version in versions.items()]]
    for entry in summary.values():
        lines += ["", f"## {entry['title']}", ""]
        lines += _tables(entry["cells"])
        lines += [f"- {verdict}" for verdict in entry["verdicts"]]
        lines += [f"- failed: {failure}" for failure in entry["failures"]]
    return "\n".join(lines) + "\n"


def _tables(cells: dict[str, dict[str, Cell]]) -> list[str]:
    lines: list[str] = []
    for key, by_name in cells.items():
        if key == "start":
            lines += ["| server | ready, s (min to max) | first answer, s | memory, MiB | starts |"]
            lines += ["|---|---|---|---|---|"]
            for name, cell in by_name.items():
                spread = f"{cell['ready_s']:.2f} ({cell['min']:.2f} to {cell['max']:.2f})"
                memory = cell["memory_bytes"] / 2**20
                lines.append(f"| {name} | {spread} | {cell['answered_s']:.2f} | {memory:.0f} | {cell['starts']} |")
        else:
            lines += [f"| {key} connections | requests/s, median (min to max) | p50, ms | p99, ms | errors "]
            lines[-1] += "| cores: server | generator | others | memory, MiB | setting |"
            lines += ["|---|---|---|---|---|---|---|---|---|---|"]
            ordered = sorted(by_name.items(), key=lambda pair: -pair[1]["requests_per_s"])
            lines += [_row(name, cell) for name, cell in ordered]
        lines.append("")
    return lines


def _row(name: str, cell: Cell) -> str:
    rate = f"{cell['requests_per_s']:,.0f} ({cell['min']:,.0f} to {cell['max']:,.0f})"
    latency = "| | " if name == LIMIT else f"| {cell['p50_us'] / 1e3:.2f} | {cell['p99_us'] / 1e3:.2f} "
    setting = ", ".join(f"{key} {value}" for key, value in cell["setting"].items()) or "default"
    shares = f"{cell['cpu_cores']:.2f} | {cell['generator_cpu']:.2f} | {cell['other_cpu']:.2f}"
    shares += f" | {cell['memory_bytes'] / 2**20:.0f}"
    return f"| {name} | {rate} {latency}| {cell['errors']} | {shares} | {setting} |"
