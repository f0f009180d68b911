"""A message in its dialogue: slot filling, confirmation, correction, change of mind, questions in between, hand-over.

Pure, and never raises for any text. Nothing that a request wants confirmed becomes step "act" but by a yes to the very
details that were shown last: whatever changes them is shown again.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onward.dialogue.hearing import MOST_WISHES, SURE, Heard
from onward.dialogue.records import ZERO_OF_FACT, Definition, Quote, Slot, State, Step, Understood, Wish

MOST_OPTIONS = 5
_LONGEST_OPTION = 64
_MOST_TURNS = 1_000_000
_ANSWER_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What a message meets: the definition, where the dialogue stands, the profile."""

    definition: Definition
    state: State
    heard: Heard
    profile: Mapping[str, Any]


def understand_heard(turn: Turn) -> Understood:
    """The next step of the dialogue."""
    state, heard = turn.state, turn.heard
    if heard.means == "human":
        return _hand_over(turn)
    if state.held:
        return _held(turn)
    if state.wish is not None and state.awaiting == "confirm":
        return _confirming(turn, state.wish)
    if state.wish is not None and state.awaiting.startswith("slot:"):
        return _filling(turn, state.wish, turn.definition.slots[state.awaiting.removeprefix("slot:")])
    if state.awaiting.startswith("offer:") and heard.means in ("yes", "no", "stop") and not heard.wishes:
        return _offered(turn, state.awaiting.removeprefix("offer:"))
    return _fresh(turn)


def advance(
    definition: Definition, wish: Wish, profile: Mapping[str, Any], *, ask_first: bool = False
) -> tuple[State, Step]:
    """Fill in what the profile knows; then ask for what is missing, ask for a yes, or act.

    Returns a state that holds the wish and what is awaited, and the step. `ask_first` wants a yes in any case.
    """
    request = definition.requests[wish.request]
    slots = dict(wish.slots)
    options: tuple[str, ...] = ()
    missing = ""
    for name in (*request.slots, *request.optional):
        slot = definition.slots[name]
        among = _among(slot, profile)
        options = among or options
        if name not in slots and slot.lookup is not None and (value := looked_up(slot, slots, profile)) is not None:
            slots[name] = value
        if name not in slots and len(among) == 1:
            slots[name] = among[0]
        if name not in slots and name in request.slots and not missing:
            missing = name
    filled = Wish(request=wish.request, slots=slots)
    if missing:
        slot = definition.slots[missing]
        shown = _among(slot, profile) or tuple(slot.names)[:MOST_OPTIONS]
        return State(wish=filled, awaiting=f"slot:{missing}", options=shown), "ask"
    if request.confirm or ask_first:
        return State(wish=filled, awaiting="confirm", options=options), "confirm"
    return State(last=filled), "act"


def looked_up(slot: Slot, slots: Mapping[str, Any], profile: Mapping[str, Any]) -> Any:
    """What the profile says of this slot for the value of another; None where it says nothing."""
    if slot.lookup is None:
        return None
    keys, values = profile.get(slot.lookup.keys), profile.get(slot.lookup.values)
    wanted = slots.get(slot.lookup.slot)
    if isinstance(keys, Sequence) and isinstance(values, Sequence):
        for key, value in zip(keys, values, strict=False):
            if key == wanted:
                return float(value) if slot.type == "amount" else value
    return None


def _among(slot: Slot, profile: Mapping[str, Any]) -> tuple[str, ...]:
    values = profile.get(slot.among) if slot.among else None
    if not isinstance(values, Sequence) or isinstance(values, str):
        return ()
    return tuple(dict.fromkeys(str(value)[:_LONGEST_OPTION] for value in values))[:MOST_OPTIONS]


def _confirming(turn: Turn, wish: Wish) -> Understood:
    heard = turn.heard
    corrected, notes = _corrected(turn, wish)
    others = tuple(other for other in heard.wishes if other.request != wish.request)
    if notes:
        return _stay(turn, "confirm", notes=notes)
    if corrected is not None:
        return _start(turn, (corrected, *turn.state.queue))
    if heard.means == "yes":
        state = State(last=wish, queue=_queue((*turn.state.queue, *others)))
        return _done(turn, state, "act", wish=wish, confirmed=True)
    if others and not heard.is_question:
        return _start(turn, (*others, *turn.state.queue), notes=("dropped",))
    if heard.means in ("no", "stop"):
        return _abort(turn)
    if heard.wishes and not heard.is_question:
        return _stay(turn, "confirm", notes=("yes_or_no",))
    return _aside(turn) or _unclear(turn, "confirm")


