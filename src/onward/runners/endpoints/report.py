"""What a comparison of two endpoints found, and whether it is within the stated bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onward.errors import BeyondBounds

MOST_TOLD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What still counts as the same: numbers within `tolerance` (over their size where that is above 1), at least the
    share `agreement` of all requests answered alike, and the new p99 at most `p99_ratio` times the old one (None: any).
    """

    tolerance: float
    agreement: float = 1.0
    p99_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """One request that is not answered alike: its line in the file, where, and by how much where that is a number."""

    line: int
    where: str
    difference: float = 0.0


@dataclass(slots=True, kw_only=True)
class Agreement:
    """The answers to each request once: the same in every bit, within the tolerance, refused by both (with the same
    status, of those that lay it to the request: 400, 413, 415, 422), or not alike: `differing` in what they say,
    `failed` where one side gave no answer that the other gave, or neither did.
    """

    requests: int = 0
    equal: int = 0
    within_tolerance: int = 0
    refused_by_both: int = 0
    differing: int = 0
    failed: int = 0
    largest_difference: float = 0.0
    first: list[Apart] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of requests that are answered alike."""
        alike = self.equal + self.within_tolerance + self.refused_by_both
        return alike / self.requests if self.requests else math.nan

    @property
    def compared(self) -> int:
        """The requests that both sides answered, alike or not."""
        return self.equal + self.within_tolerance + self.differing

    def note(self, apart: Apart) -> None:
        """Keep the first few that are not alike."""
        if len(self.first) < MOST_TOLD:
            self.first.append(apart)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What was measured of one endpoint. `failures` counts other statuses than 2xx, "none" those without an answer.

    `p99_ms_rounds` are the p99 of each round: how far they are apart is the noise. Costs are None where nothing was
    given to compute them from.
    """

    url: str
    form: str
    requests: int
    failures: Mapping[str, int]
    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p99_ms_rounds: Sequence[float]
    cpu_s_per_1000: float | None = None
    cost_per_million: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that a comparison found. `client_share` is how much of a core the client itself took: near 1, it and not the
    endpoint is what limits the rates."""

    old: Side
    new: Side
    agreement: Agreement
    bounds: Bounds
    together: int
    seconds: float
    client_share: float

    @property
    def p99_ratio(self) -> float:
        """The new p99 over the old one; NaN where either has none."""
        return self.new.p99_ms / self.old.p99_ms if self.old.p99_ms else math.nan

    @property
    def beyond(self) -> list[str]:
        """Each bound that does not hold, in words; none does where nothing was answered."""
        found = []
        if not self.agreement.compared:
            found.append("no request was answered by both")
        elif not self.agreement.share >= self.bounds.agreement:
            found.append(f"{self.agreement.share:.2%} answered alike, at least {self.bounds.agreement:.2%} wanted")
        if self.bounds.p99_ratio is not None and not self.p99_ratio <= self.bounds.p99_ratio:
            found.append(f"p99 is {self.p99_ratio:.2f} times the old, at most {self.bounds.p99_ratio:g} wanted")
        return found

    def as_record(self) -> dict[str, Any]:
        """As JSON holds it: numbers that are none are null."""
        agreement = asdict(self.agreement) | {"share": self.agreement.share}
        told = {
            "old": asdict(self.old), "new": asdict(self.new), "agreement": agreement, "bounds": asdict(self.bounds),
            "p99_ratio": self.p99_ratio, "together": self.together, "seconds": self.seconds,
            "client_share": self.client_share, "within_bounds": not self.beyond, "beyond": self.beyond,
        }  # fmt: skip
        return {key: _finite(value) for key, value in told.items()}

    def check(self) -> None:
        """Raise `BeyondBounds` where one does not hold."""
        if self.beyond:
            first = self.agreement.first[0] if self.agreement.first else None
            found = f"{'; '.join(self.beyond)}" + (f"; line {first.line}{first.where}" if first else "")
            raise BeyondBounds(where=self.new.url, found=found)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
