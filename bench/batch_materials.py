"""What the batch jobs of the bench score: rows, photos and texts of any number, made from the gallery's real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.layout import VAR
from bench.materials import photos, texts

FOLDER = VAR / "batch"
GROUP_ROWS = 1 << 18
PHOTOS_BASE = 512


def transactions(rows: int) -> Path:
    """A Parquet file of so many transactions, as pandas writes it: the held-out ones, drawn anew (FP64, snappy)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from gallery.fraud.build import held_out_transactions
    from gallery.fraud.fields import FIELDS

    path = FOLDER / f"transactions-{rows}.parquet"
    if path.exists():
        return path
    FOLDER.mkdir(parents=True, exist_ok=True)
    held_out = held_out_transactions().features.astype(np.float64)
    random = np.random.default_rng(11)
    schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in FIELDS)])
    partial = path.with_suffix(".partial")
    with pq.ParquetWriter(partial, schema) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            drawn = held_out[random.integers(len(held_out), size=count)]
            columns = [np.arange(start, start + count), *(np.ascontiguousarray(column) for column in drawn.T)]
            writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))
    partial.rename(path)
    return path


def pictures(count: int) -> Path:
    """A folder of so many JPEG files: crops of the photos that the gallery's vision package ships as examples."""
    folder = FOLDER / f"photos-{count}"
    if folder.exists():
        return folder
    from bench.layout import ROOT

    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    made = photos(min(count, PHOTOS_BASE), ROOT / "var" / "repository" / "vision")
    for index in range(count):
        (partial / f"{index:06}.jpg").write_bytes(made[index % len(made)])
    partial.rename(folder)
    return folder


def sentences(count: int) -> Path:
    """A Parquet file of so many texts of mixed lengths, in no order of their lengths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = FOLDER / f"texts-{count}.parquet"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        pq.write_table(pa.table({"text": texts(count)}), partial)
        partial.rename(path)
    return path
