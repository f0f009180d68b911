"""The seam between a result and what the business makes of it. Knows no rules: `policy.toml` gives those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from onward.types import Decision, Item

Profile: TypeAlias = Mapping[str, Any]
"""An entity's features as they were read for this item; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that a decision may depend on, and what the audit log keeps of it: plain values that JSON carries exactly.

    `answer` is what a person reads of the result; None where the model gave none (unavailable, deadline passed), and
    `failure` is then the error's code. `recent` counts the outcomes of this policy lately, for its rate caps:
    {outcome: how often within the cap's time}.
    """

    answer: Mapping[str, Any] | None
    input: Item
    profile: Profile = field(default_factory=dict)
    now_s: float
    recent: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""


class Policy(Protocol):
    """Pure: the same facts always give the same decision, so that it can be recomputed from its log entry."""

    def decide(self, facts: Facts) -> Decision:
        """The decision for one result."""
        ...
