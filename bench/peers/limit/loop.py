"""onnxruntime in a loop; writes one byte to standard output after every batch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from bench.peers.inference import Model


def main(folder: str, batch: int, threads: int) -> None:
    """Run the model on `batch` rows again and again, until the reader has gone."""
    model = Model(Path(folder), threads)
    batches = np.random.default_rng(1).standard_normal((8, batch, model.input_width)).astype(np.float32)
    turn = 0
    while True:
        model.matrix(batches[turn % 8])
        turn += 1
        os.write(1, b".")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except BrokenPipeError:
        sys.exit(0)
