"""What generates, side by side with its peers: embeddings, transcription, chat, one after the other.

    python -m bench.generation [--rounds N] [--only embeddings transcriptions chat] [--output FOLDER]

Each part runs as a process of its own (`bench.embeddings`, `bench.transcriptions`, `bench.chat`) and leaves a JSON
file in the folder; then the table of Onward against each peer is written beside them, as summary.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.layout import RESULTS, ROOT

PARTS = ("embeddings", "transcriptions", "chat")
ONWARD = "onward"
HEAD = "| workload | figure | Onward | peer | ratio |\n|---|---|---|---|---|\n"


def main() -> None:
    """Run the parts, then write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=RESULTS / f"{datetime.date.today().isoformat()}-generation")
    options = parser.parse_args()
    for part in options.only:
        argv = [sys.executable, "-m", f"bench.{part}", "--rounds", str(options.rounds)]
        subprocess.run([*argv, "--output", str(options.output / f"{part}.json")], cwd=ROOT, check=True)
    table = HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows(options.output))
    (options.output / "summary.md").write_text(table, "utf-8")
    print("\n" + table)


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """Every figure of every load, against each peer."""
    for part in PARTS:
        file = folder / f"{part}.json"
        if file.exists():
            yield from _compared(part, json.loads(file.read_text("utf-8"))["medians"])


def _compared(part: str, medians: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A figure of Onward's divided by the peer's: above 1 is more. For times and memory, less is better."""
    own = medians.pop(ONWARD)
    for peer, told in medians.items():
        for load, figures in _loads(own).items():
            for figure, value in figures.items():
                beside = _loads(told)[load][figure]
                ratio = f"{value / beside:.2f}" if beside else "-"
                yield part, f"{load}: {figure}", f"{value:.4g}", f"{peer} {beside:.4g}", ratio


def _loads(told: dict[str, Any]) -> dict[str, dict[str, float]]:
    loads: dict[str, dict[str, float]] = dict(told.get("loads") or {})
    loads |= {load: figures for load, figures in told.items() if load != "loads" and isinstance(figures, dict)}
    return loads | {"after the load": {"memory_bytes": told["memory_bytes"]}}


if __name__ == "__main__":
    main()
