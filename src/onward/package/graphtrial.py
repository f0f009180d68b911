"""A stranger's graphs are loaded in a process that may die before they are loaded in this one.

For packing: onnxruntime is native code, and a few bytes of a graph can ask it for terabytes. Nothing of the kind
happens where a package is served: there its digests say that somebody has packed it, and a signature, who.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from onward.errors import RefusedGraph
from onward.package.graphcheck import check_graph
from onward.package.manifest import load_manifest
from onward.package.package import graph_files

BASE_MEMORY_BYTES = 4 << 30
"""What the interpreter and onnxruntime map and a graph may need; the files' own sizes come on top, several times."""
TIME_S = 120

_CHILD = Path(__file__).with_name("graphtrial_child.py")


def try_folder(folder: Path) -> None:
    """Try out the graphs of a folder with a manifest, those that are there. Raises `RefusedGraph`, `ManifestError`."""
    try_graphs([folder / name for name in graph_files(load_manifest(folder)) if (folder / name).is_file()], folder)


def try_graphs(files: Sequence[Path], folder: Path) -> None:
    """Load each ONNX file of `folder`, and run it once, in a process with limits.

    Raises `RefusedGraph` for one that `check_graph` refuses, that cannot be loaded, or that takes more memory or time
    than a graph of its size should.
    """
    if not files:
        return
    size = 0
    for file in files:
        external = check_graph(file, folder)
        size += file.stat().st_size + sum((file.parent / name).stat().st_size for name in external)
    limits = [str(BASE_MEMORY_BYTES + 6 * size), str(TIME_S)]
    command = [sys.executable, "-I", str(_CHILD), *limits, *(str(file.resolve()) for file in files)]
    environment = {"OMP_NUM_THREADS": "1"}
    if "SYSTEMROOT" in os.environ:  # without it no process starts on Windows
        environment["SYSTEMROOT"] = os.environ["SYSTEMROOT"]
    where = files[0].name if len(files) == 1 else str(folder)
    expected = f"a graph that loads and runs within {(BASE_MEMORY_BYTES + 6 * size) >> 20} MiB and {TIME_S} s"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=2 * TIME_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise RefusedGraph("it takes too long to load", where=where, expected=expected) from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise RefusedGraph("the runtime died of it", where=where, expected=expected, found=name)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise RefusedGraph(last.rpartition("/")[2], where=where, expected=expected)
