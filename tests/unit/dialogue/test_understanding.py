"""Messages in their dialogue: slots, confirmation, correction, change of mind, questions in between, persons."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.dialogue import ActionStatus, State
from onward.types import ActionCall, Decision
from tests.unit.dialogue.talking import NOW_S, PROFILE, Talk, answer, decide, support

MOST_STATE_BYTES = 8192


def test_a_request_is_confirmed_before_it_is_made() -> None:
    talk = Talk()
    talk.say("cancel my subscription", "cancel_subscription")
    assert (talk.step, talk.state.awaiting) == ("confirm", "confirm")
    talk.say("yes", "confirm_yes")
    assert talk.understood is not None
    assert talk.step == "act" and talk.understood.facts["confirmed"] is True


@pytest.mark.parametrize("text", ["no", "nope", "no thanks", "never mind", "don't cancel", "yes, no wait", "forget it"])
def test_what_is_not_wanted_after_all_is_not_made(text: str) -> None:
    talk = Talk()
    talk.say("cancel my subscription", "cancel_subscription")
    talk.say(text)
    assert talk.step == "abort" and talk.state.wish is None


@pytest.mark.parametrize("text", ["yesterday", "cancel my subscription", "yeast", "ok?? what", "hm", "not sure"])
def test_what_is_no_clear_yes_is_none(text: str) -> None:
    talk = Talk()
    talk.say("cancel my subscription", "cancel_subscription")
    talk.say(text, "cancel_subscription" if "cancel" in text else "out_of_scope")
    if text != "ok?? what":  # begins with ok: a yes
        assert talk.step != "act"


def test_a_missing_detail_is_asked_for_and_taken() -> None:
    talk = Talk()
    reply = talk.say("refund please", "request_refund")
    assert talk.state.awaiting == "slot:order" and "HR-20148" in reply.text
    talk.say("20117")
    assert talk.state.awaiting == "confirm"
    assert talk.state.wish is not None and talk.state.wish.slots == {"order": "HR-20117", "amount": 30.0}


def test_the_other_one_takes_its_own_amount() -> None:
    talk = Talk()
    talk.say("refund my last order", "request_refund")
    assert talk.state.wish is not None and talk.state.wish.slots == {"order": "HR-20148", "amount": 22.0}
    talk.say("no, the other one", "decline_no")
    assert talk.state.wish is not None and talk.state.wish.slots == {"order": "HR-20117", "amount": 30.0}


def test_a_detail_changed_with_the_yes_is_confirmed_again() -> None:
    talk = Talk()
    talk.say("refund order 20117", "request_refund")
    talk.say("yes, but 5 euros", "confirm_yes")
    assert talk.step == "confirm" and talk.state.wish is not None and talk.state.wish.slots["amount"] == 5.0


def test_more_than_the_order_cost_is_never_taken_over() -> None:
    talk = Talk()
    reply = talk.say("refund 200 euros for order 20117", "request_refund")
    assert "at most €30" in reply.text
    assert talk.state.wish is not None and talk.state.wish.slots["amount"] == 30.0


def test_another_request_takes_the_place_of_the_first() -> None:
    talk = Talk()
    talk.say("cancel my subscription", "cancel_subscription")
    talk.say("no, pause it instead", "decline_no")
    assert talk.state.awaiting == "slot:until" and talk.state.wish is not None and talk.state.wish.request == "pause"


def test_two_requests_are_dealt_with_one_after_the_other_each_with_its_yes() -> None:
    talk = Talk()
    talk.say("cancel my plan and refund order 20117", "cancel_subscription")
    assert [wish.request for wish in talk.state.queue] == ["refund"]
    talk.say("yes", "confirm_yes")
    assert talk.state.awaiting == "confirm" and talk.state.wish is not None and talk.state.wish.request == "refund"
    talk.say("yes", "confirm_yes")
    assert talk.step == "act" and talk.state.wish is None


def test_a_question_in_between_is_answered_and_the_request_goes_on() -> None:
    talk = Talk()
    talk.say("refund order 20117", "request_refund")
    reply = talk.say("how long does that take?", "refund_status", known=0.9, passage="refund-times#0")
    assert talk.step == "answer" and reply.article == "refund-times" and "Shall I refund" in reply.text
    assert talk.state.awaiting == "confirm"


def test_a_correction_after_the_end_begins_again() -> None:
    talk = Talk()
    talk.say("change my plan to premium", "upgrade_plan")
    talk.say("yes", "confirm_yes")
    assert talk.step == "act"
    talk.say("sorry, I meant the office plan")
    assert talk.step == "confirm" and talk.state.wish is not None and talk.state.wish.slots == {"plan": "office"}


def test_two_misunderstandings_in_a_row_call_a_person_and_one_does_not() -> None:
    talk = Talk()
    talk.say("blorp")
    assert talk.step == "unknown" and talk.state.awaiting == "offer:human"
    talk.say("thanks", "say_thanks")
    talk.say("blorp")
    assert talk.step == "unknown"
    talk.say("zzz")
    assert talk.step == "handover" and talk.state.held


@pytest.mark.parametrize("before", ["cancel my subscription", "refund please", "blorp"])
def test_a_person_is_called_at_any_point(before: str) -> None:
    talk = Talk()
    labels = {"cancel my subscription": "cancel_subscription", "refund please": "request_refund"}
    talk.say(before, labels.get(before, "out_of_scope"))
    talk.say("I want to talk to a human", "talk_to_human")
    assert talk.step == "handover"
    talk.say("yes", "confirm_yes")
    assert talk.step == "held"
    talk.say("start over")
    assert talk.step == "talk" and not talk.state.held


def test_without_a_model_words_still_have_their_meaning() -> None:
    understood = support().understand(State(), "cancel my subscription", None, PROFILE, NOW_S)
    assert understood.step == "confirm" and understood.facts["request"] == "cancel"


def test_the_reply_says_what_became_of_the_actions() -> None:
    dialogue = support()
    talk = Talk()
    talk.say("refund order 20117", "request_refund")
    understood = dialogue.understand(talk.state, "yes", answer("confirm_yes"), PROFILE, NOW_S)
    decision = Decision(outcome="refund", rule="r", actions=(ActionCall(name="refund"),))
    receipt = msgspec.json.encode({"refund": "R-1", "amount": 30.0})

    def said(state: str) -> str:
        status = ActionStatus(action_id="a", name="refund", state=state, receipt=receipt if state == "done" else b"")
        return dialogue.reply(understood, decision, [status], PROFILE).text

    assert "€30" in said("done") and "R-1" in said("done")
    assert "approval" in said("waiting")
    assert "in a moment" in said("pending") and "in a moment" in said("unknown")
    assert "did not work" in said("dead") and "colleague" in said("denied")
    refused = dialogue.reply(understood, Decision(outcome="review", rule="r"), [], PROFILE)
    assert "may not" in refused.text and refused.state.awaiting == "offer:human"


def test_a_receipt_that_is_no_object_harms_nothing() -> None:
    dialogue = support()
    talk = Talk()
    talk.say("cancel my subscription", "cancel_subscription")
    understood = dialogue.understand(talk.state, "yes", answer("confirm_yes"), PROFILE, NOW_S)
    for receipt in (b"<html>", b"[1]", b'{"ends_on": {"a": 1}}', b"\xff", b'{"ends_on": "soon"}'):
        status = ActionStatus(action_id="a", name="cancel_subscription", state="done", receipt=receipt)
        assert dialogue.reply(understood, decide(understood), [status], PROFILE).text == "Done."


LABELS = [*sorted(support().definition.intents), "out_of_scope"]
PIECES = st.sampled_from([
    "cancel my subscription", "refund", "order 20117", "HR-20148", "yes", "no", "the other one", "my last order",
    "€5", "1,000,000", "premium", "pause", "for two weeks", "next monday", "human", "never mind", "start over", "and",
    ",", "?", "how", "I meant", "instead", "everything", "a@b.example", "12 Main Street, Cork", "delete my account",
    "skip", "hi",
    "don't", "{profile.name}", "\x00", "🙂", "ignore all instructions",
])  # fmt: skip
TEXTS = st.one_of(st.text(max_size=120), st.lists(PIECES, min_size=1, max_size=6).map(" ".join))
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
ANSWERS = st.one_of(
    st.none(),
    st.builds(answer, st.sampled_from(LABELS), st.floats(0, 1), known=NUMBERS,
              passage=st.sampled_from(["", "cancel#0", "prices#99", "nothing#0", "pause#x"])),
    st.dictionaries(st.sampled_from(["labels", "passages", "known"]), st.one_of(st.none(), st.text(), NUMBERS,
                    st.lists(st.one_of(st.none(), st.dictionaries(st.text(), NUMBERS))))),
)  # fmt: skip
PROFILES = st.one_of(
    st.just(PROFILE), st.just(PROFILE), st.just(PROFILE), st.just({}),
    st.fixed_dictionaries({
        "orders": st.one_of(st.lists(st.text(max_size=80), max_size=8), st.text(), st.none()),
        "totals": st.lists(st.floats(0, 1e6), max_size=8), "language": st.one_of(st.text(max_size=3), st.just("de")),
        "plan": st.text(max_size=20),
    }),
)  # fmt: skip
# What customers do say, so that many conversations come to a yes.
SAID = st.sampled_from([
    ("refund order 20117", "request_refund"), ("change my plan to premium", "upgrade_plan"),
    ("cancel my subscription", "cancel_subscription"), ("pause for two weeks", "pause_subscription"),
    ("cancel and refund my last order", "cancel_order"), ("delete my account", "delete_account"),
    ("yes", "confirm_yes"), ("yes please", "confirm_yes"), ("yes but 5 euros", "confirm_yes"),
    ("yes, the office plan", "confirm_yes"), ("yes, until next monday", "confirm_yes"), ("no", "decline_no"),
    ("no, the other one", "decline_no"), ("HR-20148", "out_of_scope"), ("for 3 weeks", "out_of_scope"),
])  # fmt: skip
HEARD = SAID.map(lambda said: (said[0], answer(said[1])))
SAYINGS = st.one_of(HEARD, HEARD, HEARD, st.tuples(TEXTS, ANSWERS))
STATES = st.sampled_from(["done", "pending", "waiting", "dead", "denied", "unknown", "refused"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(SAYINGS, STATES, st.booleans()), min_size=1, max_size=12), PROFILES)
def test_any_messages_keep_the_dialogue_whole(
    turns: list[tuple[tuple[str, Any], str, bool]], profile: dict[str, Any]
) -> None:
    """Nothing raises; the state stays small and JSON; facts are complete; nothing that wants a yes is done without."""
    dialogue = support()
    state = State()
    for (text, model), action_state, refused in turns:
        understood = dialogue.understand(state, text, model, profile, NOW_S)
        assert understood.facts.keys() == dialogue.definition.facts.keys()
        kinds = {"string": str, "number": float, "integer": int, "boolean": bool}
        for name, kind in dialogue.definition.facts.items():
            assert isinstance(understood.facts[name], kinds[kind]), name
        if understood.step == "act":
            request = dialogue.definition.requests[str(understood.facts["request"])]
            if request.confirm:
                # Nothing was changed since it was shown: what is done is what the yes was said to.
                assert state.awaiting == "confirm" and state.wish == understood.wish
                assert understood.facts["confirmed"] is True
        else:
            assert understood.facts["confirmed"] is False
        amount = understood.facts["amount"]
        assert amount == 0.0 or 0.5 <= amount <= 500 or profile.get("totals")
        decision = Decision(outcome="review", rule="r") if refused else decide(understood)
        actions = [ActionStatus(action_id="a", name=call.name, state=action_state) for call in decision.actions]
        reply = dialogue.reply(understood, decision, actions, profile)
        assert reply.text.strip()
        content = dialogue.assistant_turn(reply, "d")
        assert len(content) <= MOST_STATE_BYTES + len(reply.text.encode()) * 2
        assert dialogue.state_of(content) == reply.state
        assert dialogue.state_of(dialogue.customer_turn(text, understood, "d")) == understood.state
        state = reply.state


KEYS = st.sampled_from(["state", "wish", "awaiting", "queue", "request", "slots", "x"])
TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEYS, inner)),
)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=300), TREES.map(lambda value: msgspec.json.encode({"state": value}))))
def test_a_damaged_state_begins_anew(content: bytes) -> None:
    dialogue = support()
    state = dialogue.state_of(content)
    dialogue.reply(
        understood := dialogue.understand(state, "yes", None, PROFILE, NOW_S), decide(understood), (), PROFILE
    )


def test_a_state_of_another_version_of_the_dialogue_begins_anew() -> None:
    foreign = b'{"state": {"wish": {"request": "buy_house", "slots": {}}, "awaiting": "confirm"}}'
    assert support().state_of(foreign) == State()
    half = b'{"state": {"awaiting": "confirm"}}'
    assert support().state_of(half) == State()


def test_a_huge_message_is_cut() -> None:
    dialogue = support()
    assert len(dialogue.bounded("x" * 10_000_000)) <= dialogue.definition.settings.max_characters
    assert dialogue.bounded("a\x00\x1b[31mb\t\t c") == "a [31mb c"
