"""The `[[test]]`s of a policy: facts with the decision that they must give, run whenever the policy is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from onward.decide.document import PolicyDocument
from onward.decide.policy import Facts
from onward.decide.variables import MISSING, Variable, converter
from onward.errors import PolicyTestFailed
from onward.package.records import place
from onward.package.sections import Section, shown, suggestion
from onward.types import Decision

NOW_S = 1_767_225_600.0
"""When a test happens that gives no `now`: 2026-01-01T00:00:00Z."""

_EXPECTED = ("outcome", "rule", "reasons", "arguments", "actions")


def run_trials(document: PolicyDocument, variables: Mapping[str, Variable], decide: Callable[[Facts], Decision]) -> int:
    """Run every test; their number. Raises `PolicyError` for a test that is not well formed, else `PolicyTestFailed`
    for the first that gives another decision."""
    trials = [_trial(section, variables) for section in document.tables("test")]
    document.raise_problems()
    for index, (name, facts, expected) in enumerate(trials):
        difference = _difference(decide(facts), expected)
        if difference:
            key, wanted, found = difference
            where = place(document.file, document.lines, f"test[{index}].expect.{key}")
            raise PolicyTestFailed(f'test "{name}"', where=where, expected=wanted, found=found)
    return len(trials)


def _trial(section: Section, variables: Mapping[str, Variable]) -> tuple[str, Facts, Mapping[str, Any]]:
    name = section.text("name", expected="what the test shows")
    failure = section.text("failure", "", expected="the code of an error")
    parts = {root: _facts(section, root, variables) for root in ("result", "input", "profile")}
    recent = _recent(section)
    now = section.take("now")
    if now is not None and not (isinstance(now, datetime) and now.tzinfo is not None):
        section.problem("now", "wrong type", expected="a time with its offset: 2026-01-01T00:00:00Z", found=shown(now))
        now = None
    expected = section.document.table(section.key("expect"), section.take("expect") or {})
    for key in _EXPECTED:
        expected.take(key)
    expected.close()
    if not section.values.get("expect"):
        section.problem("expect", "missing", expected='{ outcome = "…", rule = "…", reasons = […], actions = […] }')
    section.close()
    facts = Facts(
        answer=None if failure else parts["result"], input=parts["input"], profile=parts["profile"],
        now_s=NOW_S if now is None else now.timestamp(), recent=recent, failure=failure,
    )  # fmt: skip
    return name, facts, expected.values


def _facts(section: Section, root: str, variables: Mapping[str, Variable]) -> dict[str, Any]:
    table = section.document.table(section.key(root), section.take(root) or {})
    own = {variable.keys: variable for variable in variables.values() if variable.root == root}
    _check_facts(section, table.values, (root,), own)
    return dict(table.values)


def _check_facts(
    section: Section, values: Mapping[str, Any], path: tuple[str, ...], own: Mapping[tuple[str, ...], Variable]
) -> None:
    """A slip in a test must not test nothing: every fact is declared and of its type."""
    for name, value in values.items():
        keys, key = (*path[1:], name), ".".join((*path, name))
        variable = own.get(keys)
        children = any(len(known) > len(keys) and known[: len(keys)] == keys for known in own)
        if variable is not None and not (children and isinstance(value, Mapping)):
            if converter(variable.type)(value) is MISSING:
                section.problem(key, "wrong type", expected=f"a value of type {variable.type}", found=shown(value))
        elif isinstance(value, Mapping) and children:
            _check_facts(section, value, (*path, name), own)
        else:
            known_names = [".".join(known) for known in own]
            found = f'"{name}"{suggestion(name, known_names)}'
            expected = f"one of {', '.join(known_names[:12])}" if known_names else "nothing: none is declared"
            section.problem(key, "no such field", expected=expected, found=found)


def _recent(section: Section) -> dict[str, int]:
    table = section.document.table(section.key("recent"), section.take("recent") or {})
    found = {}
    for outcome, count in table.values.items():
        if isinstance(count, bool) or not isinstance(count, int):
            table.problem(outcome, "wrong type", expected="how often: an integer", found=shown(count))
        else:
            found[outcome] = count
    return found


def _difference(decision: Decision, expected: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """The first thing named in `expected` that the decision does not have: (key, expected, found)."""
    given: dict[str, Any] = {
        "outcome": decision.outcome,
        "rule": decision.rule,
        "reasons": list(decision.reasons),
        "arguments": dict(decision.arguments),
        "actions": [{"name": call.name, "arguments": dict(call.arguments)} for call in decision.actions],
    }
    for key, wanted in expected.items():
        if not _holds(wanted, given[key]):
            why = f"{decision.outcome} by {decision.rule}, {', '.join(decision.reasons)}"
            found = str(given[key]) if key == "outcome" else f"{given[key]} ({why})"
            if key == "outcome":
                found = f"{given[key]} (by {decision.rule}: {', '.join(decision.reasons)})"
            return key, str(wanted), found
    return None


def _holds(wanted: Any, found: Any) -> bool:
    """Tables hold where all they name does; everything else is equal."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _holds(value, found[key]) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(_holds, wanted, found))
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    return bool(wanted == found)