def _filling(turn: Turn, wish: Wish, slot: Slot) -> Understood:
    heard = turn.heard
    if heard.means == "stop":
        return _abort(turn)
    corrected, notes = _corrected(turn, wish)
    # "order 99999" is an answer to the question, whatever the model would make of it by itself.
    is_answer = slot.name in heard.found and len(heard.text.split()) <= _ANSWER_WORDS
    others = () if is_answer else tuple(other for other in heard.wishes if other.request != wish.request)
    is_text = slot.type == "text"
    meant = heard.intent.request if heard.intent is not None and heard.score >= SURE else ""
    if others and meant != wish.request and any(other.request == meant for other in others):
        return _start(turn, (*others, *turn.state.queue), notes=("dropped",))
    if is_text and (heard.is_question or others):
        corrected = None  # "how much is that?" is no address
    if corrected is not None and slot.name in corrected.slots:
        return _start(turn, (corrected, *turn.state.queue), notes=notes)
    if others and not heard.is_question:
        return _start(turn, (*others, *turn.state.queue), notes=("dropped",))
    if heard.means == "no":
        return _abort(turn)
    if notes:
        return _unclear(turn, "ask", notes=notes)
    if corrected is not None:
        return _start(turn, (corrected, *turn.state.queue))
    return _aside(turn) or _unclear(turn, "ask", notes=(f"unclear.{slot.name}",))


def _corrected(turn: Turn, wish: Wish) -> tuple[Wish | None, tuple[str, ...]]:
    """The wish with the details that the message gives or changes (None: none), and what is wrong with them."""
    heard, definition = turn.heard, turn.definition
    request = definition.requests[wish.request]
    slots, notes = dict(wish.slots), []
    for name in (*request.slots, *request.optional):
        slot = definition.slots[name]
        values = heard.found.get(name, ())
        good = [found.value for found in values if not found.trouble and found.value != slots.get(name)]
        pointed = _pointed(turn, slot, slots.get(name))
        if pointed is not None:
            slots[name] = pointed
        elif good:
            # Of several days the last is the end; "no, not this, that" names the right one last.
            slots[name] = max(good) if slot.type == "date" else good[-1] if heard.means == "no" else good[0]
        elif values and all(found.trouble for found in values):
            notes.append(f"trouble.{name}.{values[0].trouble}")
        elif slot.type == "amount" and heard.wants_everything:
            slots.pop(name, None)
        if slot.lookup is not None and slots.get(slot.lookup.slot) != wish.slots.get(slot.lookup.slot) and not good:
            slots.pop(name, None)  # the amount was that of the order meant before
        most = looked_up(slot, slots, turn.profile) if slot.type == "amount" else None
        if most is not None and slots.get(name, 0.0) > most:
            notes.append(f"trouble.{name}.too_large")
            slots[name] = wish.slots.get(name, most)
    changed = slots != dict(wish.slots)
    return (Wish(request=wish.request, slots=slots) if changed else None), tuple(notes)


def _pointed(turn: Turn, slot: Slot, current: Any) -> str | None:
    """The value that "the other one", "the first", "my last order" point at."""
    among = _among(slot, turn.profile)
    if not among:
        return None
    if turn.heard.pointer == "last":
        return among[0]
    if turn.heard.pointer == "first" and turn.state.options:
        return turn.state.options[0]
    if turn.heard.pointer == "other" and current is not None:
        others = [value for value in among if value != current]
        return others[0] if others else None
    return None


def _start(
    turn: Turn,
    wishes: Sequence[Wish],
    *,
    notes: tuple[str, ...] = (),
    quote: Quote | None = None,
    ask_first: bool = False,
) -> Understood:
    """Begin with the first wish; the others wait."""
    wish, troubles = _pruned(turn, wishes[0])
    state, step = advance(turn.definition, wish, turn.profile, ask_first=ask_first)
    state = replace(state, queue=_queue([_pruned(turn, other)[0] for other in wishes[1:]]))
    return _done(turn, state, step, wish=state.wish or state.last, notes=(*notes, *troubles), quote=quote)


def _pruned(turn: Turn, wish: Wish) -> tuple[Wish, tuple[str, ...]]:
    """The wish with what "my last order" points at, without what cannot be; and what is wrong with that."""
    request, slots, troubles = turn.definition.requests[wish.request], dict(wish.slots), []
    for name in (*request.slots, *request.optional):
        slot, values = turn.definition.slots[name], turn.heard.found.get(name, ())
        if name not in slots and turn.heard.pointer == "last" and (pointed := _pointed(turn, slot, None)) is not None:
            slots[name] = pointed
        if name not in slots and values and values[0].trouble:
            troubles.append(f"trouble.{name}.{values[0].trouble}")
        most = looked_up(slot, slots, turn.profile) if slot.type == "amount" else None
        if most is not None and slots.get(name, 0.0) > most:
            troubles.append(f"trouble.{name}.too_large")
            del slots[name]
    return Wish(request=wish.request, slots=slots), tuple(dict.fromkeys(troubles))


def _queue(wishes: Sequence[Wish]) -> tuple[Wish, ...]:
    return tuple({wish.request: wish for wish in wishes}.values())[: MOST_WISHES - 1]


def _abort(turn: Turn) -> Understood:
    state = State(queue=turn.state.queue, last=turn.state.wish)
    return _done(turn, state, "abort", wish=turn.state.wish)


def _aside(turn: Turn) -> Understood | None:
    """A question or small talk in between: answered, and the dialogue stays where it is."""
    heard = turn.heard
    if (
        heard.quote is not None
        and heard.quote.known >= turn.definition.settings.least_known
        and (heard.is_question or (heard.intent is not None and heard.intent.answer))
    ):
        return _stay(turn, "answer", quote=heard.quote)
    if heard.intent is not None and heard.intent.say:
        return _stay(turn, "talk", say=heard.intent.say)
    return None


