"""Reads PyTorch state dicts (.pth, .pt, .bin) when a package is built, without PyTorch and without trust.

The unpickling happens in a child process (`torchpickle.py`) with an allow-list, time and memory limits; what comes
back over a temporary file are plain arrays, read here without pickle. The serving process never calls this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onward.errors import PackageError

CHILD = Path(__file__).with_name("torchpickle.py")
TIMEOUT_S = 120
#: What the interpreter and NumPy map before they read anything; the file's own size comes on top.
BASE_MEMORY_BYTES = 2 << 30


class RefusedTorchFile(PackageError):
    """The PyTorch file is not a plain state dict, or does more than one needs."""

    code = "REFUSED_TORCH_FILE"


def read_state_dict(path: Path, *, timeout_s: int = TIMEOUT_S) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file of `torch.save`, zip or legacy format, by name; BF16 becomes FP32.

    A dict with an entry `state_dict` or `model` is read as that entry.
    Raises RefusedTorchFile, saying why, for anything but tensors; OSError when the file cannot be read.
    """
    memory_bytes = BASE_MEMORY_BYTES + 6 * path.stat().st_size
    with tempfile.TemporaryDirectory(prefix="onward-import-") as folder:
        arrays = Path(folder) / "tensors.zip"
        command = [
            sys.executable,
            "-I",
            str(CHILD),
            str(path.resolve()),
            str(arrays),
            str(memory_bytes),
            str(timeout_s),
        ]
        # no environment: the child gets no keys, proxies or paths that its parent was given
        environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        if "SYSTEMROOT" in os.environ:  # without it no process starts on Windows
            environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, env=environment, cwd=folder, check=False
            )
        except subprocess.TimeoutExpired:
            raise RefusedTorchFile(f"reading took longer than {timeout_s} s", where=path.name) from None
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"the reader ended with status {done.returncode}"]
            raise RefusedTorchFile(lines[-1], where=path.name)
        return _read_arrays(arrays)


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, npt.NDArray[Any]] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                found[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return found
