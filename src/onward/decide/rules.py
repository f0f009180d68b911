"""A package's policy, ready to decide: ordered rules, costs, caps, fallback.

Pure: the decision depends on the facts alone, and comes out the same from facts that went through JSON. Nothing that
a rule does can raise: where one cannot be evaluated, the decision is the fallback with the reason POLICY_ERROR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward.decide.actions import ActionType, Argument
from onward.decide.conversation import dialogue_facts
from onward.decide.costs import CostTable, Threshold
from onward.decide.document import DEFAULT, FALLBACK, POLICY_FILE, PolicyDocument, read_policy
from onward.decide.expressions import Language, Reading
from onward.decide.policy import Facts
from onward.decide.records import Cap, PolicyRecord, Rule
from onward.decide.trials import run_trials
from onward.decide.variables import ANY, MISSING, Variable, converter, variables_of
from onward.errors import ArgumentRefused, PolicyError
from onward.package.records import Manifest
from onward.package.sections import TEXT_LIMIT_BYTES
from onward.types import ActionCall, Decision, Signature

__all__ = ["ActionType", "Argument", "ArgumentRefused", "Rules", "load_policy", "parse_policy"]

POLICY_ERROR = "POLICY_ERROR"
ARGUMENT_REFUSED = "ARGUMENT_REFUSED"
COSTS = "costs"
"""What a decision names as its failed rule where the cost matrix could not be evaluated."""
_TOGETHER = 16
"""Rules in one program: deeper ones exceed the library's limit on nesting."""
_plain = converter(ANY)


