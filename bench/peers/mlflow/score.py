"""MLflow's pyfunc: the package's graph logged as an ONNX model, loaded back, `predict` on pandas frames.

python score.py fraud PACKAGE IN OUT      the rows of a Parquet file, 10,000 at a time
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PIECE_ROWS = 10_000
OUTPUTS = ("probability", "fraud", "unusual", "unusual_score")


def fraud(package: Path, source: str, output: str) -> None:
    """Score a Parquet file."""
    graph = onnx.load(str(package / "model.onnx"))
    kept = [value for value in graph.graph.output if value.name in OUTPUTS]  # pyfunc computes all that there are
    del graph.graph.output[:]
    graph.graph.output.extend(kept)
    with tempfile.TemporaryDirectory() as place:
        mlflow.onnx.save_model(graph, str(Path(place) / "model"))
        model = mlflow.pyfunc.load_model(str(Path(place) / "model"))
    writer = None
    for batch in pq.ParquetFile(source).iter_batches(PIECE_ROWS):
        frame = batch.to_pandas()
        features = frame.drop(columns="id").to_numpy(np.float32)
        found = model.predict(features)
        answers = pd.DataFrame({"id": frame["id"], **{name: np.ravel(found[name]) for name in OUTPUTS}})
        table = pa.Table.from_pandas(answers, preserve_index=False)
        writer = writer or pq.ParquetWriter(output, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


if __name__ == "__main__":
    fraud(Path(sys.argv[2]), *sys.argv[3:])
