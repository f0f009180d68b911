"""Cards and merchants for transactions that were published without: a simulation, and no more than that.

What it supposes, all of it drawn from one seed:

- 20,000 cards, some used far more than others (log-normal, sigma 1), and 2,000 merchants, likewise (Zipf).
- An honest payment belongs to a card drawn by how much it is used. One in twenty is a spree: another payment of a card
  that was honestly used in the last ten minutes. Seven in ten go to one of the card's three usual merchants.
- A fraud, three times in four, uses a card stolen within the last hour; else a newly stolen one, which is one of the
  same 20,000 and has an honest past and an honest owner who goes on using it. It goes to any merchant, all alike.

Times, amounts and V1 to V28 stay as published. The label decides which of the two ways a row gets its card, so whatever
is gained from a card's past is gained from these suppositions. `bursts = False` is the control: frauds get their cards
as honest payments do, nobody comes back with a stolen card, and a card's past says nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from gallery.fraud.fields import FIELDS
from gallery.fraud.train import Transactions

SEED = 7
CARDS, MERCHANTS, USUAL_MERCHANTS = 20_000, 2_000, 3
SPREE_SHARE, SPREE_WITHIN_S = 0.05, 600.0
USUAL_SHARE = 0.7
AGAIN_SHARE, AGAIN_WITHIN_S = 0.75, 3600.0
_AMOUNT = FIELDS.index("Amount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """One transaction with the card and merchant it was given. `row` counts the rows simulated, from 0."""

    row: int
    time_s: float
    card: str
    merchant: str
    amount: float
    fraud: bool
    fields: dict[str, float]


def simulate(rows: Transactions, *, seed: int = SEED, bursts: bool = True) -> list[Payment]:
    """The transactions in their order, each with a card and a merchant."""
    random = np.random.default_rng(seed)
    use = random.lognormal(0.0, 1.0, CARDS)
    popular = 1.0 / np.arange(1, MERCHANTS + 1)
    popular /= popular.sum()
    usual = random.choice(MERCHANTS, (CARDS, USUAL_MERCHANTS), p=popular)
    drawn = random.choice(CARDS, len(rows), p=use / use.sum())
    elsewhere = random.choice(MERCHANTS, len(rows), p=popular)
    chance = random.random((len(rows), 3))
    lately: deque[tuple[float, int]] = deque()
    stolen: list[tuple[float, int]] = []
    made = []
    for row in range(len(rows)):
        time_s, fraud = float(rows.features[row, 0]), bool(rows.labels[row])
        card, merchant = int(drawn[row]), int(elsewhere[row])
        again, at_home, which = (float(each) for each in chance[row])
        if fraud and bursts:
            stolen = [(last_s, one) for last_s, one in stolen if time_s - last_s <= AGAIN_WITHIN_S]
            reused = stolen and again < AGAIN_SHARE
            card = stolen[int(which * len(stolen))][1] if reused else int(which * CARDS)
            stolen = [(last_s, one) for last_s, one in stolen if one != card] + [(time_s, card)]
            merchant = int(at_home * MERCHANTS)
        else:
            while lately and time_s - lately[0][0] > SPREE_WITHIN_S:
                lately.popleft()
            if lately and again < SPREE_SHARE:
                card = lately[int(which * len(lately))][1]
            if at_home < USUAL_SHARE:
                merchant = int(usual[card, int(which * USUAL_MERCHANTS)])
            lately.append((time_s, card))
        made.append(_payment(rows, row, f"c{card:05d}", f"m{merchant:04d}"))
    return made


def _payment(rows: Transactions, row: int, card: str, merchant: str) -> Payment:
    # The shortest text of the FP32 value: what was published, to the digits that are kept.
    fields = {name: float(str(value)) for name, value in zip(FIELDS, rows.features[row], strict=True)}
    return Payment(
        row=row, time_s=fields["Time"], card=card, merchant=merchant, amount=fields["Amount"],
        fraud=bool(rows.labels[row]), fields=fields,
    )  # fmt: skip
