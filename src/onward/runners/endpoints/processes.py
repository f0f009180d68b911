"""Processor time of a process of this machine with all that it started, by Linux' own count."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def is_here(pid: int) -> bool:
    """Whether the process lives on this machine, and this system tells of it."""
    return Path(f"/proc/{pid}/stat").is_file()


def cpu_s(pid: int) -> float:
    """Seconds that the process and those it started, as far as they live, have had of a processor (10 ms steps)."""
    ticks = 0
    for one in _family(pid):
        with suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{one}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with suppress(OSError, ValueError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text("ascii").split())
    return found
