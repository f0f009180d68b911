"""Asks a library of boosted trees what it answers with a file of its own, in a child process (`treechild.py`).

Only to compare: where the library is not installed, nothing is compared.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from onward.errors import PackageError
from onward.package.importers.treechild import NOT_INSTALLED
from onward.types import Array

CHILD = Path(__file__).with_name("treechild.py")
TIMEOUT_S = 170
BASE_MEMORY_BYTES = 8 << 30
"""Threads and libraries map much that they never touch; the file's own size comes on top."""


def answers_of_file(path: Path, library: str, rows: Any, **asked: Any) -> Array | None:
    """What the library answers, FP64 [rows] or [rows, outputs]; None where it is not installed.

    `rows` are a matrix of numbers or, for texts among them, lists. Raises `PackageError` where the library does not
    take the file.
    """
    if not is_installed(library):
        return None
    with tempfile.TemporaryDirectory(prefix="onward-import-") as folder:
        given, out = Path(folder) / "rows", Path(folder) / "out.npy"
        if isinstance(rows, np.ndarray):
            with given.open("wb") as file:
                np.save(file, rows, allow_pickle=False)
        else:
            given.write_text(json.dumps(rows), encoding="utf-8")
        if not _run(path, library, folder, {**asked, "rows": str(given), "out": str(out)}):
            return None
        values: Array = np.load(out, allow_pickle=False)
        return values


def converted_file(path: Path, library: str, **asked: Any) -> bytes | None:
    """The file in the library's text format; None where the library is not installed."""
    if not is_installed(library):
        return None
    with tempfile.TemporaryDirectory(prefix="onward-import-") as folder:
        converted = Path(folder) / "model.json"
        done = _run(path, library, folder, {**asked, "converted": str(converted)})
        return converted.read_bytes() if done else None


def is_installed(library: str) -> bool:
    """Whether the library is there to compare with."""
    return importlib.util.find_spec(library) is not None


def _run(path: Path, library: str, folder: str, asked: dict[str, Any]) -> bool:
    argument = {
        **asked, "library": library, "model": str(path.resolve()), "time_s": TIMEOUT_S,
        "memory_bytes": BASE_MEMORY_BYTES + 16 * path.stat().st_size,
    }  # fmt: skip
    # no environment: the child gets no keys, proxies or paths that its parent was given
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": folder}
    if "SYSTEMROOT" in os.environ:  # without it no process starts on Windows
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    command = [sys.executable, "-I", "-W", "ignore", str(CHILD), json.dumps(argument)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, cwd=folder, check=False
        )
    except subprocess.TimeoutExpired:
        raise PackageError(f"{library} took longer than {TIMEOUT_S} s", where=str(path)) from None
    if done.returncode == NOT_INSTALLED:
        return False
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"its process ended with status {done.returncode}"]
        raise PackageError(f"{library} itself does not take the file: {lines[-1]}", where=str(path))
    return True
