"""Ray Data as its documentation writes batch inference: a callable class that opens the model once, over batches.

python score.py fraud PACKAGE IN OUT      the rows of a Parquet file
python score.py vision PACKAGE IN OUT     the JPEG files of a folder

One actor a core, each with a session of one thread; each is said to need half a core, since reading and writing are
tasks that would wait forever for a core otherwise. OUT becomes a folder of Parquet
files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data

from bench.peers.inference import Model, labelled, session_of

OUTPUTS = ("probability", "fraud", "unusual", "unusual_score")
ACTORS = os.cpu_count() or 1
# A batch as Ray hands it over, and the rows of one run of the model: what was fastest here of several.
ROWS, RUN_ROWS = 16_384, 256
PHOTOS = 64


class Detector:
    """Scores a batch of transactions."""

    def __init__(self, package: str) -> None:
        self._session = session_of(Path(package) / "model.onnx", threads=1)
        self._name = self._session.get_inputs()[0].name

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        features = np.stack([values for name, values in batch.items() if name != "id"], axis=1).astype(np.float32)
        runs = [self._session.run(list(OUTPUTS), {self._name: features[start : start + RUN_ROWS]})
                for start in range(0, len(features), RUN_ROWS)]  # fmt: skip
        found = [np.concatenate(parts) for parts in zip(*runs, strict=True)]
        return {"id": batch["id"], **dict(zip(OUTPUTS, found, strict=True))}


class Labeller:
    """Decodes, prepares and labels a batch of photos, one after another: a batch of photos is no faster here."""

    def __init__(self, package: str) -> None:
        self._model = Model(Path(package), threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        labels = []
        for encoded in batch["bytes"]:
            item = self._model.decoder.image(encoded)
            labels.append(labelled(self._model.ranked(self._model.run([item])[0])))
        return {
            "file": [Path(path).name for path in batch["path"]],
            "label": [one["label"] for one in labels],
            "score": [one["score"] for one in labels],
        }


def main() -> None:
    """See the module."""
    kind, package, source, output = sys.argv[1:]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="error")
    package = str(Path(package).resolve())
    if kind == "fraud":
        rows = ray.data.read_parquet(str(Path(source).resolve()))
        answers = rows.map_batches(
            Detector, fn_constructor_args=(package,), batch_size=ROWS, batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=ACTORS), num_cpus=0.5,
        )  # fmt: skip
    else:
        rows = ray.data.read_binary_files(str(Path(source).resolve()), include_paths=True)
        answers = rows.map_batches(
            Labeller, fn_constructor_args=(package,), batch_size=PHOTOS, batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=ACTORS), num_cpus=0.5,
        )  # fmt: skip
    answers.write_parquet(str(Path(output).resolve()))
    ray.shutdown()


if __name__ == "__main__":
    main()
