"""How good rankings are: recall and normalised discounted cumulative gain among the first 20. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gallery.recommend.ratings import Floats, Ints

LENGTH = 20
BOOTSTRAP_ROUNDS = 2000


def ranked(scores: Floats, seen: Ints, *, length: int = LENGTH) -> Ints:
    """The best films, best first, without those in the history; of equal scores the lower number first."""
    scores = scores.astype(np.float64, copy=True)
    scores[seen] = -np.inf
    best: Ints = np.argsort(-scores, kind="stable")[:length]
    return best


def recall(best: Ints, liked: Ints) -> float:
    """The share of what was liked that is among `best`; of more than fit there, as many as fit would be all."""
    return float(np.isin(best, liked).sum()) / min(len(best), len(liked))


def ndcg(best: Ints, liked: Ints) -> float:
    """Gain 1 for a liked film, discounted by the logarithm of its place, over the same of a perfect list."""
    discounts = 1.0 / np.log2(np.arange(2, len(best) + 2))
    gained = discounts[np.isin(best, liked)].sum()
    return float(gained / discounts[: min(len(best), len(liked))].sum())


def interval(each: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """90 % bootstrap interval of the mean: people drawn with replacement, 5 % and 95 % quantiles."""
    values = np.asarray(each, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (BOOTSTRAP_ROUNDS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.05, 0.95])
    return float(low), float(high)
