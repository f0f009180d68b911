"""How good probabilities and decisions are on labelled rows. NumPy only; knows nothing of models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]

BOOTSTRAP_ROUNDS = 1000
RELIABILITY_EDGES = (0.0, 0.001, 0.01, 0.1, 0.3, 0.6, 0.9, 1.0)


def average_precision(labels: Labels, found: Floats, weights: Floats | None = None) -> float:
    """Area under precision over recall as a sum over the distinct scores, `weights` counting each row [n]."""
    return _Ranking(labels, found).average_precision(np.ones(len(labels)) if weights is None else weights)


def average_precision_interval(labels: Labels, found: Floats, *, seed: int = 0) -> tuple[float, float]:
    """90 % bootstrap interval of the average precision: rows drawn with replacement, 5 % and 95 % quantiles."""
    random = np.random.default_rng(seed)
    ranking = _Ranking(labels, found)
    share = np.full(len(labels), 1.0 / len(labels))
    draws = [
        ranking.average_precision(random.multinomial(len(labels), share).astype(np.float64))
        for _ in range(BOOTSTRAP_ROUNDS)
    ]
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(low), float(high)


def brier_score(labels: Labels, probability: Floats) -> float:
    """Mean squared distance of probability and label."""
    return float(np.mean((probability - labels) ** 2))


def reliability(labels: Labels, probability: Floats) -> list[dict[str, float]]:
    """Per band of probability: rows in it, mean probability, share of frauds."""
    band = np.clip(np.searchsorted(RELIABILITY_EDGES, probability, side="right") - 1, 0, len(RELIABILITY_EDGES) - 2)
    table = []
    for number in range(len(RELIABILITY_EDGES) - 1):
        inside = band == number
        if inside.any():
            table.append(
                {
                    "from": RELIABILITY_EDGES[number],
                    "to": RELIABILITY_EDGES[number + 1],
                    "rows": int(inside.sum()),
                    "frauds": int(labels[inside].sum()),
                    "mean_probability": float(probability[inside].mean()),
                    "observed": float(labels[inside].mean()),
                }
            )
    return table


def cost(labels: Labels, amount: Floats, flagged: Flags, *, review_cost: float, missed_fee: float) -> float:
    """Euros lost: every flagged row costs a review, every fraud not flagged its amount and a fee."""
    missed = (labels == 1) & ~flagged
    return float(review_cost * flagged.sum() + (amount[missed] + missed_fee).sum())


def decisions(labels: Labels, flagged: Flags) -> dict[str, float]:
    """Counts, precision and recall of flags."""
    caught = int((flagged & (labels == 1)).sum())
    return {
        "flagged": int(flagged.sum()),
        "caught": caught,
        "missed": int(labels.sum()) - caught,
        "precision": caught / max(1, int(flagged.sum())),
        "recall": caught / max(1, int(labels.sum())),
    }


class _Ranking:
    """Rows by falling score, equal scores forming one step."""

    def __init__(self, labels: Labels, found: Floats) -> None:
        self.order = np.argsort(-found, kind="stable")
        self.labels = labels[self.order]
        ordered = found[self.order]
        self.last_of_step = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))

    def average_precision(self, weights: Floats) -> float:
        ordered = weights[self.order]
        flagged = np.cumsum(ordered)[self.last_of_step]
        caught = np.cumsum(ordered * self.labels)[self.last_of_step]
        precision = caught / np.maximum(flagged, 1e-12)
        gained = np.diff(caught, prepend=0.0)
        return float((precision * gained).sum() / caught[-1])
