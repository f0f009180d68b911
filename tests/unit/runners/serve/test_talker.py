"""The talker: what is a message, and that its reply, or what went wrong, is told once and from the loop."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from onward.act.desk import Recorded, Ruling
from onward.decide.policy import Facts
from onward.dialogue.conversations import Message, Told
from onward.dialogue.records import Reply, State
from onward.errors import DeadlineExceeded, InputError, OnwardError, WrongDatatype
from onward.runners.serve.exchange import Exchange, Headers, Route
from onward.runners.serve.plain import Call
from onward.runners.serve.talker import Talker
from onward.store.store import Conflict
from onward.telemetry import DecisionMetrics, ModelMetrics
from onward.types import Decision, PackageId

PACKAGE = PackageId(name="support", version="1.0.0", digest="d")


class Dialogue:
    """As much of a dialogue as the talker asks for."""

    def bounded(self, text: str) -> str:
        return text[:10]

    def article(self, name: str) -> dict[str, str]:
        return {"title": name}


class Conversations:
    """Answers every message with what was asked; counts the threads that do."""

    def __init__(self) -> None:
        self.heard: list[tuple[Message, Any, Mapping[str, Any], str]] = []
        self.threads: set[int] = set()
        self.fails: Exception | None = None
        self.repeated = False

    def say(self, message: Message, answer: Any, profile: Mapping[str, Any], *, failure: str = "") -> Told:
        self.threads.add(threading.get_ident())
        self.heard.append((message, answer, profile, failure))
        if self.fails is not None:
            raise self.fails
        facts = Facts(answer=answer, input={}, now_s=0.0, failure=failure)
        recorded = Recorded(
            decision_id="d1", sequence=1, facts=facts, decision=Decision(outcome="answer", rule="r"), actions=(),
            repeated=self.repeated,
        )  # fmt: skip
        reply = Reply(text=f"you said {message.text}", state=State())
        return Told(conversation=message.conversation or "c_new", reply=reply, recorded=recorded, actions=())


class Talks:
    def __init__(self) -> None:
        self.talking = ThreadPoolExecutor(max_workers=2)
        self.made = Conversations()

    def conversations(self, dialogue: Any, ruling: Ruling) -> Any:
        return self.made


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


@pytest.fixture
def talks() -> Iterator[Talks]:
    made = Talks()
    yield made
    made.talking.shutdown()


@pytest.fixture
def talker(talks: Talks) -> Talker:
    pipeline = SimpleNamespace(
        profile=lambda item: {"plan": "none"}, manifest=SimpleNamespace(profile=SimpleNamespace(entity="customer"))
    )
    ruling = Ruling(package=PACKAGE, rules=cast(Any, None))
    return Talker(cast(Any, pipeline), cast(Any, Dialogue()), ruling, cast(Any, talks), ModelMetrics("s", "1"),
                  DecisionMetrics("s", "1"))  # fmt: skip


def call(*items: Mapping[str, Any], many: bool = False) -> Call:
    return Call(items=items, many=many, outputs=())


async def answered(exchange: Asked) -> tuple[int, dict[str, Any], Headers]:
    for _ in range(400):
        if exchange.answers:
            return exchange.answers[0]
        await asyncio.sleep(0.005)
    raise AssertionError("no answer")


async def test_a_message_is_taken_apart_heard_on_a_thread_and_replied_to(talker: Talker, talks: Talks) -> None:
    exchange = Asked({b"x-onward-tenant": b"acme", b"idempotency-key": b"k"})
    item = {"text": "a very long message", "customer": "ann", "conversation": "c_1"}
    asks = talker.take(exchange, call(item))
    assert asks.items == [{"text": "a very lon", "customer": "ann"}]  # what the model is asked
    assert exchange.undecided is not None
    exchange.undecided.profiles = [{"plan": "premium"}]
    exchange.undecided.decide([{"label": "hello"}])
    status, told, headers = await answered(exchange)
    assert (status, told["reply"], told["conversation"], headers) == (200, "you said a very long message", "c_1", {})
    assert told["request_id"] == exchange.request_id.decode() and told["package"] == "support"
    ((message, answer, profile, failure),) = talks.made.heard
    assert (message.tenant, message.idempotency_key, message.customer) == ("acme", "k", "ann")
    assert (answer, profile, failure) == ({"label": "hello"}, {"plan": "premium"}, "")
    assert threading.get_ident() not in talks.made.threads
    assert talker.metrics.decisions == {("answer", ""): 1}


async def test_where_the_model_fails_there_is_a_reply_all_the_same(talker: Talker, talks: Talks) -> None:
    exchange = Asked()
    talker.take(exchange, call({"text": "hi"}))
    exchange.fail(DeadlineExceeded())
    _, told, _ = await answered(exchange)
    assert told["failure"] == "DEADLINE_EXCEEDED"
    assert talks.made.heard[0][1:] == (None, {"plan": "none"}, "DEADLINE_EXCEEDED")


async def test_a_repeat_says_so_and_is_not_counted(talker: Talker, talks: Talks) -> None:
    talks.made.repeated = True
    exchange = Asked()
    talker.take(exchange, call({"text": "hi"}))
    assert exchange.undecided is not None
    exchange.undecided.decide([{}])
    assert (await answered(exchange))[2] == {b"idempotent-replayed": b"true"} and not talker.metrics.decisions


@pytest.mark.parametrize(("error", "status"), [(Conflict(), 409), (OnwardError(), 500), (ValueError("a fault"), 500)])
async def test_what_goes_wrong_is_told_once(talker: Talker, talks: Talks, error: Exception, status: int) -> None:
    talks.made.fails = error
    exchange = Asked()
    talker.take(exchange, call({"text": "hi"}))
    assert exchange.undecided is not None
    exchange.undecided.decide([{}])
    assert (await answered(exchange))[0] == status
    assert len(talks.made.heard) == 1 and len(exchange.answers) == 1


def test_what_is_no_message_is_refused(talker: Talker) -> None:
    with pytest.raises(InputError):
        talker.take(Asked(), call({"text": "a"}, {"text": "b"}, many=True))
    for item in ({"text": 3}, {"text": "a", "conversation": 1}, {"text": "a", "customer": ["x"]}):
        with pytest.raises(WrongDatatype):
            talker.take(Asked(), call(item))


async def test_nothing_is_said_to_who_left(talker: Talker, talks: Talks) -> None:
    exchange = Asked()
    talker.take(exchange, call({"text": "hi"}))
    undecided = exchange.undecided
    assert undecided is not None
    exchange.abandon()
    undecided.decide([{}])
    await asyncio.sleep(0.02)
    assert not talks.made.heard
