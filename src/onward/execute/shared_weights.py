"""Weights that the processes of one server have in memory once.

onnxruntime copies a model's weights into every process, laid out anew for its kernels. Where ONWARD_SHARED_WEIGHTS
names a folder, the first process writes the optimised graph, and the weights as the kernels want them, to files there;
that one and all others map these, read-only. The graph is the one that each would have made for itself, so answers are
the same to the last bit. Files that no process uses any more are removed. Knows files and locks; not packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort

VARIABLE = "ONWARD_SHARED_WEIGHTS"
_LEAST_BYTES = 1 << 20  # below, the files and locks cost more than they save
_GRAPH, _WEIGHTS, _UNFIT = "graph.onnx", "weights.bin", "unfit"
_SETTINGS = {
    "session.optimized_model_external_initializers_file_name": _WEIGHTS,
    "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
    "session.save_external_prepacked_constant_initializers": "1",
}
_log = logging.getLogger("onward.execute")


class Held:
    """A graph whose weights are shared, for as long as this process uses it."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.file = folder / _GRAPH
        self._folder = folder
        self._lock = lock

    def close(self) -> None:
        """Use it no more; who does so last removes it. A session that has mapped the files keeps what it has."""
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):  # others use it, or it is gone
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def hold(file: Path, make_options: Callable[[], Any]) -> Held | None:
    """The graph of a file with its weights shared, made here where it is not there yet; None where it cannot be.

    `make_options` gives the options of a session. Blocking: another process may be about to make it.
    """
    root = os.environ.get(VARIABLE, "")
    if not root or sum(path.stat().st_size for path in _files(file)) < _LEAST_BYTES:
        return None
    folder = Path(root) / _key(file)
    try:
        lock = os.open(f"{folder}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        _log.warning("weights are not shared: %s", error)
        return None
    held = Held(folder, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if not folder.is_dir():
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _make(file, folder, make_options)
                _give_memory_back()
            fcntl.flock(lock, fcntl.LOCK_SH)
        if held.file.is_file():
            return held
    except Exception as error:  # onnxruntime's are its own; a full disk, for another
        _log.warning("the weights of %s are not shared: %s", file.name, str(error).strip().splitlines()[0])
    held.close()
    return None


def _make(file: Path, folder: Path, make_options: Callable[[], Any]) -> None:
    """Write the graph and its weights; where what comes of it has another signature, that it is unfit."""
    draft = folder.with_suffix(".draft")
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed in the middle
    draft.mkdir(mode=0o700)
    try:
        options = make_options()
        options.optimized_model_filepath = str(draft / _GRAPH)
        for name, value in _SETTINGS.items():
            options.add_session_config_entry(name, value)
        signature = _signature(ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]))
        if _signature(ort.InferenceSession(str(draft / _GRAPH), as_it_is(make_options()))) != signature:
            (draft / _GRAPH).unlink()
            (draft / _UNFIT).touch()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _give_memory_back() -> None:
    """What making took, which glibc would keep for this process."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def as_it_is(options: Any) -> Any:
    """The options for a graph that has been optimised already."""
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _signature(session: Any) -> list[tuple[str, str, list[Any]]]:
    nodes = [*session.get_inputs(), *session.get_outputs(), *session.get_overridable_initializers()]
    return [(node.name, node.type, list(node.shape or ())) for node in nodes]


def _key(file: Path) -> str:
    """Of the graph's bytes, the onnxruntime that optimises it, and which files lie beside it: its weights may."""
    digest = hashlib.sha256(f"{ort.__version__}\0".encode())
    for path in _files(file):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_ino} {status.st_size} {status.st_mtime_ns}\0".encode())
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:32]


def _files(file: Path) -> list[Path]:
    return sorted(path for path in file.parent.rglob("*") if path.is_file())
