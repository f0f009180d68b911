"""Messages as a whole: understood, decided, written down and answered, with the real policy, desk and store."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from onward.act.desk import Desk, Ruling
from onward.act.targets import Targets
from onward.decide.rules import load_policy
from onward.dialogue import State
from onward.dialogue.conversations import ASSISTANT, CUSTOMER, Conversations, Message, told_json
from onward.errors import InputError, NotFound
from onward.package.manifest import load_manifest
from onward.store.keys import Keys
from onward.store.memory import MemoryStore
from onward.store.records import Turn
from onward.store.store import Conflict
from onward.store.writer import Writer
from onward.types import PackageId
from tests.unit.dialogue.talking import PROFILE, SUPPORT, answer, support, write_folder

CANCEL, YES = answer("cancel_subscription"), answer("confirm_yes")


class Place:
    """Conversations over a store in memory; no action is allowed, so each is denied."""

    def __init__(self, folder: Path) -> None:
        write_folder(folder)
        (folder / "policy.toml").write_text((SUPPORT / "policy.toml").read_text(encoding="utf-8"), encoding="utf-8")
        rules = load_policy(folder, load_manifest(folder))
        assert rules is not None
        self.store = MemoryStore()
        self.writer = Writer(self.store)
        keys = Keys(secrets.token_bytes(32))
        ruling = Ruling(
            package=PackageId(name="support", version="1", digest="0" * 64), rules=rules,
            fields=frozenset({"text", "customer"}),
        )  # fmt: skip
        desk = Desk(self.writer, keys, Targets.none())
        self.talks = Conversations(support(), ruling, desk, self.store, self.writer, keys=keys, wait_s=0.0)

    def turns(self, conversation: str) -> list[Turn]:
        with self.store.snapshot() as reader:
            return reader.turns("default", conversation)

    def decisions(self) -> int:
        with self.store.snapshot() as reader:
            return sum(entry.draft.kind == "decision" for entry in reader.audit_entries())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path)
    yield opened
    opened.writer.close()


def message(text: str, **more: str) -> Message:
    return Message(text=text, **{"customer": "c-1", "conversation": "talk", **more})  # type: ignore[arg-type]


def test_a_message_and_its_reply_are_two_turns_and_one_decision(place: Place) -> None:
    told = place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    assert told.recorded.decision.outcome == "ask"
    turns = place.turns("talk")
    assert [(turn.index, turn.role) for turn in turns] == [(0, CUSTOMER), (1, ASSISTANT)]
    assert place.decisions() == 1
    assert support().state_of(turns[1].content).awaiting == "confirm"


def test_the_next_message_goes_on_where_the_store_says(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    told = place.talks.say(message("yes"), YES, PROFILE)
    assert told.recorded.decision.outcome == "cancel"
    assert [action.state for action in told.actions] == ["denied"]
    body = told_json(support(), told)
    assert msgspec.json.decode(msgspec.json.encode(body)) == body
    assert "did not work" in body["reply"]


def test_without_an_id_a_conversation_begins(place: Place) -> None:
    first = place.talks.say(message("hi", conversation=""), answer("greet"), PROFILE)
    second = place.talks.say(message("hi", conversation=""), answer("greet"), PROFILE)
    assert first.conversation != second.conversation and first.conversation.startswith("c_")


@pytest.mark.parametrize("conversation", ["a b", "../x", "x" * 65, "é"])
def test_what_is_no_id_is_refused(place: Place, conversation: str) -> None:
    with pytest.raises(InputError):
        place.talks.say(message("hi", conversation=conversation), answer("greet"), PROFILE)
    assert place.decisions() == 0


def test_nobody_goes_on_with_somebody_elses_conversation(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    for customer in ("c-2", ""):
        with pytest.raises(NotFound):
            place.talks.say(message("yes", customer=customer), YES, PROFILE)
    assert place.decisions() == 1
    # Another tenant's conversation of the same id is another conversation.
    told = place.talks.say(message("yes", tenant="other"), YES, PROFILE)
    assert told.recorded.decision.outcome != "cancel"


def test_a_repeated_request_gets_the_same_reply_and_nothing_happens_again(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    first = place.talks.say(message("yes", idempotency_key="k"), YES, PROFILE)
    again = place.talks.say(message("yes", idempotency_key="k"), YES, PROFILE)
    assert again.recorded.repeated and again.reply.text == first.reply.text
    assert again.recorded.decision_id == first.recorded.decision_id
    assert len(place.turns("talk")) == 4 and place.decisions() == 2


@pytest.mark.parametrize("customer", ["c-1", ""])
def test_a_repeated_first_message_gets_the_conversation_that_it_began(place: Place, customer: str) -> None:
    said = {"customer": customer, "conversation": "", "idempotency_key": "k"}
    first = place.talks.say(message("cancel my subscription", **said), CANCEL, PROFILE)
    again = place.talks.say(message("cancel my subscription", **said), CANCEL, PROFILE)
    assert again.recorded.repeated and again.reply.text == first.reply.text
    assert again.conversation == first.conversation
    other = place.talks.say(message("hi", conversation="", idempotency_key="other"), answer("greet"), PROFILE)
    assert other.conversation != first.conversation


def test_without_the_models_answer_nothing_is_done_and_the_dialogue_stays(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    told = place.talks.say(message("yes"), None, PROFILE, failure="DEADLINE_EXCEEDED")
    assert told.recorded.decision.reasons == ("MODEL_UNAVAILABLE",) and told.actions == ()
    assert "try again" in told.reply.text
    assert place.talks.say(message("yes"), YES, PROFILE).recorded.decision.outcome == "cancel"


def test_messages_of_one_conversation_take_turns(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: place.talks.say(message("hello"), answer("greet"), PROFILE), range(24)))
    assert len(told) == 24
    turns = place.turns("talk")
    assert [turn.index for turn in turns] == list(range(48))
    assert [turn.role for turn in turns] == [CUSTOMER, ASSISTANT] * 24
    assert support().state_of(turns[-1].content).turns == 24
    assert place.talks._talking == {}


def test_one_yes_said_by_two_at_once_cancels_once(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    barrier = threading.Barrier(2)

    def yes(_: int) -> str:
        barrier.wait()
        return place.talks.say(message("yes"), YES, PROFILE).recorded.decision.outcome

    with ThreadPoolExecutor(2) as pool:
        # The first is denied its action and offers a person; the second yes is to that.
        assert sorted(pool.map(yes, range(2))) == ["cancel", "route:human"]


def test_where_another_process_has_gone_on_nothing_is_decided(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    stale = (support().state_of(place.turns("talk")[-1].content), 2)
    place.talks.say(message("no"), answer("decline_no"), PROFILE)
    monkeypatch.setattr(place.talks, "_where", lambda message: stale)
    with pytest.raises(Conflict):
        place.talks.say(message("yes"), YES, PROFILE)
    assert place.decisions() == 2 and len(place.turns("talk")) == 4


def test_an_erased_customer_leaves_no_conversation(place: Place) -> None:
    place.talks.say(message("cancel my subscription"), CANCEL, PROFILE)
    with place.store.transaction() as tx:
        assert tx.erase_entity("default", "c-1", 1.0).conversations == 1
    assert place.turns("talk") == []
    told = place.talks.say(message("yes"), YES, PROFILE)
    assert told.recorded.decision.outcome != "cancel"


def test_what_the_policy_is_told_is_what_the_dialogue_understood(place: Place) -> None:
    told = place.talks.say(message("x" * 100_000), answer(), PROFILE)
    facts: dict[str, Any] = dict(told.recorded.facts.input)
    assert facts.keys() == {"text", "customer", *support().definition.facts}
    assert len(facts["text"]) == 2000 and facts["customer"] == "c-1"


def test_a_fresh_state_is_small() -> None:
    assert len(msgspec.json.encode(State())) < 200
