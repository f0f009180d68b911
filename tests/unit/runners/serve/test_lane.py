"""A lane gives every request exactly one outcome: its rows, its own error, or none because nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onward.errors import Cancelled, CorruptMedia, DeadlineExceeded, ExecutionError, Overloaded, TooLarge, Unavailable
from onward.execute.batch import Column, collate
from onward.package.manifest import parse_manifest
from onward.pipeline import Pipeline
from onward.runners.serve.lane import Lane, answer
from onward.runners.serve.request import Unprepared, Waiting
from onward.telemetry import ModelMetrics
from onward.testing import ScaleBackend
from onward.types import Array
from tests.packages import padded_package

MANIFEST = """format = 1
[package]
name = "scale"
version = "1.0.0"
[[input]]
name = "x"
datatype = "FP32"
shape = [1]
[[output]]
name = "y"
datatype = "FP32"
shape = [1]
[execute]
backend = "onnx"
file = "model.onnx"
instances = {instances}
[batching]
max_batch_size = 8
[limits]
queue_rows = 64
"""


class ScalePipeline:
    """What a lane needs of a pipeline, over a backend that really computes: y = 2·x."""

    def __init__(
        self, *, delay_s: float = 0.0, fails: Callable[[Array], bool] | None = None, instances: int = 1
    ) -> None:
        self.manifest = parse_manifest(MANIFEST.format(instances=instances))
        self.invariant = None
        self.batch_rows = self.manifest.batching.max_batch_size
        self.backend = ScaleBackend(scale=2.0, shape=(1,), delay_s=delay_s, fails=fails)

    def collate(self, items: Any, rows: Any, *, bucket: int) -> dict[str, Array]:
        return collate(self.backend.inputs, items, rows, pad={}, bucket=bucket)

    def run(self, feeds: dict[str, Array], fetches: tuple[str, ...]) -> list[Array]:
        return self.backend.run(feeds, fetches)


def lane_of(pipeline: ScalePipeline, *, inline: bool) -> tuple[Lane, ModelMetrics]:
    metrics = ModelMetrics("scale", "1.0.0")
    return Lane(pipeline, metrics, inline=inline), metrics  # type: ignore[arg-type]


def waiting(*values: float, deadline_s: float = 30.0) -> Waiting:
    column = np.array(values, np.float32).reshape(-1, 1)
    return Waiting({"x": column}, ("y",), len(values), 0, None, time.monotonic() + deadline_s)


async def ask(lane: Lane, *values: float, deadline_s: float = 30.0) -> list[float]:
    return (await answer(lane, waiting(*values, deadline_s=deadline_s)))["y"].ravel().tolist()


both = pytest.mark.parametrize("inline", [True, False], ids=["inline", "thread"])


@both
async def test_each_request_gets_its_own_rows_and_requests_share_batches(inline: bool) -> None:
    pipeline = ScalePipeline()
    lane, metrics = lane_of(pipeline, inline=inline)
    wanted = [[float(number + row) for row in range(number % 3 + 1)] for number in range(30)]
    found = await asyncio.gather(*(ask(lane, *values) for values in wanted))
    assert found == [[2 * value for value in values] for values in wanted]
    assert pipeline.backend.runs < 30 and pipeline.backend.largest_batch <= 8
    assert metrics.rows == sum(map(len, wanted))
    await lane.drain()


@both
async def test_who_fails_a_batch_fails_alone(inline: bool) -> None:
    pipeline = ScalePipeline(fails=lambda row: bool(row[0] == 13))
    lane, _ = lane_of(pipeline, inline=inline)
    outcomes = await asyncio.gather(*(ask(lane, float(n)) for n in range(10, 17)), return_exceptions=True)
    assert [type(one) for one in outcomes].count(ExecutionError) == 1 and isinstance(outcomes[3], ExecutionError)
    assert [one for one in outcomes if isinstance(one, list)] == [[2.0 * n] for n in range(10, 17) if n != 13]
    assert lane.scheduler.idle
    await lane.drain()


@both
async def test_a_bug_in_the_pipeline_is_an_error_and_the_lane_goes_on(
    inline: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = ScalePipeline()
    lane, _ = lane_of(pipeline, inline=inline)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "collate", lambda *args, **named: 1 / 0)
        with pytest.raises(ExecutionError):
            await ask(lane, 1.0)
    assert "ZeroDivisionError" in caplog.text
    assert await ask(lane, 1.0) == [2.0]
    await lane.drain()


async def test_work_that_waits_too_long_is_rejected_on_time_and_never_computed() -> None:
    pipeline = ScalePipeline(delay_s=0.3)
    lane, metrics = lane_of(pipeline, inline=False)
    first = asyncio.create_task(ask(lane, 1.0))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await ask(lane, 2.0, deadline_s=0.1)
    assert 0.09 < time.monotonic() - started < 0.2
    assert await first == [2.0]
    assert pipeline.backend.rows == 1 and metrics.shed == {"expired": 1}
    await lane.drain()


async def test_cancelled_work_is_never_computed() -> None:
    pipeline = ScalePipeline(delay_s=0.1)
    lane, metrics = lane_of(pipeline, inline=False)
    first = asyncio.create_task(ask(lane, 1.0))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(ask(lane, 2.0))
    await asyncio.sleep(0.02)
    second.cancel()
    with pytest.raises(Cancelled):
        await second
    assert await first == [2.0]
    await lane.drain()
    assert pipeline.backend.rows == 1 and metrics.shed == {"cancelled": 1}


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    lane, _ = lane_of(ScalePipeline(delay_s=0.05), inline=False)
    tasks = [asyncio.create_task(ask(lane, *([1.0] * 8))) for _ in range(12)]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, Overloaded)]
    assert len(refused) == 4 and all(one.retry_after_s > 0 for one in refused)
    assert [one for one in outcomes if isinstance(one, list)] == [[2.0] * 8] * 8
    await lane.drain()


@both
async def test_a_drain_answers_what_is_queued_and_takes_nothing_more(inline: bool) -> None:
    lane, _ = lane_of(ScalePipeline(delay_s=0.01), inline=inline)
    tasks = [asyncio.create_task(ask(lane, *([float(n)] * 8))) for n in range(6)]
    await asyncio.sleep(0)
    draining = asyncio.create_task(lane.drain())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await ask(lane, 1.0)
    await draining
    assert [task.result() for task in tasks] == [[2.0 * n] * 8 for n in range(6)]


async def test_instances_run_side_by_side() -> None:
    lane, _ = lane_of(ScalePipeline(delay_s=0.2, instances=3), inline=False)
    started = time.monotonic()
    await asyncio.gather(*(ask(lane, *([1.0] * 8)) for _ in range(3)))
    assert time.monotonic() - started < 0.4
    await lane.drain()


class Broken(Waiting):
    """A request whose answer cannot be given."""

    def resolve(self, outputs: Any, start: int) -> None:
        raise ZeroDivisionError("a bug in an answer")


@both
async def test_an_answer_that_cannot_be_given_takes_no_other_with_it(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lane, _ = lane_of(ScalePipeline(), inline=inline)
    column = np.ones((1, 1), np.float32)
    broken = Broken({"x": column}, ("y",), 1, 0, None, time.monotonic() + 30)
    tasks = [asyncio.create_task(answer(lane, one)) for one in (waiting(1.0), broken, waiting(2.0), *many(20))]
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], ExecutionError) and "a bug in an answer" in caplog.text
    assert [type(one) for one in outcomes].count(dict) == 22
    await lane.drain()


def many(count: int) -> list[Waiting]:
    return [waiting(float(number)) for number in range(count)]


@both
@pytest.mark.parametrize("cut", [lambda y: y[:-1], lambda y: y[0], lambda y: y.sum()])
async def test_outputs_without_the_batchs_rows_are_an_error_for_everyone(
    inline: bool, cut: Callable[[Array], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = ScalePipeline()
    run = pipeline.run
    monkeypatch.setattr(
        pipeline, "run", lambda feeds, fetches: [np.asarray(cut(y)).ravel() for y in run(feeds, fetches)]
    )
    lane, _ = lane_of(pipeline, inline=inline)
    outcomes = await asyncio.gather(*(ask(lane, 1.0, 2.0, 3.0) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [ExecutionError] * 5
    await lane.drain()


async def test_a_request_larger_than_a_batch_leaves_the_loop_free_and_the_order_as_it_was() -> None:
    pipeline = ScalePipeline(delay_s=0.2)
    lane, _ = lane_of(pipeline, inline=True)
    large = asyncio.create_task(ask(lane, *([1.0] * 9)))
    started = time.monotonic()
    turns = 0
    while not large.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 10 and time.monotonic() - started < 2
    assert large.result() == [2.0] * 9
    pipeline.backend.delay_s = 0.0
    assert await asyncio.gather(*(ask(lane, float(n)) for n in range(5))) == [[2.0 * n] for n in range(5)]
    await lane.drain()


async def test_what_waits_for_preparation_counts_against_the_queue() -> None:
    lane, _ = lane_of(ScalePipeline(), inline=False)
    lane.admit(60, 1000)
    with pytest.raises(Overloaded, match="60 rows"):
        lane.admit(5, 1000)
    with pytest.raises(TooLarge):
        lane.admit(65, 1000)
    with pytest.raises(Overloaded):
        lane.admit(1, 1 << 30)
    lane.admit(-60, -1000)
    lane.admit(1, 1 << 30)  # one body is never too much: its size has a limit of its own
    lane.admit(-1, -(1 << 30))
    await lane.drain()


async def test_cancelled_work_lets_go_of_its_tensors_at_once() -> None:
    lane, _ = lane_of(ScalePipeline(delay_s=0.1), inline=False)
    first = asyncio.create_task(ask(lane, 1.0))
    await asyncio.sleep(0.02)
    request = waiting(2.0)
    second = asyncio.create_task(answer(lane, request))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert request.columns == {}
    await lane.drain()


async def test_what_failed_with_others_is_not_run_again_for_nobody() -> None:
    pipeline = ScalePipeline(delay_s=0.1, fails=lambda row: bool(row[0] == 13))
    lane, metrics = lane_of(pipeline, inline=False)
    first = asyncio.create_task(ask(lane, 1.0))
    await asyncio.sleep(0.02)
    tasks = [
        asyncio.create_task(ask(lane, value, deadline_s=ttl)) for value, ttl in ((13, 30), (2, 30), (3, 0.15), (4, 30))
    ]
    await first
    await asyncio.sleep(0.02)
    tasks[1].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in outcomes] == [ExecutionError, Cancelled, DeadlineExceeded, list]
    assert metrics.shed == {"expired": 1, "cancelled": 1}
    await lane.drain()


def unprepared(value: float, size: int = 10, *, fails: Exception | None = None) -> Waiting:
    """A request whose column is made on the instance's thread."""

    def prepare() -> dict[str, Column]:
        if fails is not None:
            raise fails
        return {"x": np.array([[value]], np.float32)}

    request = waiting(value)
    request.columns = Unprepared(prepare, size)
    return request


