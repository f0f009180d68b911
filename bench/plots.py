"""Draws a summary: requests/s, latency and start times, one file a workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

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
        positions = range(len(servers))
        for percentile, offset, alpha in (("p50_us", 0.2, 1.0), ("p99_us", -0.2, 0.5)):
            values = [by_name[name][percentile] / 1e3 for name in servers]
            heights = [position + offset for position in positions]
            shades = [COLOURS.get(name, "#666666") for name in servers]
            bottom.barh(heights, values, height=0.38, color=shades, alpha=alpha)
        bottom.set_yticks(list(positions), servers)
        bottom.set_xlabel("latency, ms: p50 (full colour) and p99 (pale)")
        bottom.set_xscale("log")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


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
