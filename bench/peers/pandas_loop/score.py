"""What most teams write first: pandas reads the file, onnxruntime answers it piece by piece, pandas writes the answers.

python score.py fraud PACKAGE IN OUT      the rows of a Parquet file, 10,000 at a time
python score.py vision PACKAGE IN OUT     the JPEG files of a folder, one after another, without PyTorch

onnxruntime with its own number of threads: all cores.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd

from bench.peers.inference import Model, labelled

PIECE_ROWS = 10_000
OUTPUTS = ("probability", "fraud", "unusual", "unusual_score")


def fraud(package: Path, source: str, output: str) -> None:
    """Score a Parquet file."""
    session = ort.InferenceSession(str(package / "model.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    table = pd.read_parquet(source)
    features = [column for column in table.columns if column != "id"]
    pieces = []
    for start in range(0, len(table), PIECE_ROWS):
        piece = table.iloc[start : start + PIECE_ROWS]
        found = session.run(list(OUTPUTS), {name: piece[features].to_numpy(np.float32)})
        pieces.append(pd.DataFrame({"id": piece["id"].to_numpy(), **dict(zip(OUTPUTS, found, strict=True))}))
    pd.concat(pieces).to_parquet(output, index=False)


def vision(package: Path, source: str, output: str) -> None:
    """Label a folder of photos."""
    model = Model(package, threads=0)
    rows: list[dict[str, Any]] = []
    for path in sorted(Path(source).iterdir()):
        item = model.decoder.image(path.read_bytes())
        rows.append({"file": path.name, **labelled(model.ranked(model.run([item])[0]))})
    pd.DataFrame(rows).to_parquet(output, index=False)


if __name__ == "__main__":
    kind, *paths = sys.argv[1:]
    {"fraud": fraud, "vision": vision}[kind](Path(paths[0]), *paths[1:])