def _stay(
    turn: Turn, step: Step, *, notes: tuple[str, ...] = (), quote: Quote | None = None, say: str = ""
) -> Understood:
    state = replace(turn.state, misunderstood=0)
    return _done(turn, state, step, wish=state.wish, notes=notes, quote=quote, say=say)


def _unclear(turn: Turn, step: Step, *, notes: tuple[str, ...] = ("unclear",)) -> Understood:
    misunderstood = turn.state.misunderstood + 1
    if misunderstood >= turn.definition.settings.misunderstandings:
        return _hand_over(turn, notes=("misunderstood",))
    state = replace(turn.state, misunderstood=misunderstood)
    return _done(turn, state, step, wish=state.wish, notes=notes)


def _hand_over(turn: Turn, *, notes: tuple[str, ...] = ()) -> Understood:
    state = State(held=True, misunderstood=turn.state.misunderstood + (1 if notes else 0))
    return _done(turn, state, "handover", wish=turn.state.wish, notes=notes)


def _held(turn: Turn) -> Understood:
    if turn.heard.means == "stop":
        return _done(turn, State(), "talk", say="back")
    return _done(turn, turn.state, "held")


def _offered(turn: Turn, offer: str) -> Understood:
    if turn.heard.means != "yes":
        return _done(turn, State(last=turn.state.last), "talk", say="declined")
    if offer == "human":
        return _hand_over(turn)
    return _start(turn, (Wish(request=offer),))


def _fresh(turn: Turn) -> Understood:
    """A message that was not asked for: a correction of what was just done, a question, a request, small talk."""
    heard, definition, state = turn.heard, turn.definition, turn.state
    intent = heard.intent
    quote = heard.quote if heard.quote and heard.quote.known >= definition.settings.least_known else None
    if (
        state.last is not None
        and not heard.wishes
        and (heard.corrects or heard.pointer == "other" or heard.means == "no")
    ):
        corrected, notes = _corrected(turn, state.last)
        if corrected is not None:
            return _start(turn, (corrected,), notes=notes)
    wants = heard.wishes if heard.wishes else ()
    if (
        heard.is_question
        and quote is not None
        and not (wants and (wants[0].slots or heard.pointer == "last" or wants[0].request in heard.phrased))
    ):
        offer = f"offer:{wants[0].request}" if wants else ""
        return _done(turn, State(awaiting=offer, last=state.last), "answer", quote=quote)
    if wants:
        # Who did not say it in so many words is told first what we say about it.
        sensed = len(wants) == 1 and wants[0].request not in heard.worded
        return _start(turn, wants, quote=quote if sensed else None, ask_first=sensed and heard.score < SURE)
    if intent is not None and intent.say and not (heard.is_question and quote is not None):
        return _done(turn, State(last=state.last), "talk", say=intent.say)
    if intent is not None and intent.answer and quote is None and intent.article:
        article = definition.articles[intent.article]
        quote = Quote(article=article, sentence=article.sentences[0], known=heard.score)
    if heard.means in ("yes", "no", "stop") and not heard.is_question:
        return _done(turn, State(last=state.last), "talk", say="idle")
    if quote is not None:
        return _done(turn, State(last=state.last), "answer", quote=quote)
    misunderstood = state.misunderstood + 1
    if misunderstood >= definition.settings.misunderstandings:
        return _hand_over(turn, notes=("misunderstood",))
    return _done(turn, State(awaiting="offer:human", last=state.last, misunderstood=misunderstood), "unknown")


def _done(
    turn: Turn,
    state: State,
    step: Step,
    *,
    wish: Wish | None = None,
    notes: tuple[str, ...] = (),
    quote: Quote | None = None,
    say: str = "",
    confirmed: bool = False,
) -> Understood:
    definition, heard = turn.definition, turn.heard
    state = replace(state, turns=min(turn.state.turns + 1, _MOST_TURNS))
    slots = dict(wish.slots) if wish is not None else {}
    facts: dict[str, Any] = {name: ZERO_OF_FACT[kind] for name, kind in definition.facts.items()}
    facts |= {
        "step": step, "request": wish.request if wish is not None else "", "intent": heard.label,
        "confirmed": confirmed, "article": quote.article.article_id if quote is not None else "",
        "misunderstood": state.misunderstood, "turns": state.turns,
    } | slots  # fmt: skip
    values: dict[str, Any] = {**slots, "options": state.options}
    for name in slots or (wish and definition.requests[wish.request].optional) or ():
        most = looked_up(definition.slots[name], slots, turn.profile)
        if most is None:
            most = definition.slots[name].maximum
        if definition.slots[name].type == "amount" and most is not None:
            values["limit"] = most
    return Understood(
        state=state, facts=facts, step=step, intent=heard.label, wish=wish, quote=quote, say=say, notes=notes,
        values=values,
    )  # fmt: skip


def today_of(now_s: float) -> datetime.date:
    """The day of a time, in UTC."""
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).date()
