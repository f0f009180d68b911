"""How a job's work is cut: found out at its first start, by trying the package and looking at the input."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from onward.errors import OnwardError
from onward.execute.onnx import cores
from onward.opening import AnyPipeline
from onward.package.examples import read_examples
from onward.pipeline import Pipeline
from onward.runners.batch.records import Chunk, Job, Plan
from onward.types import Prepared

_LARGEST_SHARD = 1 << 16
_COPIES = 6  # of a shard at its most: read, cut, prepared, answers, columns, written
_TRIAL_S = 0.15
_LONGEST_RUN_S = 1.0
_GOOD_ENOUGH = 0.97
_STREAMED_ROWS = 32
_ITEM_ROWS = 512


def tune(job: Job, pipeline: AnyPipeline, first: Chunk, rows: int | None) -> Plan:
    """The plan for a job. `first` are some rows of the input, `rows` how many it has, where that is known."""
    streamed = not isinstance(pipeline, Pipeline)
    if isinstance(pipeline, Pipeline):
        parallel = pipeline.manifest.execute.backend == "onnx"
        workers = cores() if parallel else 1
        batch_rows = _batch_rows(pipeline)
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


def _batch_rows(pipeline: Pipeline) -> int:
    """The smallest batch that is about as fast a row as any: larger ones only cost memory."""
    limit = pipeline.manifest.batching.max_batch_size
    try:
        item = _sample(pipeline)
        speeds: list[tuple[int, float]] = []
        for size in _sizes(limit):
            speeds.append((size, _rows_per_s(pipeline, item, size)))
            if 4 * size / speeds[-1][1] > _LONGEST_RUN_S:  # the next one would take too long to be tried, or to run
                break
    except OnwardError:  # no example, and a row of zeros is refused
        return min(limit, 64)
    best = max(speed for _, speed in speeds)
    return next(size for size, speed in speeds if speed >= best * _GOOD_ENOUGH)


def _sizes(limit: int) -> Iterator[int]:
    size = 1
    while size < limit:
        yield size
        size *= 4
    yield limit


def _sample(pipeline: Pipeline) -> Prepared:
    for example in read_examples(pipeline.package.folder):
        return pipeline.prepare(pipeline.item(example.input))
    return pipeline.blank()


def _rows_per_s(pipeline: Pipeline, item: Prepared, size: int) -> float:
    names = [spec.name for spec in pipeline.model.inputs]
    feeds = {name: np.repeat(item.tensors[name], size, axis=0) for name in names}
    pipeline.run(feeds, pipeline.default_fetches)
    started_s = time.perf_counter()
    runs = 0
    while (elapsed_s := time.perf_counter() - started_s) < _TRIAL_S and runs < 200:
        pipeline.run(feeds, pipeline.default_fetches)
        runs += 1
    return runs * size * item.rows / elapsed_s


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | bytes) else 64 * len(value) if isinstance(value, list | dict) else 64
