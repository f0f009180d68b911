"""The seam between a result and what the business makes of it. Knows no rules: `policy.toml` gives those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

from onward.types import Decision, Item, Result

Profile: TypeAlias = Mapping[str, Any]
"""An entity's features as they were read for this item; empty where there is none."""


class Policy(Protocol):
    """Pure: the same arguments always give the same decision, so that it can be recomputed from its log entry."""

    def decide(self, result: Result, item: Item, profile: Profile, now_s: float) -> Decision:
        """The decision for one result. `now_s` (seconds since the epoch) is the only time that a rule may know."""
        ...
