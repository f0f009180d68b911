"""What has happened to cards, in the transactions' own time, and the same as profile events.

A server reads profiles as of the moment a request arrives, and rightly lets no caller choose another: who could, would
choose one before the card's burst. A replay runs faster than the world did. So each payment is given its past anew:
under a name of its own (`c00017.3` is the fourth payment of card c00017) the card's earlier events are posted, each as
long ago as it was then. Published times are whole seconds; half a second is taken off every age, so that the
milliseconds which the request takes never move an event out of a window that it was in.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from gallery.fraud.stream.simulation import Payment

PAYMENT, HOLD = "payment", "hold"
LOOKED_BACK_S = 86_400.0
_SLACK_S = 0.5
_JUST_NOW_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Happened:
    """An event of a card at a time of the transactions."""

    time_s: float
    kind: str
    data: dict[str, Any]


class Past:
    """The events of all cards. One card's are written and read by one thread."""

    def __init__(self) -> None:
        self._events: defaultdict[str, list[Happened]] = defaultdict(list)
        self._tried: defaultdict[str, int] = defaultdict(int)

    def note(self, payment: Payment, *, held: bool) -> None:
        """The payment was tried, and with `held` its card was held for it."""
        data = {"amount": payment.amount, "merchant": payment.merchant}
        events = self._events[payment.card]
        events.append(Happened(time_s=payment.time_s, kind=PAYMENT, data=data))
        self._tried[payment.card] += 1
        if held:
            events.append(Happened(time_s=payment.time_s, kind=HOLD, data={}))

    def of(self, payment: Payment) -> list[Happened]:
        """What had happened to the payment's card within a day before it, oldest first."""
        since_s = payment.time_s - LOOKED_BACK_S
        return [event for event in self._events[payment.card] if event.time_s >= since_s]

    def entity(self, payment: Payment) -> str:
        """The name under which the card is asked about for this payment."""
        return f"{payment.card}.{self._tried[payment.card]}"

    def events(self, payment: Payment, now_s: float) -> list[dict[str, Any]]:
        """The card's past as profile events that are as long ago now as they were then."""
        return [
            {
                "kind": event.kind,
                "at": now_s - max(payment.time_s - event.time_s - _SLACK_S, _JUST_NOW_S),
                "data": event.data,
            }
            for event in self.of(payment)
        ]
