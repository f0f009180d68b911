"""How well the built package `ocr` reads: characters and lines right, time and memory. The numbers of its card.

python -m gallery.ocr.evaluate FOLDER
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gallery.ocr.pages import Page, character_errors, invoice, scanned_page
from onward.pipeline import Pipeline

INVOICES = 20


def quality(pipeline: Pipeline, pages: Sequence[Page]) -> dict[str, float]:
    """Over the pages: the share of characters and of lines that are right, and the mean seconds a page."""
    characters = wrong = lines = right = 0
    seconds = 0.0
    for page in pages:
        started = time.perf_counter()
        text = pipeline(page.data).answer["text"]
        seconds += time.perf_counter() - started
        wanted = "\n".join(page.lines)
        characters += len(wanted)
        wrong += character_errors(wanted, text)
        found = text.split("\n")
        lines += len(page.lines)
        right += sum(line in found for line in page.lines)
    return {
        "pages": len(pages),
        "characters": characters,
        "character_accuracy": 1 - wrong / characters,
        "line_accuracy": right / lines,
        "seconds_a_page": seconds / len(pages),
    }


def resident_mb(pid: int) -> tuple[float, float]:
    """The memory of a process, now and at its most, in MB (Linux)."""
    found = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(found["VmRSS"].split()[0]) / 1024, int(found["VmHWM"].split()[0]) / 1024


def main(folder: Path) -> None:
    """Print the numbers."""
    with Pipeline.open(folder) as pipeline:
        sets = {
            "scanned page": [scanned_page()],
            "invoices": [invoice(number) for number in range(100, 100 + INVOICES)],
            "worn invoices": [invoice(number, worn=True) for number in range(200, 200 + INVOICES)],
        }
        for name, pages in sets.items():
            print(name, {key: round(value, 4) for key, value in quality(pipeline, pages).items()})
        print("process, MB now and at most", resident_mb(pipeline.model.pid))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
