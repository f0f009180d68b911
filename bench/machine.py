"""States what the figures were measured on, without naming the machine or its folders."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.layout import ROOT

FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
PACKAGES = ("numpy", "onnx", "onnxruntime", "msgspec", "matplotlib")


def facts() -> dict[str, Any]:
    """Collect processor, memory, system and versions."""
    processor = _cpuinfo()
    flags = processor.get("flags", "").split()
    memory_kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor.get("model name", "unknown"),
        "processor_flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES if find_spec(name)},
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpuinfo() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = [line.split(":", 1) for line in first.splitlines() if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def _git(*arguments: str) -> str:
    outcome = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return outcome.stdout.strip()