@pytest.fixture
def as_many_cores_as_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onward.runners.serve.lane.cores", lambda: 1)


@pytest.mark.usefixtures("as_many_cores_as_instances")
async def test_who_cannot_be_prepared_on_the_instance_takes_nobody_of_the_batch_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lane, _ = lane_of(ScalePipeline(), inline=False)
    wrong = CorruptMedia(where="image", expected="a JPEG", found="text")
    requests = [
        unprepared(1.0),
        unprepared(2.0, fails=wrong),
        unprepared(3.0, fails=RuntimeError("a bug")),
        waiting(4.0),
    ]
    found = await asyncio.gather(*(answer(lane, request) for request in requests), return_exceptions=True)
    assert [found[0]["y"].tolist(), found[3]["y"].tolist()] == [[[2.0]], [[8.0]]]  # type: ignore[index, call-overload]
    assert found[1] is wrong
    assert isinstance(found[2], ExecutionError)
    alone = await asyncio.gather(answer(lane, unprepared(2.0, fails=wrong)), return_exceptions=True)
    assert alone == [wrong]
    await lane.drain()


@pytest.mark.usefixtures("as_many_cores_as_instances")
async def test_what_waits_unprepared_is_bounded_by_its_bytes_and_gives_them_back() -> None:
    lane, _ = lane_of(ScalePipeline(delay_s=0.05), inline=False)
    running = asyncio.create_task(ask(lane, 1.0))
    await asyncio.sleep(0.02)
    half = (256 << 20) // 2
    queued = [asyncio.create_task(answer(lane, unprepared(2.0, half))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await answer(lane, unprepared(3.0, half))
    queued[0].cancel()
    await asyncio.gather(queued[0], return_exceptions=True)
    queued.append(
        asyncio.create_task(
            answer(
                lane,
                unprepared(
                    3.0,
                    half,
                ),
            )
        )
    )
    late = asyncio.create_task(answer(lane, late_one := unprepared(4.0, 1)))
    late_one.deadline_s = 0.0
    await asyncio.gather(running, *queued[1:], late, return_exceptions=True)
    assert (await asyncio.gather(*(answer(lane, unprepared(5.0, half)) for _ in range(2))))[1]["y"].tolist() == [[10.0]]
    await lane.drain()


async def test_requests_are_prepared_beside_instances_that_leave_cores_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onward.runners.serve.lane.cores", lambda: 4)
    assert not lane_of(ScalePipeline(instances=3), inline=False)[0].prepares
    assert lane_of(ScalePipeline(instances=4), inline=False)[0].prepares
    assert not lane_of(ScalePipeline(instances=4), inline=True)[0].prepares


async def test_time_spent_for_those_who_left_meanwhile_is_counted_and_what_waits_is_not_run() -> None:
    pipeline = ScalePipeline(delay_s=0.2)
    lane, metrics = lane_of(pipeline, inline=False)
    tasks = [asyncio.create_task(ask(lane, float(number))) for number in range(2)]
    await asyncio.sleep(0.05)
    tasks += [asyncio.create_task(ask(lane, float(number))) for number in range(20)]
    await asyncio.sleep(0.05)
    for task in tasks[1:]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await lane.drain()
    assert pipeline.backend.rows == 2 and metrics.shed == {"cancelled": 20}
    assert 0.08 < metrics.wasted_s < 0.15, "half of a batch of two"


@both
async def test_rows_that_only_fill_up_are_counted_apart(inline: bool) -> None:
    lane, metrics = lane_of(ScalePipeline(), inline=inline)
    lane.scheduler.row_buckets = (4, 8)
    await asyncio.gather(*(ask(lane, 1.0) for _ in range(5)), ask(lane, *([1.0] * 6)))
    assert metrics.elements == 11 and metrics.padding == 5
    await lane.drain()


async def test_positions_that_only_fill_shorter_rows_up_are_counted(tmp_path: Path) -> None:
    with Pipeline.open(padded_package(tmp_path / "padded")) as pipeline:
        metrics = ModelMetrics("padded", "1.0.0")
        lane = Lane(pipeline, metrics, inline=False)

        def row(*lengths: int) -> Waiting:
            ids = np.zeros((len(lengths), max(lengths)), np.int64)
            for place, length in enumerate(lengths):
                ids[place, :length] = 1
            return Waiting({"ids": ids}, ("total",), len(lengths), max(lengths), None, time.monotonic() + 30)

        found = await asyncio.gather(*(answer(lane, row(length)) for length in (5, 3, 8)))
        assert [one["total"].tolist() for one in found] == [[5], [3], [8]]
        assert (metrics.elements, metrics.padding) == (16, 8)
        await answer(lane, row(2, 6))
        assert (metrics.elements, metrics.padding) == (16 + 8, 8 + 4)
        await lane.drain()
