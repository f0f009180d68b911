"""How a job's work is cut: found out at its first start, by trying the package and looking at the input."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice

from onward.errors import OnwardError
from onward.execute.onnx import cores
from onward.opening import AnyPipeline
from onward.package.examples import read_examples
from onward.pipeline import Pipeline
from onward.runners.batch.records import Chunk, Job, Plan
from onward.types import Item, Prepared

_LARGEST_SHARD = 1 << 16
_COPIES = 6  # of a shard at its most: read, cut, prepared, answers, columns, written
_TRIAL_S = 0.15
_LONGEST_RUN_S = 1.0
_MOST_RUNS = 500
_GOOD_ENOUGH = 0.985
_STREAMED_ROWS = 32
_ITEM_ROWS = 512


def tune(job: Job, pipeline: AnyPipeline, first: Chunk, items: Sequence[Item], rows: int | None) -> Plan:
    """The plan for a job.

    `first` are some rows of the input, `items` those as the pipeline takes them, `rows` how many it has, where that is
    known.
    """
    streamed = not isinstance(pipeline, Pipeline)
    if isinstance(pipeline, Pipeline):
        parallel = pipeline.manifest.execute.backend == "onnx"
        workers = cores() if parallel else 1
        batch_rows = _batch_rows(pipeline, items)
    else:
        workers = 1
        batch_rows = max(1, 2 * pipeline.manifest.execute.slots)
    row_bytes = max(first.table.nbytes // max(first.table.num_rows, 1), 16) if first.table.num_rows else 1024
    row_bytes += sum(_size(value) for one in first.raw.values() for value in one.values()) // max(len(first.raw), 1)
    in_flight = 2 * workers + 2
    fitting = max(1, int(job.memory_bytes * 0.4) // (row_bytes * _COPIES * in_flight))
    most = _STREAMED_ROWS if streamed else _LARGEST_SHARD if row_bytes < 4096 else _ITEM_ROWS
    shard_rows = min(most, fitting)
    if rows is not None:  # small inputs still keep every core busy
        even = -(-min(rows, job.limit or rows) // (workers * 4))
        shard_rows = min(shard_rows, max(even, batch_rows, 1))
    if shard_rows > batch_rows:
        shard_rows -= shard_rows % batch_rows
    return Plan(shard_rows=max(shard_rows, 1), batch_rows=batch_rows, workers=workers, threads=1)


def _batch_rows(pipeline: Pipeline, items: Sequence[Item]) -> int:
    """The smallest batch that is about as fast a row as any: larger ones only cost memory.

    Tried with rows of the input: a model may be quicker with one row many times (trees are), or with short texts.
    """
    limit = pipeline.manifest.batching.max_batch_size
    prepared = sorted(_prepared(pipeline, items[:limit]), key=lambda one: one.length)
    try:
        speeds: list[tuple[int, float]] = []
        for size in _sizes(limit):
            speeds.append((size, _rows_per_s(pipeline, prepared, size)))
            if 4 * size / speeds[-1][1] > _LONGEST_RUN_S:  # the next one would take too long to be tried, or to run
                break
    except OnwardError:  # no row is good, no example there, and a row of zeros is refused
        return min(limit, 64)
    best = max(speed for _, speed in speeds)
    return next(size for size, speed in speeds if speed >= best * _GOOD_ENOUGH)


def _sizes(limit: int) -> Iterator[int]:
    size = 1
    while size < limit:
        yield size
        size *= 4
    yield limit


def _prepared(pipeline: Pipeline, items: Sequence[Item]) -> list[Prepared]:
    found = []
    for item in [*items, *(pipeline.item(one.input) for one in read_examples(pipeline.package.folder)[:1])]:
        with suppress(OnwardError):
            found.append(pipeline.prepare(item))
    return found[: len(items)] or found or [pipeline.blank()]


def _rows_per_s(pipeline: Pipeline, prepared: Sequence[Prepared], size: int) -> float:
    endless = cycle(prepared)
    fetches = pipeline.default_fetches
    pipeline.execute(list(islice(endless, size)), fetches)
    runs = 0
    busy_s = 0.0
    while busy_s < _TRIAL_S and runs < _MOST_RUNS:
        batch = list(islice(endless, size))
        started_s = time.perf_counter()
        pipeline.execute(batch, fetches)
        busy_s += time.perf_counter() - started_s
        runs += 1
    return runs * size / busy_s


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 64 * len(value) if isinstance(value, list | dict) else 64
