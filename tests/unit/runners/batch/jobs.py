"""Scoring jobs for tests: the tiny package, some rows, and what a job makes of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onward.runners.batch.records import Job, Plan
from onward.runners.batch.runner import run
from onward.types import Array, Field

Row = dict[str, Any]
MIB = 1 << 20


def some_rows(count: int, seed: int = 3) -> list[Row]:
    """Rows as the tiny package takes them, with an `id`."""
    rng = np.random.default_rng(seed)
    return [{"id": at, "x": [round(float(value), 4) for value in rng.normal(0, 5, 3)]} for at in range(count)]


def score(package: Path, source: Path | str, output: Path | str, **options: Any) -> Mapping[str, Any]:
    """Run a job that keeps `id`, unless the options say otherwise."""
    return run(
        Job(**({"package": str(package), "source": str(source), "output": str(output), "keep": ("id",)} | options))
    )


def write(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows as a file of the form that its name says."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    elif file.suffix in (".csv", ".tsv"):
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if file.suffix == ".csv" else "\t", lineterminator="\n")
            writer.writerow(rows[0])
            writer.writerows([_cell(value) for value in row.values()] for row in rows)
    elif file.suffix == ".arrow":
        table = pa.Table.from_pylist(list(rows))
        with pa.ipc.new_file(str(file), table.schema) as writer:
            writer.write_table(table, max_chunksize=97)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), file, row_group_size=101)
    return file


def _cell(value: Any) -> Any:
    return value if isinstance(value, str) else json.dumps(value)


def read(file: Path) -> list[Row]:
    """What a job has written."""
    if file.is_dir():
        return [row for part in sorted(file.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    if file.suffix == ".arrow":
        return list(pa.ipc.open_file(file.read_bytes()).read_all().to_pylist())
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def rejects(output: Path) -> list[Row]:
    """The rejects beside an output."""
    beside = output / "_rejects.jsonl" if output.is_dir() else output.with_name(f"{output.name}_rejects.jsonl")
    return read(beside) if beside.exists() else []


def answers(rows: Sequence[Mapping[str, Any]]) -> Array:
    """What the tiny package answers: y = 2x + 1."""
    return np.array([np.float32(row["x"]) * np.float32(2) + np.float32(1) for row in rows], np.float32)


def plan(**options: int) -> Plan:
    """A plan of small shards."""
    return Plan(**({"shard_rows": 50, "batch_rows": 8, "workers": 2, "threads": 1} | options))


def field(name: str, datatype: str = "FP32", **options: Any) -> Field:
    """An input of a package."""
    return Field(name=name, datatype=datatype, shape=options.pop("shape", ()), **options)
