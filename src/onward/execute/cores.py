"""How many cores this process may use: what the scheduler binds it to, and what its container's quota is worth.

A container with a CPU limit sees all cores of its node; as many threads as that would be stopped by the quota again
and again, in the middle of a batch. Where neither says it, as on a node that replicas share, ONWARD_CORES does.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
VARIABLE = "ONWARD_CORES"


def cores() -> int:
    """How many cores this process may use: at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, quota(), share())))


def share() -> float:
    """What ONWARD_CORES grants, in cores; infinity where it is not set to a number above 0."""
    try:
        granted = float(os.environ.get(VARIABLE, "inf"))
    except ValueError:
        return math.inf
    return granted if granted > 0 else math.inf


def quota(root: Path = _ROOT, own: Path = _OWN) -> float:
    """The least CPU quota of this process's control group and those above it, in cores; infinity without one.

    Reads cgroup v2, which is what every current system has; under v1 no quota is seen.
    """
    try:
        lines = own.read_text("utf-8").splitlines()
        path = next(line.split(":", 2)[2] for line in lines if line.startswith("0::"))
    except (OSError, StopIteration, IndexError, UnicodeDecodeError):
        return math.inf
    group = root / path.strip("/")
    least = math.inf
    while True:
        least = min(least, _of(group / "cpu.max"))
        if group == root or root not in group.parents:
            return least
        group = group.parent


def _of(file: Path) -> float:
    try:
        granted, period = file.read_text("ascii").split()
        return math.inf if granted == "max" else int(granted) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
