"""Draws what a server's memory does over many requests, and says what a million of them cost.

ONWARD_MEMORY_CURVE=FILE.csv pytest tests/faults/test_memory.py     # measures: a million requests of all shapes
python -m bench.memory FILE.csv                                     # draws FILE.png beside it
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot

matplotlib.use("Agg")

SETTLED = 0.2  # of the requests: by then every path has been taken, and every buffer has its size


def main() -> None:
    """Draw one curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    path = parser.parse_args().curve
    requests, rss_mib = np.loadtxt(path, delimiter=",", skiprows=1).T
    settled = requests > SETTLED * requests[-1]
    slope, offset = np.polyfit(requests[settled] / 1e6, rss_mib[settled], 1)
    figure, axis = pyplot.subplots(figsize=(7, 3.6))
    axis.plot(requests / 1e6, rss_mib, color="#1f6f5c", linewidth=1.5)
    axis.plot(requests / 1e6, offset + slope * requests / 1e6, color="#9a9a9a", linestyle="--", linewidth=1)
    axis.set_ylim(0, rss_mib.max() * 1.15)
    axis.set_xlabel("million requests answered")
    axis.set_ylabel("resident memory, MiB")
    axis.set_title(f"{slope:+.1f} MiB a million requests, once settled", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".png"), dpi=110)
    ends = f"{rss_mib[0]:.1f} MiB after the first {requests[0]:.0f}, {rss_mib[-1]:.1f} at the end"
    print(f"{slope:.2f} MiB a million requests; {ends}")


if __name__ == "__main__":
    main()
