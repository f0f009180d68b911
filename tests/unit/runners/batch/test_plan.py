"""The plan: shards that fit the memory and keep the cores busy, batches as the package runs best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from onward.execute.onnx import cores
from onward.pipeline import Pipeline
from onward.runners.batch import plan as planning
from onward.runners.batch.plan import tune
from onward.runners.batch.records import Chunk, Job, Plan
from onward.testing import tiny_package
from onward.types import Prepared


def planned(pipeline: Pipeline, rows: int | None, *, row_bytes: int = 24, **options: int) -> Plan:
    count = 10
    table = pa.record_batch({"a": pa.array([b"x" * row_bytes] * count)})
    chunk = Chunk(table=table, rows=np.arange(count))
    job = Job(package="p", source="s", output="o", **options)
    return tune(job, pipeline, chunk, [{"x": [1.0, 2.0, 3.0]}] * count, rows)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.open(tiny_package(tmp_path_factory.mktemp("plan") / "tiny", max_batch_size=64))


def test_small_inputs_still_keep_every_core_busy(pipeline: Pipeline) -> None:
    plan = planned(pipeline, 8000)
    assert plan.workers == cores() and 8000 / plan.shard_rows >= 3 * plan.workers
    assert plan.shard_rows % plan.batch_rows == 0
    assert planned(pipeline, 8000, limit=400).shard_rows < plan.shard_rows


def test_shards_are_smaller_where_memory_is_and_rows_are_large(pipeline: Pipeline) -> None:
    rich, poor = planned(pipeline, None), planned(pipeline, None, memory_bytes=1 << 20)
    assert poor.shard_rows < rich.shard_rows
    large = planned(pipeline, None, row_bytes=1 << 20)
    assert large.shard_rows * (1 << 20) * (2 * large.workers + 2) <= 1 << 30
    assert planned(pipeline, 0).shard_rows >= 1 and planned(pipeline, None, memory_bytes=1).shard_rows == 1


def test_the_smallest_batch_about_as_fast_as_any_is_taken(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {1: 100.0, 4: 390.0, 16: 1000.0, 64: 1005.0}
    tried = []

    def speed(_: Pipeline, prepared: Sequence[Prepared], size: int) -> float:
        tried.append(size)
        return speeds[size] * 1e6

    monkeypatch.setattr(planning, "_rows_per_s", speed)
    assert planned(pipeline, None).batch_rows == 16 and tried == [1, 4, 16, 64]
    speeds[64] = 2000.0
    assert planned(pipeline, None).batch_rows == 64


def test_batches_that_would_take_too_long_are_not_tried(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def speed(_: Pipeline, prepared: Sequence[Prepared], size: int) -> float:
        tried.append(size)
        return 2.0

    monkeypatch.setattr(planning, "_rows_per_s", speed)
    planned(pipeline, None)
    assert tried == [1]


def test_rows_that_the_package_refuses_do_not_end_the_planning(pipeline: Pipeline, tmp_path: Path) -> None:
    chunk = Chunk(table=pa.record_batch({"x": ["words"]}), rows=np.arange(1))
    plan = tune(Job(package="p", source="s", output="o"), pipeline, chunk, [{"x": "words"}], 1)
    assert plan.batch_rows >= 1
