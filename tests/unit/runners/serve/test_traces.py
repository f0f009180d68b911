"""Traces say where a request's time went and with whom it ran, and their memory does not grow."""

from __future__ import annotations

import asyncio
import time

import pytest

from onward.errors import NotFound
from onward.execute.scheduler import Batch
from onward.runners.serve.explanation import explanation
from onward.runners.serve.request import Outputs, Request
from onward.runners.serve.traces import Source, Traces
from onward.types import PackageId

PACKAGE = PackageId(name="scale", version="1.0.0", digest="d" * 64)
SOURCE = Source(package=PACKAGE)


def request(request_id: str, *, at_s: float = 0.0, rows: int = 1, length: int = 0) -> Request:
    made = Request({}, (), rows, length, None, 100.0)
    made.request_id, made.arrived_s, made.queued_s = request_id.encode(), at_s, at_s + 0.001
    return made


def run(traces: Traces, *works: Request, source: Source = SOURCE, bucket: int = 0) -> None:
    """A batch that begins at 0.01 s, takes 0.02 s (a quarter of it preparing), and is answered 1 ms apart."""
    rows = sum(work.rows for work in works)
    outputs = Outputs((), [])
    outputs.prepare_s = 0.005
    answered_s = [0.031 + place * 0.001 for place in range(len(works))]
    traces.ran(source, Batch(list(works), rows, bucket or rows, 0.01), 0.02, outputs, works, answered_s)


def test_where_the_time_went_adds_up_to_all_of_it() -> None:
    traces = Traces()
    run(traces, request("a"), request("b", at_s=0.002, rows=3), bucket=8)
    trace = traces.find("b")
    assert trace is not None
    assert trace.told["times_ms"] == {"prepare": 6.0, "queue": 7.0, "run": 15.0, "answer": 2.0, "total": 30.0}
    assert trace.told["batch"] == {
        "requests": 2, "mates": 1, "rows": 4, "own_rows": 3, "first_row": 1, "mode": "throughput", "bucket": 8,
        "padding_rows": 4,
    }  # fmt: skip
    assert (trace.told["outcome"], trace.told["package"], trace.told["digest"]) == ("answered", "scale", "d" * 64)


def test_lengths_tell_how_much_was_filling() -> None:
    traces = Traces()
    run(traces, request("a", length=10), request("b", length=20))
    trace = traces.find("a")
    assert trace is not None
    told = trace.told["batch"]
    assert (told["length"], told["padded_length"], told["length_bucket"], told["padding_share"]) == (10, 20, 24, 0.25)


def test_invariant_shapes_are_what_the_rows_were_filled_up_to() -> None:
    invariance = pytest.importorskip("onward.execute.invariance")
    traces = Traces()
    source = Source(package=PACKAGE, shapes=invariance.Shapes(rows={0: (1, 4)}))
    run(traces, *(request(str(number)) for number in range(7)), source=source)
    trace = traces.find("3")
    assert trace is not None
    told = trace.told["batch"]
    assert (told["mode"], told["bucket"] - told["padding_rows"]) == ("invariant", 7)
    assert told["passes"] == len(list(invariance.passes(7, (1, 4))))


def test_a_refusal_and_a_decision_are_found_with_what_led_to_them() -> None:
    traces = Traces()
    traces.refused(b"late", 0.0, "MALFORMED_BODY", "body: no")
    refused = traces.find("late")
    assert refused is not None
    assert (refused.told["outcome"], refused.told["error"], refused.tenant) == ("MALFORMED_BODY", "body: no", "")
    run(traces, request("a"))
    traces.decided(b"a", "acme", ("d1", "d2"), 0.004, repeated=False)
    decided = traces.find("a")
    assert decided is not None and (decided.tenant, decided.decision_ids) == ("acme", ("d1", "d2"))
    assert decided.told["times_ms"]["decide"] == 4.0
    traces.decided(b"alone", "acme", ("d3",), 0.004, repeated=True)
    alone = traces.find("alone")
    assert alone is not None and (alone.told["outcome"], alone.told["repeated"]) == ("answered", True)


def test_the_oldest_go_first_and_no_more_are_kept_than_so_many() -> None:
    traces = Traces(most_requests=100)
    for number in range(1000):
        run(traces, *(request(f"{number}-{place}") for place in range(7 if number % 2 else 1)))
        traces.refused(b"r%d" % number, 0.0, "X", "")
    assert 90 < traces.held <= 100
    assert traces.find("999-6") and traces.find("998-0") and traces.find("980-0")
    assert not traces.find("970-0") and not traces.find("r1")


async def test_who_is_unknown_is_not_found_and_who_looks_does_not_stop_who_writes() -> None:
    traces = Traces()
    stop = False

    async def write() -> int:
        written = 0
        while not stop:
            run(traces, request(f"w-{written}"))
            written += 1
            await asyncio.sleep(0)
        return written

    writing = asyncio.create_task(write())
    for _ in range(20):
        with pytest.raises(NotFound):
            await explanation("nobody", None, traces)
    stop = True
    assert await writing >= 20


@pytest.mark.parametrize("rows", [1, 16])
def test_a_trace_costs_a_request_next_to_nothing(rows: int) -> None:
    traces = Traces()
    works = [request(str(number)) for number in range(rows)]
    batch, outputs, answered_s = Batch(list(works), rows, rows, 0.0), Outputs((), []), [0.0] * rows
    best_s = min(_took_s(traces, batch, outputs, works, answered_s) for _ in range(20))
    assert best_s / rows < 3e-6  # 0.9 µs alone, 0.3 µs in company; a busy machine is given some room


def _took_s(traces: Traces, batch: Batch, outputs: Outputs, works: list[Request], answered_s: list[float]) -> float:
    started_s = time.perf_counter()
    for _ in range(100):
        traces.ran(SOURCE, batch, 0.0, outputs, works, answered_s)
    return (time.perf_counter() - started_s) / 100
