"""Invariant mode on real packages: honest models share batches, others are served one by one or not at all."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from onward.errors import NotInvariant
from onward.pipeline import Pipeline
from onward.runners.serve.lane import Lane, answer
from onward.runners.serve.request import Waiting
from onward.telemetry import ModelMetrics
from onward.types import Array
from tests import packages
from tests.packages import field_toml, graph, manifest, value
from tests.unit.runners.batch.jobs import read, score, write

INVARIANT = '[batching]\nmax_batch_size = 8\nmode = "invariant"\n'
FIELDS = [field_toml("input", "x", "FP32", (3,)), field_toml("output", "y", "FP32", (3,))]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONWARD_CACHE", str(tmp_path / "cache"))


def package(folder: Path, *nodes: object, constants: dict[str, Array] | None = None, more: str = INVARIANT) -> Path:
    """x (n, 3) → y (n, 3) by the nodes."""
    ends = [value("x", TensorProto.FLOAT, ["n", 3])], [value("y", TensorProto.FLOAT, ["n", 3])]
    made = graph(list(nodes), *ends, constants)  # type: ignore[arg-type]
    return packages.write(folder, manifest("tried", FIELDS, more=more), {"model.onnx": made})


def less_the_mean(folder: Path, more: str = INVARIANT) -> Path:
    """Each row less the mean of the batch."""
    mean = helper.make_node("ReduceMean", ["x", "axis"], ["mean"], keepdims=1)
    return package(
        folder, mean, helper.make_node("Sub", ["x", "mean"], ["y"]), constants={"axis": np.array([0])}, more=more
    )


def waiting(row: Array) -> Waiting:
    return Waiting({"x": row[None]}, ("y",), 1, 0, None, time.monotonic() + 30)


async def asked_together(pipeline: Pipeline, rows: Array) -> list[Array]:
    lane = Lane(pipeline, ModelMetrics("tried", "1.0.0"), inline=False)
    try:
        return [found["y"] for found in await asyncio.gather(*(answer(lane, waiting(row)) for row in rows))]
    finally:
        await lane.drain()


async def test_a_model_that_looks_at_the_batch_is_served_row_by_row(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with Pipeline.open(less_the_mean(tmp_path / "p")) as pipeline:
        assert pipeline.batch_rows == 1
        found = await asked_together(pipeline, rows)
        assert np.concatenate(found).tolist() == np.zeros((20, 3)).tolist(), "each row is its own mean"
        assert pipeline.run({"x": rows}, ["y"])[0].tolist() == np.zeros((20, 3)).tolist()
        assert [result.tensors["y"].tolist() for result in pipeline.batch([{"x": row} for row in rows])] == [
            [[0.0] * 3]
        ] * 20
    with Pipeline.open(less_the_mean(tmp_path / "q", more="[batching]\nmax_batch_size = 8\n")) as pipeline:
        assert np.any(np.concatenate(await asked_together(pipeline, rows))), "in the other mode it is not"


async def test_a_model_of_rows_shares_batches_and_its_bits_are_those_of_a_row_alone(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    folder = package(tmp_path / "p", helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weights})
    rows = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    with Pipeline.open(folder) as pipeline:
        assert pipeline.batch_rows > 1
        alone = [pipeline.run({"x": row[None]}, ["y"])[0].tobytes() for row in rows]
        assert [row.tobytes() for row in await asked_together(pipeline, rows)] == alone


def test_a_scoring_job_gives_the_bits_of_a_row_alone(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
    honest = package(tmp_path / "p", helper.make_node("MatMul", ["x", "w"], ["y"]), constants={"w": weights})
    rows = [{"id": number, "x": [0.1 * number, -0.7, number / 3]} for number in range(100)]
    source = write(tmp_path / "in.jsonl", rows)
    for folder in (honest, less_the_mean(tmp_path / "q")):
        with Pipeline.open(folder) as pipeline:
            wanted = [pipeline({"x": row["x"]}).tensors["y"][0].tobytes() for row in rows]
        score(folder, source, tmp_path / f"{folder.name}.parquet")
        found = sorted(read(tmp_path / f"{folder.name}.parquet"), key=lambda row: int(row["id"]))
        assert [np.array(row["y"], np.float32).tobytes() for row in found] == wanted


def test_a_model_that_throws_dice_is_refused(tmp_path: Path) -> None:
    dice = helper.make_node("RandomNormalLike", ["x"], ["noise"])
    folder = package(tmp_path / "p", dice, helper.make_node("Add", ["x", "noise"], ["y"]))
    with pytest.raises(NotInvariant, match="runs alone"):
        Pipeline.open(folder)


def test_an_output_as_long_as_the_longest_row_is_refused(tmp_path: Path) -> None:
    fields = [field_toml("input", "ids", "INT64", (-1,)), field_toml("output", "same", "INT64", (-1,))]
    made = graph([helper.make_node("Identity", ["ids"], ["same"])], [value("ids", TensorProto.INT64, ["n", "length"])],
                 [value("same", TensorProto.INT64, ["n", "length"])])  # fmt: skip
    text = manifest("long", fields, more=INVARIANT + "pad = { ids = 0 }\n")
    with pytest.raises(NotInvariant, match="same"):
        Pipeline.open(packages.write(tmp_path / "p", text, {"model.onnx": made}))


def test_what_was_found_out_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="onward.execute")
    folder = less_the_mean(tmp_path / "p")
    for _ in range(2):
        Pipeline.open(folder).close()
    first, last = (record.getMessage() for record in caplog.records)
    assert "finding out" in first and last.endswith(" s: 1 rows")
    assert len(list((tmp_path / "cache" / "certificates").glob("*.json"))) == 1


def test_a_package_without_the_mode_is_not_tried(tmp_path: Path) -> None:
    with Pipeline.open(less_the_mean(tmp_path / "p", more="")) as pipeline:
        assert pipeline.invariant is None and pipeline.batch_rows == 64
    assert not (tmp_path / "cache").exists()
