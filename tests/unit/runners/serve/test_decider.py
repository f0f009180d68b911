"""The decider: who asks, what counts as an answer, and that a request is decided exactly once or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from onward.act.desk import Case, Recorded, Ruling
from onward.decide.plain import NotRecordable
from onward.errors import DeadlineExceeded, ExecutionError, MalformedBody, OnwardError, Overloaded, TooLarge
from onward.pipeline import Pipeline
from onward.runners.serve.decider import Caller, Decider, caller_of
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.plain import Call
from onward.store.store import StoreUnavailable
from onward.telemetry import DecisionMetrics, ModelMetrics
from onward.testing import tiny_package
from onward.types import Decision

POLICY = """format = 1
[policy]
name = "tiny"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
"""


class Recorder:
    """Keeps what it was asked; `finish` says that it is durable."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[Case], Caller, Callable[[Future[list[Recorded]]], None]]] = []

    def record(
        self, ruling: Ruling, cases: Sequence[Case], caller: Caller, then: Callable[[Future[list[Recorded]]], None]
    ) -> None:
        self.asked.append((cases, caller, then))

    def finish(self, error: OnwardError | None = None, *, repeated: bool = False) -> None:
        cases, _, then = self.asked[-1]
        future: Future[list[Recorded]] = Future()
        if error is not None:
            future.set_exception(error)
        else:
            decision = Decision(outcome="approve", rule="default")
            future.set_result(
                [Recorded(decision_id=f"d{n}", sequence=n + 1, facts=case.facts, decision=decision, actions=(),
                          repeated=repeated) for n, case in enumerate(cases)]
            )  # fmt: skip
        then(future)


class Asked(Exchange):
    """An exchange without a connection."""

    __slots__ = ("answers",)

    def __init__(self, headers: Headers | None = None) -> None:
        super().__init__(cast(Any, None), Route(lambda exchange: None, max_body_bytes=1), headers or {}, b"", True)
        self.answers: list[tuple[int, dict[str, Any], Headers]] = []
        self.arrived_s = time.monotonic()

    def respond(self, body: bytes, content_type: bytes = b"application/json", *, status: int = 200,
                headers: Headers | None = None) -> None:  # fmt: skip
        self.response_complete = True
        self.answers.append((status, json.loads(body), headers or {}))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tiny_package(tmp_path_factory.mktemp("tiny") / "tiny", lock=False)
    (folder / "policy.toml").write_text(POLICY, "utf-8")
    from onward.package.assembly import assemble

    assemble(folder)
    return Pipeline.open(folder)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def decider(pipeline: Pipeline, recorder: Recorder) -> Decider:
    ruling = Ruling(package=pipeline.package.id, rules=cast(Any, pipeline.policy), fields=frozenset({"x"}))
    return Decider(pipeline, ruling, recorder, ModelMetrics("tiny", "1.0.0"), DecisionMetrics("tiny", "1.0.0"))


ITEM = {"x": [1.0, 2.0, 3.0]}


def taken(decider: Decider, *, many: bool = False, headers: Headers | None = None) -> Asked:
    exchange = Asked(headers)
    decider.take(exchange, Call(items=[ITEM, ITEM] if many else [ITEM], many=many, outputs=()))
    return exchange


def test_nobody_is_told_before_the_decision_is_durable(decider: Decider, recorder: Recorder) -> None:
    exchange = taken(decider, headers={b"x-onward-tenant": b"acme", b"idempotency-key": b"k"})
    assert exchange.undecided is not None
    exchange.undecided.decide([{"y": [3.0]}])
    assert not exchange.answers and recorder.asked[0][1] == Caller("acme", "k")
    recorder.finish()
    ((status, told, headers),) = exchange.answers
    assert (status, headers) == (200, {})
    assert told == {
        "answer": {"y": [3.0]},
        "decision": {"outcome": "approve", "rule": "default", "reasons": [], "arguments": {}, "decision_id": "d0",
                     "actions": []},
        "package": "tiny", "version": "1.0.0", "request_id": exchange.request_id.decode(),
    }  # fmt: skip
    assert decider.metrics.decisions == {("approve", ""): 1}


def test_a_list_gets_a_list_and_a_repeat_says_so(decider: Decider, recorder: Recorder) -> None:
    exchange = taken(decider, many=True)
    assert exchange.undecided is not None
    exchange.undecided.decide([{"y": [3.0]}, {"y": [5.0]}])
    recorder.finish(repeated=True)
    ((_, told, headers),) = exchange.answers
    assert [one["y"] for one in told["answers"]] == [[3.0], [5.0]] and len(told["decisions"]) == 2
    assert headers == {b"idempotent-replayed": b"true"} and not decider.metrics.decisions


