"""Start to first answer on a device: `onward edge`'s folder beside onnxruntime alone.

    python -m bench.edge_python [--rounds N] [--output FILE]

A new interpreter each time. The folder verifies its package, opens it and answers one golden input; onnxruntime alone
opens the same model and runs it once, on rows that are prepared already: it neither checks nor prepares anything.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.layout import ROOT

PACKAGES = ("fraud", "vision", "intent", "embed")
ONWARD = ROOT / ".venv" / "bin" / "onward"
PYTHON = str(ROOT / ".venv" / "bin" / "python")
ALONE = """
import sys
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [value.name for value in session.get_outputs()]
session.run([name for name in sys.argv[4].split(",") if name in names] or None, dict(np.load(sys.argv[2])))
"""


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.edge_python", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    told: dict[str, Any] = {"machine": machine.facts(), "rounds": options.rounds, "packages": {}}
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        for name in PACKAGES:
            found = compare(name, Path(place), options.rounds)
            told["packages"][name] = found
            print(f"{name:<8} folder {found['folder_ms']:6.0f} ms, onnxruntime alone {found['alone_ms']:6.0f} ms, "
                  f"ratio {found['ratio']:.2f}; {found['size_bytes'] / 1e6:.0f} MB", flush=True)  # fmt: skip
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(told, indent=2) + "\n")


def compare(name: str, place: Path, rounds: int) -> dict[str, Any]:
    """The medians of both, taken in turn."""
    from onward.package.examples import read_examples
    from onward.pipeline import Pipeline

    folder, item, rows = place / name, place / f"{name}.json", place / f"{name}.npz"
    made = subprocess.run(
        [ONWARD, "edge", name, folder, "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with Pipeline.open(folder / "package", check=False, decide=False) as pipeline:
        value = read_examples(folder / "package")[0].input
        taken = {spec.name for spec in pipeline.model.inputs}
        _write(rows, {key: one for key, one in pipeline.prepare(value).tensors.items() if key in taken})
        fetches = ",".join(pipeline.default_fetches)
        item.write_text(json.dumps(_plain(value)), "utf-8")
        model, threads = folder / "package" / pipeline.manifest.execute.file, pipeline.manifest.execute.threads
    ours, alone = [], []
    for _ in range(rounds):
        ours.append(
            _timed([PYTHON, str(folder / "run.py"), str(item) if name != "vision" else item.read_text("utf-8")])
        )
        alone.append(_timed([PYTHON, "-c", ALONE, str(model), str(rows), str(threads), fetches]))
    folder_ms, alone_ms = statistics.median(ours), statistics.median(alone)
    return {"folder_ms": folder_ms, "alone_ms": alone_ms, "ratio": folder_ms / alone_ms,
            "size_bytes": json.loads(made.stdout)["size_bytes"]}  # fmt: skip


def _timed(argv: list[str]) -> float:
    started_s = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return (time.perf_counter() - started_s) * 1e3


def _write(path: Path, tensors: Any) -> None:
    import numpy as np

    np.savez(path, **tensors)


def _plain(value: Any) -> Any:
    import base64

    return {key: base64.b64encode(one).decode() if isinstance(one, bytes) else one for key, one in value.items()}


if __name__ == "__main__":
    sys.exit(main())
