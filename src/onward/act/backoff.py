"""How long to wait before an action is tried again. Knows numbers only; the chance comes from outside."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_RETRY_AFTER_S = 3600.0
"""What a target's Retry-After may ask for at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential, with full jitter: after the n-th try, anything from 0 to `first_s`·2^(n-1), at most `longest_s`.

    Full jitter spreads the tries of many actions that failed together evenly over the wait.
    """

    first_s: float = 1.0
    longest_s: float = 300.0

    def delay_s(self, tries: int, chance: random.Random, *, retry_after_s: float = 0.0) -> float:
        """The wait after `tries` (≥ 1); not less than what the target asked for."""
        ceiling_s = min(self.longest_s, self.first_s * 2.0 ** min(tries - 1, 60))
        return max(chance.uniform(0.0, ceiling_s), min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S))
