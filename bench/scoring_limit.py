"""The least processor time that a scoring job takes: each of its parts alone, on one thread, in a process of its own.

python -m bench.scoring_limit (fraud|vision) (scan|execute|write) IN ANSWERS BATCH    prints JSON

IN is the job's input, ANSWERS a finished output of it (Parquet), BATCH the rows of one run. Scanning includes decoding
and preparing photos. Executing is measured with a part of the rows.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.layout import ROOT
from bench.peers.inference import Model, Tensors, session_of

REPOSITORY = ROOT / "var" / "repository"
EXECUTED_ROWS = {"fraud": 500_000, "vision": 1000}
OUTPUTS = ("probability", "fraud", "unusual", "unusual_score")
SCANNED_ROWS = 1 << 16


def scan(kind: str, source: str, limit: int | None = None) -> tuple[int, list[np.ndarray]]:
    """Read the rows; returns how many, and the first `limit` of them as the model takes them."""
    kept: list[np.ndarray] = []
    rows = 0
    if kind == "vision":
        decoder = Model(REPOSITORY / "vision" / "1.0.0").decoder
        for path in sorted(Path(source).iterdir())[:limit]:
            prepared: Tensors = decoder.image(path.read_bytes())
            rows += 1
            if limit is not None:
                kept += prepared.values()
        return rows, kept
    file = pq.ParquetFile(source)
    names = [name for name in file.schema_arrow.names if name != "id"]
    for batch in file.iter_batches(SCANNED_ROWS, columns=names, use_threads=False):
        rows += batch.num_rows
        if limit is not None:
            kept.append(np.stack([column.to_numpy() for column in batch.columns], axis=1).astype(np.float32))
            if rows >= limit:
                break
    return rows, kept


def execute(kind: str, source: str, batch_rows: int) -> tuple[int, float]:
    """Run the model over prepared rows: how many, and the processor seconds."""
    _, kept = scan(kind, source, EXECUTED_ROWS[kind])
    rows = np.concatenate(kept)
    session = session_of(REPOSITORY / kind / "1.0.0" / "model.onnx", threads=1)
    name = session.get_inputs()[0].name
    outputs = list(OUTPUTS) if kind == "fraud" else None
    session.run(outputs, {name: rows[:batch_rows]})
    started_s = time.process_time()
    for start in range(0, len(rows), batch_rows):
        session.run(outputs, {name: rows[start : start + batch_rows]})
    return len(rows), time.process_time() - started_s


def write(answers: str) -> tuple[int, float]:
    """Write a finished output again."""
    table = pq.read_table(answers)
    started_s = time.process_time()
    pq.write_table(table, pa.BufferOutputStream())
    return table.num_rows, time.process_time() - started_s


def main() -> None:
    """See the module."""
    kind, part, source, answers, batch_rows = sys.argv[1:]
    if part == "scan":
        scan(kind, source, 1)
        started_s = time.process_time()
        rows, _ = scan(kind, source)
        spent_s = time.process_time() - started_s
    elif part == "execute":
        rows, spent_s = execute(kind, source, int(batch_rows))
    else:
        rows, spent_s = write(answers)
    print(json.dumps({"rows": rows, "cpu_us_a_row": spent_s / rows * 1e6}))


if __name__ == "__main__":
    main()
