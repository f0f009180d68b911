"""What a `policy.toml` says, as frozen records with checked expressions. Decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onward.decide.actions import ActionType
from onward.decide.expressions import Expression, Language
from onward.decide.variables import Variable


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome with its reason codes."""

    outcome: str
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """`[[cap]]`: at most so many of an outcome within `per_s` seconds; beyond that, `otherwise`."""

    outcome: str
    at_most: int
    per_s: float
    otherwise: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an outcome costs where the case is positive, and where it is negative: a number or an expression."""

    positive: float | Expression
    negative: float | Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """`[costs]`: the probability that the case is positive, and each outcome's cost, in the file's order."""

    probability: Expression
    outcomes: Mapping[str, Cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`[[rule.action]]`: an action with an expression for each argument."""

    action: ActionType
    arguments: Mapping[str, Expression]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`[[rule]]`, or `[abstain]` as the first of them: when it fires, what comes of it."""

    name: str
    when: Expression
    verdict: Verdict
    arguments: Mapping[str, Expression] = field(default_factory=dict)
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """When a person must approve an action: the condition in the language of that action's arguments."""

    language: Language
    condition: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """A whole policy. `variables` are the facts that expressions may read, `language` speaks of them and of costs."""

    name: str
    version: str
    default: Verdict
    fallback: Verdict
    rules: tuple[Rule, ...]
    costs: Costs | None
    caps: Mapping[str, Cap]
    actions: Mapping[str, ActionType]
    approvals: Mapping[str, Approval]
    variables: Mapping[str, Variable]
    language: Language
