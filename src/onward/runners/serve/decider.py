"""A served version's policy at work: an answer, or the model's failure, becomes a recorded decision, and only then is
the caller told.

Knows exchanges and what records decisions; not the rules, the store or where actions go. Lives on the event loop, and
never waits on it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol, TypeAlias

import msgspec

from onward.act.desk import Case, Recorded, Ruling
from onward.decide.plain import NotRecordable
from onward.decide.policy import Facts, Profile
from onward.errors import ExecutionError, OnwardError
from onward.generate.answer import readable_decision
from onward.pipeline import Pipeline
from onward.runners.serve.caller import Caller, caller_of
from onward.runners.serve.exchange import Exchange, Headers
from onward.runners.serve.plain import Call
from onward.runners.serve.traces import TRACES
from onward.telemetry import DecisionMetrics, ModelMetrics
from onward.types import Item

_encode = msgspec.json.Encoder().encode
REPEATED: Headers = {b"idempotent-replayed": b"true"}
"""Goes with an answer that was recorded before, under the same key."""

Answers: TypeAlias = Sequence[Mapping[str, Any] | None]
"""What the model said of each item, as JSON can hold it; None where it failed."""


class Recorder(Protocol):
    """Records decisions: `onward.runners.serve.decisions.Decisions`."""

    def record(
        self, ruling: Ruling, cases: Sequence[Case], caller: Caller, then: Callable[[Future[list[Recorded]]], None]
    ) -> None:
        """Decide the cases and write all that follows from them, or nothing; `then` is called on the loop."""
        ...


class Decider:
    """The policy of one served version, as requests meet it."""

    def __init__(
        self, pipeline: Pipeline, ruling: Ruling, recorder: Recorder, models: ModelMetrics, metrics: DecisionMetrics
    ) -> None:
        self.ruling = ruling
        self.recorder = recorder
        self.model_metrics = models
        self.metrics = metrics
        self._profile = pipeline.profile
        self._entity = pipeline.manifest.profile.entity if pipeline.manifest.profile else ""
        package = ruling.package
        self.tail = b',"package":%b,"version":%b,"request_id":"' % (_encode(package.name), _encode(package.version))

    def take(self, exchange: Exchange, call: Call) -> Call:
        """From here on the request is decided, even where the model fails. Returns what the model is to be asked.

        Raises `MalformedBody` for the request's headers.
        """
        exchange.undecided = Undecided(self, exchange, call, caller_of(exchange.headers))
        return call

    def case(
        self, item: Item, answer: Mapping[str, Any] | None, profile: Profile | None, now_s: float, failure: str
    ) -> Case:
        """The facts of one item: what was sent, what is known of its entity, and what the model made of it."""
        shown = answer and {name: _without_bytes(value) for name, value in answer.items()}
        facts = Facts(answer=shown, input=item, profile=self._profile(item, profile), now_s=now_s, failure=failure)
        entity = item.get(self._entity) if self._entity else None
        return Case(facts=facts, entity="" if entity is None else str(entity))


class Undecided:
    """One request on its way to its decision."""

    __slots__ = ("_answers", "_call", "_caller", "_decider", "_exchange", "_now_s", "_submitted_s", "profiles")

    def __init__(self, decider: Decider, exchange: Exchange, call: Call, caller: Caller) -> None:
        self._decider = decider
        self._exchange = exchange
        self._call = call
        self._caller = caller
        self._now_s = time.time()
        self._answers: Answers = ()
        self._submitted_s = 0.0
        self.profiles: Sequence[Profile] = ()

    def decide(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """See `onward.runners.serve.exchange.Undecided`."""
        if self._exchange.disconnected:
            return  # nothing is decided for nobody: who left without an answer can ask again
        self._exchange.undecided = None
        self._record(answers, "")

    def fall_back(self, error: OnwardError) -> None:
        """See `onward.runners.serve.exchange.Undecided`."""
        self._record([None] * len(self._call.items), error.code)

    def _record(self, answers: Answers, failure: str) -> None:
        decider, call = self._decider, self._call
        self._answers = answers
        profiles: Sequence[Profile | None] = self.profiles or [None] * len(answers)
        cases = [
            decider.case(item, answer, profile, self._now_s, failure)
            for item, answer, profile in zip(call.items, answers, profiles, strict=True)
        ]
        self._submitted_s = time.monotonic()
        decider.recorder.record(decider.ruling, cases, self._caller, self._recorded)

    def _recorded(self, future: Future[list[Recorded]]) -> None:
        """The decisions are durable, or there are none."""
        decider, exchange = self._decider, self._exchange
        try:
            recorded = future.result()
        except NotRecordable as error:
            if error.where.startswith("result") and self._answers[0] is not None:
                # A number that is not finite, for one: no comparison with it means anything, so it is no answer.
                decider.model_metrics.fail(ExecutionError.code)
                self.fall_back(ExecutionError())
                return
            decider.model_metrics.fail(error.code)
            exchange.fail(error)
            return
        except OnwardError as error:
            decider.model_metrics.fail(error.code)
            exchange.fail(error)
            return
        except Exception as error:  # a fault of ours; nobody else would answer
            decider.model_metrics.fail(OnwardError.code)
            exchange.crash(error)
            return
        repeated = recorded[0].repeated
        for one in () if repeated else recorded:
            decider.metrics.count(one.decision.outcome, one.facts.failure)
        commit_s = time.monotonic() - self._submitted_s
        decider.metrics.commit_s.observe(commit_s)
        ids = tuple(one.decision_id for one in recorded)
        TRACES.decided(exchange.request_id, self._caller.tenant, ids, commit_s, repeated=repeated)
        exchange.respond(self._body(recorded, repeated), headers=REPEATED if repeated else None)
        decider.model_metrics.request_s.observe(time.monotonic() - exchange.arrived_s)

    def _body(self, recorded: Sequence[Recorded], repeated: bool) -> bytes:
        answers = [one.facts.answer for one in recorded] if repeated else self._answers
        decisions = [readable_record(one) for one in recorded]
        if self._call.many:
            body = b'{"answers":%b,"decisions":%b' % (_encode(answers), _encode(decisions))
        else:
            body = b'{"answer":%b,"decision":%b' % (_encode(answers[0]), _encode(decisions[0]))
        failure = next((one.facts.failure for one in recorded if one.facts.failure), "")
        if failure:
            body += b',"failure":%b' % _encode(failure)
        return b"".join([body, self._decider.tail, self._exchange.request_id, b'"}'])


def readable_record(recorded: Recorded) -> dict[str, Any]:
    """A recorded decision as JSON can hold it."""
    actions = [{"action_id": one.action_id, "name": one.name, "state": one.state} for one in recorded.actions]
    return {**readable_decision(recorded.decision), "decision_id": recorded.decision_id, "actions": actions}


def _without_bytes(value: Any) -> Any:
    """A part of an answer as the facts have it: of a picture or a clip, no more than its kind and digest."""
    if isinstance(value, dict) and value.keys() == {"media_type", "base64"}:
        return {"media_type": value["media_type"], "sha256": hashlib.sha256(value["base64"].encode()).hexdigest()}
    return value
