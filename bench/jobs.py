"""Runs one command to its end and measures it: wall time, processor time and the most memory of all its processes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.layout import ROOT
from bench.processes import proportional_bytes

LOOK_S = 0.2


class JobFailed(Exception):
    """A command ended with another status than 0."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a command took. `memory_bytes` is the most of its process tree, shared pages counted once."""

    wall_s: float
    cpu_s: float
    memory_bytes: int
    said: str


def measure(argv: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> Spent:
    """Run a command; its output goes to `log`. Raises `JobFailed`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.times()
    started_s = time.perf_counter()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv, cwd=ROOT, env=os.environ | (environment or {}), stdin=subprocess.DEVNULL, stdout=sink,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        peak = _Peak(process.pid)
        status = process.wait()
        wall_s = time.perf_counter() - started_s
        memory_bytes = peak.stop()
    after = os.times()
    said = log.read_text("utf-8", "replace")
    if status:
        raise JobFailed(f"{argv[0]} ended with status {status}:\n{said[-2000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Spent(wall_s=wall_s, cpu_s=cpu_s, memory_bytes=memory_bytes, said=said)


class _Peak:
    """Looks at a process and its descendants from time to time."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        known = {self._root}  # who once descended from it is one of its processes, even when its parent has ended
        while not self._over.wait(LOOK_S):
            parents = dict(_parents())
            while more := {child for child, parent in parents.items() if parent in known} - known:
                known |= more
            self._most = max(self._most, sum(_memory(one) for one in known & parents.keys()))


def _parents() -> list[tuple[int, int]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append((int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])))
            except OSError:
                continue
    return found


def _memory(process: int) -> int:
    try:
        return proportional_bytes(Path("/proc") / str(process))
    except OSError:
        return 0
