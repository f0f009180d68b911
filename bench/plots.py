"""Draws a summary: requests/s, latency and start times, one file a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter

matplotlib.use("Agg")

COLOURS = {"onward": "#1f6f5c", "triton": "#76923c", "mosec": "#b5652b", "fastapi": "#4f6d94", "limit": "#9a9a9a"}


def draw(summary: dict[str, Any], folder: Path) -> None:
    """Write `<workload>.png` for every workload of a summary."""
    for name, entry in summary.items():
        cells = {key: by_name for key, by_name in entry["cells"].items() if by_name}
        if "start" in cells:
            _draw_starts(entry["title"], cells["start"], folder / f"{name}.png")
        elif cells:
            _draw_loads(entry["title"], cells, folder / f"{name}.png")


def _draw_loads(title: str, cells: dict[str, dict[str, Any]], path: Path) -> None:
    figure, axes = pyplot.subplots(2, len(cells), figsize=(5.2 * len(cells), 6.4), squeeze=False)
    for column, (key, by_name) in enumerate(cells.items()):
        ordered = sorted(by_name, key=lambda name: by_name[name]["requests_per_s"])
        colours = [COLOURS.get(name, "#666666") for name in ordered]
        rates = [by_name[name]["requests_per_s"] for name in ordered]
        spread = [
            [max(0.0, rate - by_name[name]["min"]) for name, rate in zip(ordered, rates, strict=True)],
            [max(0.0, by_name[name]["max"] - rate) for name, rate in zip(ordered, rates, strict=True)],
        ]
        top, bottom = axes[0][column], axes[1][column]
        top.barh(ordered, rates, color=colours, xerr=spread, ecolor="#333333", capsize=3)
        top.set_title(f"{key} connection{'s' if key != '1' else ''}")
        top.set_xlabel("requests/s, median, min to max (limit: rows/s)")
        servers = [name for name in ordered if name != "limit"]
        _draw_latencies(bottom, {name: by_name[name] for name in servers})
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_latencies(axis: Axes, by_name: dict[str, Any]) -> None:
    """A line from p50 (full dot) to p99 (ring) for each server; dots, because bars have no foot on a log scale."""
    for position, (name, cell) in enumerate(by_name.items()):
        colour = COLOURS.get(name, "#666666")
        p50, p99 = cell["p50_us"] / 1e3, cell["p99_us"] / 1e3
        axis.plot([p50, p99], [position, position], color=colour, linewidth=2)
        axis.plot([p50], [position], "o", color=colour, markersize=9)
        axis.plot([p99], [position], "o", color=colour, markerfacecolor="white", markersize=9)
        axis.annotate(f"{p50:.3g} to {p99:.3g}", (p50, position), (0, 9), textcoords="offset points", fontsize=8)
    axis.set_yticks(range(len(by_name)), list(by_name))
    axis.set_ylim(-0.6, len(by_name) - 0.4)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(axis="x", which="both", alpha=0.25)
    axis.set_xlabel("latency, ms, log scale: p50 (dot) to p99 (ring)")


def _draw_starts(title: str, by_name: dict[str, Any], path: Path) -> None:
    ordered = sorted(by_name, key=lambda name: -by_name[name]["ready_s"])
    values = [by_name[name]["ready_s"] for name in ordered]
    spread = [
        [max(0.0, value - by_name[name]["min"]) for name, value in zip(ordered, values, strict=True)],
        [max(0.0, by_name[name]["max"] - value) for name, value in zip(ordered, values, strict=True)],
    ]
    figure, axis = pyplot.subplots(figsize=(6.4, 3.2))
    colours = [COLOURS.get(name, "#666666") for name in ordered]
    axis.barh(ordered, values, color=colours, xerr=spread, ecolor="#333333", capsize=3)
    axis.set_xlabel("seconds from spawn to ready, median, min to max")
    axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_growth(found: dict[str, Any], path: Path) -> None:
    """Time and memory of a scoring job by its rows: `bench.scoring`'s workload "growth"."""
    rows = sorted(map(int, found))
    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(8.4, 3.6))
    time.loglog(rows, [found[str(one)]["wall_s"] for one in rows], marker="o", color=COLOURS["onward"])
    time.loglog(rows, [found[str(rows[-1])]["wall_s"] * one / rows[-1] for one in rows], ":", color=COLOURS["limit"])
    time.set_title("seconds; dotted: in proportion")
    memory.semilogx(rows, [found[str(one)]["memory_bytes"] / 1e6 for one in rows], marker="o", color=COLOURS["onward"])
    memory.set_ylim(bottom=0)
    memory.set_title("MB of memory at most")
    for axis in (time, memory):
        axis.set_xlabel("rows")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_scale_out(found: dict[str, Any], path: Path) -> None:
    """p99 by replicas at a load of 0.8, by how a replica is chosen; last, replicas that follow a growing load."""
    packages = found["packages"]
    figure, axes = pyplot.subplots(1, len(packages) + 1, figsize=(3.9 * (len(packages) + 1), 3.8), squeeze=False)
    styles = {"at random": ":", "in turn": "--", "shorter of two": "-"}
    for axis, (name, one) in zip(axes[0], packages.items(), strict=False):
        for choice, style in styles.items():
            rows = [row for row in one["model"] if row["choice"] == choice and row["load"] == 0.8]
            axis.plot([row["replicas"] for row in rows], [row["p99_ms"] for row in rows], style, marker=".",
                      color=COLOURS["onward"], label=choice)  # fmt: skip
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("replicas of one core")
        axis.set_ylabel("p99, ms, modelled, load 0.8")
        axis.set_title(name)
        axis.legend(frameon=False, fontsize=8)
    last = axes[0][-1]
    for row in found["growth"]:
        if row["package"] == next(iter(packages)):
            minutes = [10 * index / 60 for index in range(len(row["replicas"]))]
            (line,) = last.plot(minutes, row["replicas"], label=f"replicas, {row['shape']}")
            last.plot(minutes, row["asked"], ":", color=line.get_color(), label="load, in replicas' worth")
    last.set_yscale("log")
    last.set_xlabel("minutes")
    last.set_title("the autoscaler's rule, modelled")
    last.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
