"""What decisions cost, by the true labels: the same costs that policy.toml decides by. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gallery.fraud.stream.past import Past
from gallery.fraud.stream.simulation import Payment
from onward.decide.policy import Facts, Policy
from onward.prepare.profile import Features, PastEvent

REVIEW, MISSED_FEE, DECLINED_HONEST = 5.0, 25.0, 30.0
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A payment, and what the model says about it."""

    payment: Payment
    probability: float
    unusual: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How one way of deciding did. Money in euros; `stopped` are frauds not approved."""

    name: str
    cost: float
    frauds: int
    stopped: int
    reviewed: int
    declined: int
    declined_honest: int


def cost(payment: Payment, outcome: str) -> float:
    """Euros that an outcome costs. A reviewed fraud is supposed to be found."""
    if outcome == "review":
        return REVIEW
    if outcome == "approve":
        return payment.amount + MISSED_FEE if payment.fraud else 0.0
    return 0.0 if payment.fraud else DECLINED_HONEST


def tally(name: str, decided: Iterable[tuple[Payment, str]]) -> Tally:
    """Add up."""
    pairs = list(decided)
    frauds = [outcome for payment, outcome in pairs if payment.fraud]
    return Tally(
        name=name,
        cost=sum(cost(payment, outcome) for payment, outcome in pairs),
        frauds=len(frauds),
        stopped=sum(outcome != "approve" for outcome in frauds),
        reviewed=sum(outcome == "review" for _, outcome in pairs),
        declined=sum(outcome == "decline" for _, outcome in pairs),
        declined_honest=sum(outcome == "decline" and not payment.fraud for payment, outcome in pairs),
    )


def by_threshold(known: Known) -> str:
    """The model without a policy: declined from one half on."""
    return "decline" if known.probability >= THRESHOLD else "approve"


def without_past(policy: Policy, features: Features) -> Callable[[Known], str]:
    """The policy where nothing is known of a card."""
    return lambda known: policy.decide(_facts(known, features.compute([], as_of_s=0.0))).outcome


def with_past(policy: Policy, features: Features, known: Sequence[Known]) -> list[str]:
    """The policy with each card's past, computed here and not by a server: outcomes in the order of the payments."""
    past, outcomes = Past(), []
    for one in known:
        decision = policy.decide(_facts(one, profile(features, past, one.payment)))
        past.note(one.payment, held=any(action.name == "hold" for action in decision.actions))
        outcomes.append(decision.outcome)
    return outcomes


def profile(features: Features, past: Past, payment: Payment) -> dict[str, object]:
    """The features of a card at a payment, all ages shorter by half a second as in `past.events`."""
    events = [
        PastEvent(event_id=f"{index:09d}", kind=event.kind, at_s=event.time_s, recorded_s=event.time_s, data=event.data)
        for index, event in enumerate(past.of(payment))
    ]
    return features.compute(events, as_of_s=payment.time_s + 0.5)


def _facts(known: Known, found: dict[str, object]) -> Facts:
    given = {**known.payment.fields, "card": known.payment.card, "merchant": known.payment.merchant}
    answer = {"probability": known.probability, "unusual": known.unusual, "fraud": False, "unusual_score": 0.0}
    return Facts(answer=answer, input=given, profile=found, now_s=known.payment.time_s)
