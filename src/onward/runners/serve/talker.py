"""A served version that people talk with: a message becomes a recorded decision and a reply.

Waiting for what the reply depends on (the commit, the actions' first steps) is done on threads. Knows exchanges and
conversations; not the model, the rules or the store. Lives on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import msgspec

from onward.act.desk import Ruling
from onward.decide.policy import Profile
from onward.dialogue.conversations import Conversations, Message, Told, told_json
from onward.dialogue.dialogue import Dialogue
from onward.errors import InputError, OnwardError, WrongDatatype
from onward.pipeline import Pipeline
from onward.runners.serve.caller import Caller, caller_of
from onward.runners.serve.decider import REPEATED
from onward.runners.serve.exchange import Exchange
from onward.runners.serve.plain import Call
from onward.runners.serve.traces import TRACES
from onward.telemetry import DecisionMetrics, ModelMetrics

CONVERSATION = "conversation"
"""The part of a message that is no input of the model: which conversation it belongs to."""
_encode = msgspec.json.Encoder().encode


class Said(NamedTuple):
    """A reply as JSON can hold it, its decision's outcome, and whether it was said before, under the same key."""

    body: dict[str, Any]
    outcome: str
    repeated: bool


class Talks(Protocol):
    """What conversations need of the server: `onward.runners.serve.decisions.Decisions`."""

    @property
    def talking(self) -> Executor:
        """Threads that may wait."""
        ...

    def conversations(self, dialogue: Dialogue, ruling: Ruling) -> Conversations:
        """The conversations with a package. Raises `StoreUnavailable`."""
        ...


class Talker:
    """The dialogue of one served version, as requests meet it."""

    def __init__(
        self, pipeline: Pipeline, dialogue: Dialogue, ruling: Ruling, talks: Talks, models: ModelMetrics,
        metrics: DecisionMetrics,
    ) -> None:  # fmt: skip
        self.model_metrics = models
        self.metrics = metrics
        self.profile: Callable[[Mapping[str, Any]], Profile] = pipeline.profile
        self.named = {"package": ruling.package.name, "version": ruling.package.version}
        self._customer = pipeline.manifest.profile.entity if pipeline.manifest.profile else "customer"
        self._dialogue = dialogue
        self._ruling = ruling
        self._talks = talks
        self._conversations: Conversations | None = None

    def take(self, exchange: Exchange, call: Call) -> Call:
        """See `onward.runners.serve.decider.Decider`. Raises `InputError` for what is no message."""
        if call.many:
            raise InputError("a conversation goes one message at a time", expected="an object", found="a list")
        item = dict(call.items[0])
        conversation, text, customer = item.pop(CONVERSATION, None) or "", item.get("text"), item.get(self._customer)
        for name, value in ((CONVERSATION, conversation), ("text", text or ""), (self._customer, customer or "")):
            if not isinstance(value, str):
                raise WrongDatatype(where=name, expected="a text", found=type(value).__name__)
        caller: Caller = caller_of(exchange.headers)
        if isinstance(text, str):  # else preparing says what is missing
            item["text"] = self._dialogue.bounded(text)
        message = Message(
            text=text or "", customer=customer or "", conversation=conversation, tenant=caller.tenant,
            idempotency_key=caller.idempotency_key,
        )  # fmt: skip
        exchange.undecided = Heard(self, exchange, message, item)
        return replace(call, items=[item])

    def say(self, message: Message, answer: Mapping[str, Any] | None, profile: Profile, failure: str) -> Said:
        """The reply to a message; blocking."""
        if self._conversations is None:
            self._conversations = self._talks.conversations(self._dialogue, self._ruling)
        told: Told = self._conversations.say(message, answer, profile, failure=failure)
        body = told_json(self._dialogue, told) | self.named | ({"failure": failure} if failure else {})
        return Said(body=body, outcome=told.recorded.decision.outcome, repeated=told.recorded.repeated)

    def start(self, work: Callable[[], Said]) -> asyncio.Future[Said]:
        """Have it done on a thread that may wait."""
        return asyncio.get_running_loop().run_in_executor(self._talks.talking, work)


class Heard:
    """One message on its way to its reply; see `onward.runners.serve.exchange.Undecided`."""

    __slots__ = ("_exchange", "_item", "_message", "_talker", "profiles")

    def __init__(self, talker: Talker, exchange: Exchange, message: Message, item: Mapping[str, Any]) -> None:
        self._talker = talker
        self._exchange = exchange
        self._message = message
        self._item = item
        self.profiles: Sequence[Profile] = ()

    def decide(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """See `Undecided`."""
        if self._exchange.disconnected:
            return
        self._exchange.undecided = None
        self._say(answers[0], "")

    def fall_back(self, error: OnwardError) -> None:
        """See `Undecided`."""
        self._say(None, error.code)

    def _say(self, answer: Mapping[str, Any] | None, failure: str) -> None:
        talker, message = self._talker, self._message
        profile = self.profiles[0] if self.profiles else talker.profile(self._item)
        begun_s = time.monotonic()
        talker.start(lambda: talker.say(message, answer, profile, failure)).add_done_callback(
            lambda future: self._said(future, failure, begun_s)
        )

    def _said(self, future: asyncio.Future[Said], failure: str, begun_s: float) -> None:
        talker, exchange = self._talker, self._exchange
        try:
            said = future.result()
        except OnwardError as error:
            talker.model_metrics.fail(error.code)
            exchange.fail(error)
            return
        except Exception as error:  # a fault of ours; nobody else would answer
            talker.model_metrics.fail(OnwardError.code)
            exchange.crash(error)
            return
        if not said.repeated:
            talker.metrics.count(said.outcome, failure)
        ids = (said.body["decision"]["decision_id"],)
        TRACES.decided(
            exchange.request_id, self._message.tenant, ids, time.monotonic() - begun_s, repeated=said.repeated
        )
        body = _encode(said.body | {"request_id": exchange.request_id.decode()})
        exchange.respond(body, headers=REPEATED if said.repeated else None)
        talker.model_metrics.request_s.observe(time.monotonic() - exchange.arrived_s)