@pytest.mark.parametrize("error", [ExecutionError(), DeadlineExceeded(), OnwardError()])
def test_a_failure_that_is_not_the_callers_is_decided_without_an_answer(
    decider: Decider, recorder: Recorder, error: OnwardError
) -> None:
    exchange = taken(decider)
    exchange.fail(error)
    assert not exchange.answers
    ((cases, _, _),) = recorder.asked
    assert cases[0].facts.answer is None and cases[0].facts.failure == error.code
    recorder.finish()
    ((status, told, _),) = exchange.answers
    assert status == 200 and told["answer"] is None and told["failure"] == error.code
    assert decider.metrics.decisions == {("approve", error.code): 1}


@pytest.mark.parametrize("error", [MalformedBody(), TooLarge(), Overloaded()])
def test_a_failure_of_the_callers_is_an_error_and_no_decision(
    decider: Decider, recorder: Recorder, error: OnwardError
) -> None:
    exchange = taken(decider)
    exchange.fail(error)
    assert [answer[0] for answer in exchange.answers] == [error.status] and not recorder.asked


def test_a_decision_that_cannot_be_recorded_is_an_error_and_not_tried_again(
    decider: Decider, recorder: Recorder
) -> None:
    for fails in (False, True):
        exchange = taken(decider)
        assert exchange.undecided is not None
        if fails:
            exchange.fail(ExecutionError())
        else:
            exchange.undecided.decide([{"y": [3.0]}])
        recorder.finish(StoreUnavailable())
        ((status, told, _),) = exchange.answers
        assert (status, told["code"]) == (503, "STORE_UNAVAILABLE")
    assert len(recorder.asked) == 2 and not decider.metrics.decisions


def test_an_answer_that_cannot_be_recorded_is_none(decider: Decider, recorder: Recorder) -> None:
    exchange = taken(decider)
    assert exchange.undecided is not None
    exchange.undecided.decide([{"y": [1.0, float("nan")]}])
    recorder.finish(NotRecordable(where="result.y", found="nan"))
    assert not exchange.answers and recorder.asked[1][0][0].facts.failure == "EXECUTION_FAILED"
    recorder.finish()
    assert exchange.answers[0][0] == 200 and exchange.answers[0][1]["answer"] is None


def test_an_input_that_cannot_be_recorded_is_an_error(decider: Decider, recorder: Recorder) -> None:
    exchange = taken(decider)
    assert exchange.undecided is not None
    exchange.undecided.decide([{"y": [1.0]}])
    recorder.finish(NotRecordable(where="input.x", found="nan"))
    assert [answer[0] for answer in exchange.answers] == [400] and len(recorder.asked) == 1


def test_nothing_is_decided_for_a_client_that_left(decider: Decider, recorder: Recorder) -> None:
    for fails in (False, True):
        exchange = taken(decider)
        undecided = exchange.undecided
        assert undecided is not None
        exchange.abandon()
        if fails:
            exchange.fail(ExecutionError())
        else:
            undecided.decide([{"y": [3.0]}])
    assert not recorder.asked


def test_of_a_picture_in_an_answer_only_kind_and_digest_are_facts(decider: Decider, recorder: Recorder) -> None:
    exchange = taken(decider)
    assert exchange.undecided is not None
    picture = {"media_type": "image/png", "base64": "AAAA"}
    exchange.undecided.decide([{"y": picture}])
    shown = recorder.asked[0][0][0].facts.answer
    assert shown is not None and shown["y"].keys() == {"media_type", "sha256"}
    recorder.finish()
    assert exchange.answers[0][1]["answer"]["y"] == picture


@pytest.mark.parametrize(
    ("headers", "caller"),
    [({}, Caller("default", "")), ({b"x-onward-tenant": b"a.b-c_1"}, Caller("a.b-c_1", "")),
     ({b"idempotency-key": b'"8e03-\\1"'}, Caller("default", '"8e03-\\1"'))],
)  # fmt: skip
def test_headers_say_who_asks(headers: Headers, caller: Caller) -> None:
    assert caller_of(headers) == caller


@pytest.mark.parametrize(
    "headers",
    [{b"x-onward-tenant": bad} for bad in (b"", b"-a", b"a/b", b"\xc3\xa9", b"a" * 65, b"a\n")]
    + [{b"idempotency-key": bad} for bad in (b"", b"a b", b"\x7f", b"\xff", b"k" * 256, b"k\n")],
)
def test_headers_that_are_not_valid_are_refused(headers: Headers) -> None:
    with pytest.raises(MalformedBody):
        caller_of(headers)