def load_policy(folder: Path, manifest: Manifest, signature: Signature | None = None) -> Rules | None:
    """The policy of a package folder; None where it has no `policy.toml`.

    Checks every expression against what the package declares and runs the policy's tests. Raises `PolicyError` naming
    file, line and key (`PolicyProblems` where there are several), `PolicyTestFailed`, or `MissingExtra`.
    """
    file = folder / POLICY_FILE
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        data = stream.read(TEXT_LIMIT_BYTES + 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError("not valid UTF-8", where=f"{POLICY_FILE}:{line}", expected="TOML in UTF-8") from None
    return parse_policy(text, manifest, signature, more=dialogue_facts(folder))


def parse_policy(
    text: str, manifest: Manifest, signature: Signature | None = None, *, more: Mapping[str, Variable] | None = None
) -> Rules:
    """A policy from its text, checked and tested; see `load_policy`. `more` are variables that no manifest declares."""
    document = PolicyDocument(text)
    record = read_policy(document, manifest, variables_of(manifest, signature) | dict(more or {}))
    entity = manifest.profile.entity if manifest.profile is not None else ""
    rules = Rules(record, digest=hashlib.sha256(text.encode()).hexdigest(), entity=entity)
    run_trials(document, record.variables, rules.decide)
    return rules


@dataclass(frozen=True, slots=True)
class _Together:
    """Some neighbouring rules as one program that gives the index of the first that fires."""

    program: Any
    rules: Sequence[Rule]


class Rules:
    """A checked policy. `decide` is pure and total; safe to call from any thread."""

    def __init__(self, record: PolicyRecord, *, digest: str, entity: str = "") -> None:
        self.name = record.name
        self.version = record.version
        self.digest = digest
        self.entity = entity
        self.actions: Mapping[str, ActionType] = record.actions
        self.caps: Mapping[str, Cap] = record.caps
        self.rules: Sequence[Rule] = record.rules
        self.variables: Mapping[str, Variable] = record.variables
        self._record = record
        self._language = record.language
        whens = [rule.when for rule in record.rules]
        self._costs = CostTable(record.costs, record.language) if record.costs else None
        wanted = [*whens, *(self._costs.expressions if self._costs else ())]
        self._reading = Reading(record.language, wanted)
        self._together = _together(record.language, record.rules)
        self._extras = {
            rule.name: _Extras(record.language, rule) for rule in record.rules if rule.arguments or rule.calls
        }
        readings = (self._reading, *(extras.reading for extras in self._extras.values()))
        self._reads_costs = self._costs is not None and any(reading.reads_costs for reading in readings)
        self._approvals = {
            name: (approval, Reading(approval.language, [approval.condition]))
            for name, approval in record.approvals.items()
        }

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Every outcome that a decision of this policy can have."""
        record = self._record
        verdicts = [rule.verdict for rule in record.rules] + [cap.otherwise for cap in record.caps.values()]
        return tuple(dict.fromkeys(v.outcome for v in (*verdicts, record.default, record.fallback)))

    def decide(self, facts: Facts) -> Decision:
        """The decision for one result; never raises."""
        fallback = self._record.fallback
        if facts.answer is None:
            decision = Decision(outcome=fallback.outcome, rule=FALLBACK, reasons=fallback.reasons)
        else:
            try:
                decision = self._decided(facts)
            except _Failed as failed:
                decision = self._unable(POLICY_ERROR, {"rule": failed.rule})
            except Exception:  # what a rule cannot do must not depend on who calls
                decision = self._unable(POLICY_ERROR, {})
        cap = self.caps.get(decision.outcome)
        if cap is not None and facts.recent.get(cap.outcome, 0) >= cap.at_most:
            verdict = cap.otherwise
            return Decision(outcome=verdict.outcome, rule=decision.rule, reasons=verdict.reasons)
        return decision

    def needs_approval(self, call: ActionCall, facts: Facts) -> bool:
        """Whether a person must approve a call. Where the condition cannot be evaluated, or nobody knows the action,
        one must."""
        if call.name not in self.actions:
            return True
        if call.name not in self._approvals:
            return False
        approval, reading = self._approvals[call.name]
        try:
            activation = approval.language.activation(reading.values(facts, call.arguments))
            needed = approval.condition.program.eval(activation).plain_value()
        except Exception:
            return True
        return needed is not False

    def thresholds(self) -> tuple[Threshold, ...]:
        """From which probability on each outcome is the cheapest; empty where costs depend on the case."""
        return self._costs.thresholds() if self._costs else ()

    def describe(self) -> dict[str, Any]:
        """The policy in plain values, for people."""
        record = self._record
        return {
            "name": self.name,
            "version": self.version,
            "digest": self.digest,
            "outcomes": list(self.outcomes),
            "rules": [
                {"name": rule.name, "when": rule.when.text, "outcome": rule.verdict.outcome,
                 "reasons": list(rule.verdict.reasons), "actions": [call.action.name for call in rule.calls]}
                for rule in record.rules
            ],
            "default": {"outcome": record.default.outcome, "reasons": list(record.default.reasons)},
            "fallback": {"outcome": record.fallback.outcome, "reasons": list(record.fallback.reasons)},
            "thresholds": [{"from": one.probability, "outcome": one.outcome} for one in self.thresholds()],
            "caps": [
                {"outcome": cap.outcome, "at_most": cap.at_most, "per_s": cap.per_s, "otherwise": cap.otherwise.outcome}
                for cap in record.caps.values()
            ],
            "actions": [
                {"name": action.name, "description": action.description, "approval": action.approval,
                 "arguments": {name: argument.type for name, argument in action.arguments.items()}}
                for action in record.actions.values()
            ],
        }  # fmt: skip

    def _decided(self, facts: Facts) -> Decision:
        values = self._reading.values(facts, {})
        costs: dict[str, Any] = {}
        if self._reads_costs and self._costs is not None:
            try:
                costs = self._costs.values(self._language.activation(values))
            except (ValueError, RuntimeError):
                raise _Failed(COSTS) from None
            values |= costs
        rule = self._first(self._language.activation(values))
        if rule is None:
            default = self._record.default
            return Decision(outcome=default.outcome, rule=DEFAULT, reasons=default.reasons)
        if not rule.arguments and not rule.calls:
            return Decision(outcome=rule.verdict.outcome, rule=rule.name, reasons=rule.verdict.reasons)
        return self._with_arguments(rule, facts, costs)

    def _first(self, activation: Any) -> Rule | None:
        for together in self._together:
            index = _value(together.program, activation)
            if type(index) is bool:
                index = 0 if index else -1
            if type(index) is not int:
                raise _Failed(_failing(together.rules, activation))
            if index >= 0:
                return together.rules[index]
        return None

    def _with_arguments(self, rule: Rule, facts: Facts, costs: dict[str, Any]) -> Decision:
        extras = self._extras[rule.name]
        try:
            activation = self._language.activation(extras.reading.values(facts, {}) | costs)
            arguments, wanted = extras.evaluate(activation)
        except Exception:
            raise _Failed(rule.name) from None
        try:
            actions = tuple(ActionCall(name=action.name, arguments=action.check(given)) for action, given in wanted)
        except ArgumentRefused as refused:
            return self._unable(ARGUMENT_REFUSED, {"rule": rule.name, "argument": refused.where})
        return Decision(
            outcome=rule.verdict.outcome, rule=rule.name, reasons=rule.verdict.reasons, arguments=arguments,
            actions=actions,
        )  # fmt: skip

    def _unable(self, reason: str, arguments: Mapping[str, str]) -> Decision:
        return Decision(outcome=self._record.fallback.outcome, rule=FALLBACK, reasons=(reason,), arguments=arguments)


class _Failed(Exception):
    """A rule could not be evaluated on these facts."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def _together(language: Language, rules: Sequence[Rule]) -> list[_Together]:
    """Programs for neighbouring rules. One with a loop stays alone: the library's bound on steps is a program's."""
    found: list[_Together] = []
    group: list[Rule] = []
    for rule in rules:
        if rule.when.loops or len(group) == _TOGETHER:
            found += _joined(language, group)
            group = []
        if rule.when.loops:
            found.append(_Together(rule.when.program, [rule]))
        else:
            group.append(rule)
    return found + _joined(language, group)


def _joined(language: Language, group: Sequence[Rule]) -> list[_Together]:
    """As many rules in a program as its nesting allows."""
    if len(group) <= 1:
        return [_Together(rule.when.program, [rule]) for rule in group]
    program = language.join([rule.when for rule in group])
    if program is not None:
        return [_Together(program, group)]
    half = len(group) // 2
    return [*_joined(language, group[:half]), *_joined(language, group[half:])]


class _Extras:
    """The arguments of a rule and of its actions, evaluated together."""

    def __init__(self, language: Language, rule: Rule) -> None:
        own, calls = [*rule.arguments.values()], [[*call.arguments.values()] for call in rule.calls]
        expressions = [*own, *(one for call in calls for one in call)]
        self.reading = Reading(language, expressions)
        self._listed = language.listed(expressions)
        self._names = tuple(rule.arguments)
        self._calls = [(call.action, tuple(call.arguments)) for call in rule.calls]

    def evaluate(self, activation: Any) -> tuple[dict[str, Any], list[tuple[ActionType, dict[str, Any]]]]:
        """The rule's arguments and, for each action, its own. Raises `ValueError` where one has no value."""
        given = iter([_as_json(value) for value in self._listed.values(activation)])
        arguments = {name: next(given) for name in self._names}
        return arguments, [(action, {name: next(given) for name in names}) for action, names in self._calls]


def _as_json(value: Any) -> Any:
    plain = None if value is None else _plain(value)
    if plain is MISSING:
        raise ValueError("neither finite nor small enough")
    return plain


def _failing(rules: Sequence[Rule], activation: Any) -> str:
    """Which of some rules is the first that cannot be evaluated."""
    return next((rule.name for rule in rules if not isinstance(_value(rule.when.program, activation), bool)), "")


def _value(program: Any, activation: Any) -> Any:
    """A program's value; whatever goes wrong comes as text, as the library gives most errors."""
    try:
        return program.eval(activation).plain_value()
    except RuntimeError as error:  # the bound on steps
        return str(error)
