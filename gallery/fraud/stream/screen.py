"""The replay in the terminal: the last decisions, counts, money and latency while it goes; the report at the end."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gallery.fraud.stream.money import Tally, cost
from gallery.fraud.stream.replay import Decided

_COLOURS = {"approve": "green", "review": "yellow", "decline": "red"}
_SHOWN = 12


class Screen:
    """What is known so far. Not safe for several threads at once: the replay tells it under a lock."""

    def __init__(self, total: int) -> None:
        self.decided: list[Decided] = []
        self._total = total
        self._last: deque[Decided] = deque(maxlen=_SHOWN)
        self._outcomes: Counter[str] = Counter()
        self._cost = self._lost = 0.0
        self._recent_s: deque[float] = deque(maxlen=2000)

    def add(self, decided: Decided) -> None:
        """One more decision."""
        self.decided.append(decided)
        self._outcomes[decided.outcome] += 1
        self._cost += cost(decided.payment, decided.outcome)
        self._lost += cost(decided.payment, "approve")
        self._recent_s.append(decided.latency_s)
        if decided.outcome != "approve" or decided.payment.fraud:
            self._last.append(decided)

    def __rich__(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("time", "card", "merchant"):
            table.add_column(name)
        for name in ("EUR", "probability"):
            table.add_column(name, justify="right")
        for name in ("decision", "rule", "truth", "action"):
            table.add_column(name)
        for one in list(self._last):
            payment = one.payment
            table.add_row(
                _clock(payment.time_s), payment.card, payment.merchant, f"{payment.amount:,.2f}",
                f"{one.probability:.4f}", Text(one.outcome, _COLOURS.get(one.outcome, "")), one.rule,
                Text("fraud", "bold red") if payment.fraud else Text("honest", "dim"), " ".join(one.actions),
            )  # fmt: skip
        p50, p99 = quantiles_ms(list(self._recent_s))
        counts = "   ".join(f"{name} {self._outcomes[name]:,}" for name in _COLOURS)
        line = f"{len(self.decided):,} of {self._total:,}   {counts}   saved {self._lost - self._cost:,.0f} EUR"
        return Group(table, Text(f"{line}   p50 {p50:.1f} ms   p99 {p99:.1f} ms", "bold"))


def quantiles_ms(latencies_s: Sequence[float]) -> tuple[float, float]:
    """Median and 99 % quantile in milliseconds; zeros where there is nothing."""
    if not latencies_s:
        return 0.0, 0.0
    p50, p99 = np.quantile(latencies_s, [0.5, 0.99])
    return float(p50) * 1e3, float(p99) * 1e3


def comparison(tallies: Sequence[Tally]) -> Table:
    """One row for each way of deciding; money saved is against the first."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("cost EUR", "saved EUR", "frauds stopped", "reviews", "declined", "of them honest"):
        table.add_column(name, justify="right")
    for one in tallies:
        table.add_row(
            one.name, f"{one.cost:,.0f}", f"{tallies[0].cost - one.cost:,.0f}", f"{one.stopped} of {one.frauds}",
            f"{one.reviewed:,}", f"{one.declined:,}", f"{one.declined_honest:,}",
        )  # fmt: skip
    return table


def _clock(time_s: float) -> str:
    whole = int(time_s)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
