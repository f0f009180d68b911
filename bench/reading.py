"""What reads and writes the rows of a scoring job: pyarrow, DuckDB and Python's csv, each in a process of its own.

    python -m bench.reading            # 1,000,000 rows, a table for docs/why/batch.md
    python -m bench.reading --rows 200000

Every contender reads 30 numbers and an id a row from a file, in chunks of 65,536 rows as a job does, and writes them
into another. The file systems' caches are warm; the peak is the process's resident memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

CHUNK_ROWS = 1 << 16
NAMES = ["id", "Time", *(f"V{number}" for number in range(1, 29)), "Amount"]


def write_materials(folder: Path, rows: int) -> None:
    """`in.parquet` and `in.csv`, shaped as the rows of the package fraud."""
    rng = np.random.default_rng(1)
    writer = pq.ParquetWriter(folder / "in.parquet", schema())
    with pa_csv.CSVWriter(str(folder / "in.csv"), schema()) as csv:
        for start in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - start)
            numbers = [np.round(rng.normal(0, 2, count), 6) for _ in NAMES[1:]]
            batch = pa.record_batch([np.arange(start, start + count), *numbers], names=NAMES)
            writer.write_batch(batch)
            csv.write_batch(batch)
    writer.close()


def schema() -> pa.Schema:
    """An id and 30 numbers."""
    return pa.schema([(name, pa.int64() if name == "id" else pa.float64()) for name in NAMES])


def read_parquet_pyarrow(folder: Path) -> Iterator[pa.RecordBatch]:
    """As `onward batch` does."""
    with pq.ParquetFile(folder / "in.parquet", memory_map=True, pre_buffer=False) as file:
        yield from file.iter_batches(CHUNK_ROWS, use_threads=False)


def read_parquet_duckdb(folder: Path) -> Iterator[pa.RecordBatch]:
    """Streamed, in the file's order, on both cores."""
    yield from _duckdb(f"SELECT * FROM read_parquet('{folder}/in.parquet')")


def read_csv_pyarrow(folder: Path) -> Iterator[pa.RecordBatch]:
    """Its own streaming reader; a row that does not fit ends it, or is left out."""
    convert = pa_csv.ConvertOptions(column_types=schema())
    with pa_csv.open_csv(folder / "in.csv", convert_options=convert) as reader:
        yield from reader


def read_csv_duckdb(folder: Path) -> Iterator[pa.RecordBatch]:
    """With the types given, as the others have them."""
    types = ", ".join(f"'{name}': '{'BIGINT' if name == 'id' else 'DOUBLE'}'" for name in NAMES)
    yield from _duckdb(f"SELECT * FROM read_csv('{folder}/in.csv', header = true, columns = {{{types}}})")


def read_csv_onward(folder: Path) -> Iterator[pa.RecordBatch]:
    """As `onward batch` does: each row kept apart, so that a broken one is told with its number."""
    from onward.runners.batch.csv_files import CsvFiles

    source = CsvFiles([folder / "in.csv"], folder, {})
    for chunk in source.chunks(NAMES, CHUNK_ROWS):
        yield chunk.table


def _duckdb(query: str) -> Iterator[pa.RecordBatch]:
    import duckdb

    with duckdb.connect(config={"threads": 2, "preserve_insertion_order": True}) as connection:
        yield from connection.sql(query).to_arrow_reader(CHUNK_ROWS)


def write_parquet_pyarrow(batches: Iterator[pa.RecordBatch], file: Path) -> None:
    """With its defaults, and Snappy, as all."""
    with pq.ParquetWriter(file, schema(), compression="snappy") as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_parquet_onward(batches: Iterator[pa.RecordBatch], file: Path) -> None:
    """As `onward batch` does: pyarrow, no dictionaries for numbers, large row groups."""
    from onward.runners.batch.forms import ParquetForm

    writer = ParquetForm(file, schema())
    for batch in batches:
        writer.write(pa.Table.from_batches([batch]))
    writer.close()


def write_parquet_duckdb(batches: Iterator[pa.RecordBatch], file: Path) -> None:
    """From the same batches."""
    import duckdb

    with duckdb.connect(config={"threads": 2, "preserve_insertion_order": True}) as connection:
        rows = pa.RecordBatchReader.from_batches(schema(), batches)
        connection.register("rows", rows)
        connection.execute(f"COPY rows TO '{file}' (FORMAT parquet, COMPRESSION snappy)")


def write_csv_pyarrow(batches: Iterator[pa.RecordBatch], file: Path) -> None:
    """As `onward batch` does."""
    with pa_csv.CSVWriter(str(file), schema()) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_csv_duckdb(batches: Iterator[pa.RecordBatch], file: Path) -> None:
    """From the same batches."""
    import duckdb

    with duckdb.connect(config={"threads": 2, "preserve_insertion_order": True}) as connection:
        rows = pa.RecordBatchReader.from_batches(schema(), batches)
        connection.register("rows", rows)
        connection.execute(f"COPY rows TO '{file}' (FORMAT csv, HEADER)")


READERS: dict[str, Callable[[Path], Iterator[pa.RecordBatch]]] = {
    "read Parquet, pyarrow": read_parquet_pyarrow, "read Parquet, DuckDB": read_parquet_duckdb,
    "read CSV, pyarrow": read_csv_pyarrow, "read CSV, DuckDB": read_csv_duckdb, "read CSV, onward": read_csv_onward,
}  # fmt: skip
WRITERS: dict[str, tuple[Callable[[Iterator[pa.RecordBatch], Path], None], str]] = {
    "write Parquet, pyarrow": (write_parquet_pyarrow, "parquet"),
    "write Parquet, onward": (write_parquet_onward, "parquet"),
    "write Parquet, DuckDB": (write_parquet_duckdb, "parquet"),
    "write CSV, pyarrow": (write_csv_pyarrow, "csv"), "write CSV, DuckDB": (write_csv_duckdb, "csv"),
}  # fmt: skip


def measure(what: str, folder: Path) -> dict[str, float]:
    """One contender, here and now."""
    rows = pq.read_metadata(folder / "in.parquet").num_rows
    started_s, cpu_s = time.perf_counter(), time.process_time()
    if what in READERS:
        assert sum(batch.num_rows for batch in READERS[what](folder)) == rows
    else:
        write, suffix = WRITERS[what]
        count = 4  # the same few batches over and over: what is measured is the writing
        few = [batch for _, batch in zip(range(count), read_parquet_pyarrow(folder), strict=False)]
        started_s, cpu_s = time.perf_counter(), time.process_time()
        times = max(1, rows // sum(batch.num_rows for batch in few))
        rows = times * sum(batch.num_rows for batch in few)
        write((batch for _ in range(times) for batch in few), folder / f"out.{suffix}")
    elapsed_s = time.perf_counter() - started_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows_per_s": rows / elapsed_s, "rows_per_cpu_s": rows / (time.process_time() - cpu_s), "peak_mib": peak_mib,
    }  # fmt: skip


def main() -> None:
    """All of them, best of three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "FOLDER"))
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        write_materials(Path(name), options.rows)
        print("| | rows/s | rows per CPU second | peak MiB |\n|---|---|---|---|")
        for what in [*READERS, *WRITERS]:
            found = [_alone(what, name) for _ in range(3)]
            best = max(found, key=lambda one: one["rows_per_s"])
            print(f"| {what} | {best['rows_per_s']:,.0f} | {best['rows_per_cpu_s']:,.0f} | {best['peak_mib']:,.0f} |")


def _alone(what: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.reading", "--measure", what, folder]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


if __name__ == "__main__":
    main()
