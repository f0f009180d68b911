"""`policy.toml`, read and checked against what a package declares; every problem with its line.

Uses the manifest's reader of TOML, so a policy's errors look like a manifest's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from onward.decide.action_tables import read_actions
from onward.decide.expressions import Expression, ExpressionProblem, Language
from onward.decide.records import Approval, Call, Cap, Cost, Costs, PolicyRecord, Rule, Verdict
from onward.decide.variables import NUMBER, STRING, Variable, is_writable, read_type
from onward.errors import ManifestError, PolicyError
from onward.package.manifest import NAME_PATTERN, VERSION_PATTERN
from onward.package.records import Manifest
from onward.package.sections import Document, ManifestProblems, Section, shown, suggestion

POLICY_FILE = "policy.toml"
FORMAT = 1
OUTCOME_PATTERN = r"[a-z][a-z0-9_-]{0,63}(?::[a-z0-9][a-z0-9_-]{0,63})?"
REASON_PATTERN = r"[A-Z][A-Z0-9_]{0,63}"
RULE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
FALLBACK, DEFAULT, ABSTAIN = "fallback", "default", "abstain"
MAX_RULES = 256

_OUTCOME = 'a word or word:word in lower case, such as "approve" or "route:complaints"'
_KEYS = ("format", "policy", "facts", "costs", "abstain", "rule", "cap", "action", "test")
_KINDS_OF_WORDS = {"number": ("DOUBLE", "INT"), "integer": ("INT",), "boolean": ("BOOL",), "string": ("STRING",)}
_PLAIN_KINDS = ("DOUBLE", "INT", "UINT", "BOOL", "STRING", "LIST", "MAP", "NULL", "DYN")


class PolicyDocument(Document):
    """A policy's text with the problems found so far."""

    def __init__(self, text: str, file: str = POLICY_FILE) -> None:
        try:
            super().__init__(text, file)
        except ManifestError as error:
            raise _as_policy_error(error) from None
        self._text_lines = text.splitlines()

    def raise_problems(self) -> None:
        """Raise what was found wrong so far, if anything, as `PolicyError`."""
        problems = [_as_policy_error(problem) for problem in self.problems]
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise PolicyProblems(problems, file=self.file)

    def raise_now(self) -> NoReturn:
        """Raise what was found, of which there is some."""
        self.raise_problems()
        raise PolicyError(where=self.file)

    def at(self, key: str, problem: ExpressionProblem) -> None:
        """Note a problem inside the expression at `key`, at its own line where the text has several."""
        start = self.lines.get(key, 0)
        line, shift = start, problem.line - 1
        opening = self._text_lines[start - 1] if 0 < start <= len(self._text_lines) else ""
        if shift > 0 or opening.rstrip().endswith(("'''", '"""')):
            line += max(shift, 0) + opening.rstrip().endswith(("'''", '"""'))
        column = f" (column {problem.column} of the expression)" if problem.column else ""
        where = f"{self.file}:{line}: {key}" if start else f"{self.file}: {key}"
        error = PolicyError(problem.message + column, where=where, expected=problem.expected, found=problem.found)
        self.problems.append(error)


class PolicyProblems(PolicyError):
    """The policy has several problems."""

    def __init__(self, problems: Iterable[PolicyError], *, file: str) -> None:
        self.problems = tuple(problems)
        listing = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} problems:{listing}", where=file)


def read_policy(document: PolicyDocument, manifest: Manifest, variables: Mapping[str, Variable]) -> PolicyRecord:
    """The policy of a document. Raises `PolicyError`, or `PolicyProblems` where there are several."""
    if not _format_is_known(document):
        document.raise_now()
    facts = dict(variables) | _read_facts(document, variables)
    language = Language([*facts.values(), *_cost_variables(document)])
    reader = _Reader(document, language)
    policy = document.section("policy")
    name = policy.text("name", manifest.package.name, pattern=NAME_PATTERN, expected="a name in lower case")
    version = policy.text("version", pattern=VERSION_PATTERN, expected='dotted numbers, such as "1.0"')
    default, fallback = _verdict_at(policy, DEFAULT), _verdict_at(policy, FALLBACK)
    policy.close()
    actions, conditions = read_actions(document)
    costs = reader.costs()
    rules = [*reader.abstain(), *reader.rules(actions)]
    caps = _read_caps(document)
    approvals = {
        action: approval
        for index, (action, condition) in conditions.items()
        if (approval := _approval(document, f"action[{index}].approval", actions[action], condition, facts))
    }
    document.raise_problems()  # a rule that could not be read leaves its outcome unknown
    _check_outcomes(document, caps, {default.outcome, fallback.outcome, *(rule.verdict.outcome for rule in rules)})
    document.raise_problems()
    return PolicyRecord(
        name=name, version=version, default=default, fallback=fallback, rules=tuple(rules), costs=costs, caps=caps,
        actions=actions, approvals=approvals, variables=facts, language=language,
    )  # fmt: skip


class _Reader:
    """Reads what holds expressions of one language."""

    def __init__(self, document: PolicyDocument, language: Language) -> None:
        self._document = document
        self._language = language

    def abstain(self) -> list[Rule]:
        if "abstain" not in self._document.values:
            return []
        return self._one_rule(self._document.section("abstain"), ABSTAIN, {})

    def rules(self, actions: Mapping[str, Any]) -> list[Rule]:
        found: list[Rule] = []
        sections = self._document.tables("rule")
        if len(sections) > MAX_RULES:
            expected = f"at most {MAX_RULES}"
            self._document.problem("rule", "too many rules", expected=expected, found=str(len(sections)))
            self._document.raise_now()
        for section in sections:
            name = section.text("name", pattern=RULE_PATTERN, expected="a name of a-z, 0-9, _ and -")
            if name in (FALLBACK, DEFAULT, ABSTAIN):
                section.problem("name", "a word of its own", expected="another name", found=f'"{name}"')
            elif name and name in [rule.name for rule in found]:
                section.problem("name", "given twice", expected="different names", found=f'"{name}"')
            found += self._one_rule(section, name, actions)
        return found

    def costs(self) -> Costs | None:
        if "costs" not in self._document.values:
            return None
        section = self._document.section("costs")
        probability = self.expression(section, "probability", ("DOUBLE",), "a number from 0 to 1")
        outcomes = {}
        table = self._document.table("costs.outcomes", section.take("outcomes") or {})
        for name in table.values:
            table.take(name)
            if re.fullmatch(OUTCOME_PATTERN, name) is None:
                table.problem(name, "not an outcome", expected=_OUTCOME, found=f'"{name}"')
            entry = self._document.table(table.key(name), table.values[name])
            positive, negative = self._cost(entry, "positive"), self._cost(entry, "negative")
            entry.close()
            if positive is not None and negative is not None:
                outcomes[name] = Cost(positive=positive, negative=negative)
        section.close()
        if not table.values:
            section.problem("outcomes", "missing", expected="[costs.outcomes] with a cost for each outcome")
        return Costs(probability=probability, outcomes=outcomes) if probability else None

    def expression(
        self, section: Section, name: str, kinds: tuple[str, ...], expected: str, *, costs: bool = False
    ) -> Expression | None:
        """The expression at a key, checked to be of one of the kinds."""
        if not section.has(name):
            section.take(name)
            section.problem(name, "missing", expected=f"a CEL expression: {expected}")
            return None
        text = section.text(name, expected="a CEL expression, as text")
        if not isinstance(section.values[name], str):
            return None
        key = section.key(name)
        try:
            compiled = self._language.compile(text)
        except ExpressionProblem as problem:
            self._document.at(key, problem)
            return None
        if not costs and section.path.startswith("costs") and any(p.startswith("cost.") for p in compiled.reads):
            self._document.at(key, ExpressionProblem("a cost that depends on costs", expected="result, input, profile"))
        if compiled.kind not in kinds:
            hint = "; compare it: x == true" if compiled.kind == "DYN" else ""
            found = f"{compiled.kind.lower()}, as in {shown(text)}{hint}"
            self._document.at(key, ExpressionProblem("wrong type", expected=expected, found=found))
            return None
        return compiled

    def _cost(self, entry: Section, name: str) -> float | Expression | None:
        value = entry.values.get(name)
        if isinstance(value, str):
            return self.expression(entry, name, ("DOUBLE",), 'a number, such as 3.0 or "input.Amount"')
        number = entry.number(name)
        if value is None:
            entry.problem(name, "missing", expected="what this outcome costs then: a number or a CEL expression")
        return number

    def _one_rule(self, section: Section, name: str, actions: Mapping[str, Any]) -> list[Rule]:
        when = self.expression(section, "when", ("BOOL",), "true or false")
        verdict = _verdict(section)
        arguments = self._arguments(section, "arguments", None) if name != ABSTAIN else {}
        calls = []
        if name != ABSTAIN:
            raw = section.take("action") or []
            for index, value in enumerate(raw if isinstance(raw, list) else [raw]):
                table = self._document.table(f"{section.path}.action[{index}]", value)
                calls += self._call(table, actions)
        section.close()
        if when is None:
            return []
        return [Rule(name=name, when=when, verdict=verdict, arguments=arguments, calls=tuple(calls))]

    def _call(self, table: Section, actions: Mapping[str, Any]) -> list[Call]:
        name = table.text("name", expected="the name of an [[action]]")
        action = actions.get(name)
        if name and action is None:
            expected = f"one of {', '.join(actions)}" if actions else "an [[action]] of that name"
            table.problem("name", "no such action", expected=expected, found=f'"{name}"{suggestion(name, actions)}')
        declared = action.arguments if action else None
        arguments = self._arguments(table, "arguments", declared)
        written = table.values.get("arguments") or {}
        for argument in (declared or {}).values():
            if argument.required and argument.default is None and argument.name not in written:
                expected = f"a CEL expression for {argument.name} ({argument.type})"
                table.problem("arguments", "an argument is missing", expected=expected)
        table.close()
        return [Call(action=action, arguments=arguments)] if action else []

    def _arguments(self, section: Section, key: str, declared: Mapping[str, Any] | None) -> dict[str, Expression]:
        table = self._document.table(section.key(key), section.take(key) or {})
        found = {}
        for name in table.values:
            kinds: tuple[str, ...] = _PLAIN_KINDS
            expected = "a value that JSON can hold; string(x) makes text of a time"
            if declared is not None:
                if name not in declared:
                    listed = f"one of {', '.join(declared)}" if declared else "no arguments"
                    found_name = f'"{name}"{suggestion(name, declared)}'
                    table.problem(name, "no such argument", expected=listed, found=found_name)
                    continue
                word = declared[name].type
                kinds, expected = (*_KINDS_OF_WORDS.get(word, _PLAIN_KINDS), "DYN"), f"a {word}"
            compiled = self.expression(table, name, kinds, expected, costs=True)
            if compiled:
                found[name] = compiled
        return found


def _format_is_known(document: PolicyDocument) -> bool:
    top = document.section()
    found = top.take("format")
    if found is None:
        document.problem("format", "missing", expected=f"format = {FORMAT}, before the first table")
    elif found != FORMAT or isinstance(found, bool):
        expected = str(FORMAT)
        document.problem("format", "not a format this version of Onward reads", expected=expected, found=shown(found))
    for key in _KEYS:
        top.take(key)
    if not top.has("policy"):
        document.problem("policy", "missing", expected="[policy] with version, default and fallback")
    top.close()
    return top.has("policy") and found == FORMAT


def _read_facts(document: PolicyDocument, variables: Mapping[str, Variable]) -> dict[str, Variable]:
    """`[facts]`: what somebody else than the package puts into input, result or profile."""
    found: dict[str, Variable] = {}
    facts = document.section("facts")
    for root in ("input", "result", "profile"):
        table = document.table(f"facts.{root}", facts.take(root) or {})
        _read_fact_table(document, table, root, (), found)
    facts.close()
    for path in found:
        if path in variables:
            document.problem(f"facts.{path}", "the package declares this", expected="only what it does not declare")
    return found


def _read_fact_table(
    document: PolicyDocument, table: Section, root: str, keys: tuple[str, ...], found: dict[str, Variable]
) -> None:
    for name, value in table.values.items():
        if not is_writable(name):
            table.problem(name, "not a name in CEL", expected="letters, digits and _", found=f'"{name}"')
        elif isinstance(value, dict):
            _read_fact_table(document, document.table(table.key(name), value), root, (*keys, name), found)
        else:
            kind = read_type(value) if isinstance(value, str) else None
            if kind is None:
                expected = "number, integer, boolean, string, any, list(…) or map(…)"
                table.problem(name, "not a type", expected=expected, found=shown(value))
            else:
                variable = Variable(root=root, keys=(*keys, name), type=kind)
                found[variable.path] = variable


def _cost_variables(document: PolicyDocument) -> list[Variable]:
    costs = document.values.get("costs")
    outcomes = costs.get("outcomes") if isinstance(costs, dict) else None
    if not isinstance(outcomes, dict):
        return []
    named = [Variable(root="cost", keys=(name,), type=NUMBER) for name in outcomes if name != "best"]
    return [Variable(root="cost", keys=("best",), type=STRING), *named]


def _verdict_at(section: Section, name: str) -> Verdict:
    value = section.take(name)
    if value is None:
        section.problem(name, "missing", expected='{ outcome = "review", reasons = ["WHY"] }')
        return Verdict(outcome="", reasons=())
    table = section.document.table(section.key(name), value)
    verdict = _verdict(table)
    table.close()
    return verdict


def _verdict(section: Section) -> Verdict:
    outcome = section.text("outcome", pattern=OUTCOME_PATTERN, expected=_OUTCOME)
    reasons = section.names("reasons", kind="reason codes")
    for index, reason in enumerate(reasons):
        if re.fullmatch(REASON_PATTERN, reason) is None:
            expected = 'a code in capitals, such as "RATE_CAP"'
            section.problem(f"reasons[{index}]", "not a reason code", expected=expected, found=shown(reason))
    return Verdict(outcome=outcome, reasons=reasons)


def _read_caps(document: PolicyDocument) -> dict[str, Cap]:
    caps: dict[str, Cap] = {}
    for section in document.tables("cap"):
        outcome = section.text("outcome", pattern=OUTCOME_PATTERN, expected=_OUTCOME)
        if not section.has("at_most"):
            section.problem("at_most", "missing", expected="how often: an integer from 0 up")
        at_most = section.integer("at_most", 0, minimum=0)
        per_s = section.number("per_s")
        if per_s is None or per_s <= 0:
            section.problem("per_s", "missing" if per_s is None else "out of range", expected="seconds, above 0")
        cap = Cap(outcome=outcome, at_most=at_most, per_s=per_s or 0.0, otherwise=_verdict_at(section, "otherwise"))
        section.close()
        if outcome in caps:
            section.problem("outcome", "given twice", expected="one cap for an outcome", found=f'"{outcome}"')
        caps[outcome] = cap
    return caps


def _check_outcomes(document: PolicyDocument, caps: Mapping[str, Cap], outcomes: set[str]) -> None:
    for index, cap in enumerate(caps.values()):
        if cap.outcome and cap.outcome not in outcomes:
            found = f'"{cap.outcome}"{suggestion(cap.outcome, outcomes)}'
            expected = f"one of {', '.join(sorted(outcomes))}"
            document.problem(f"cap[{index}].outcome", "nothing has this outcome", expected=expected, found=found)
        if cap.otherwise.outcome in caps:
            expected, found = "an outcome without a cap", f'"{cap.otherwise.outcome}"'
            document.problem(f"cap[{index}].otherwise", "capped itself", expected=expected, found=found)


def _approval(
    document: PolicyDocument, key: str, action: Any, condition: str, facts: Mapping[str, Variable]
) -> Approval | None:
    arguments = [
        Variable(root="arguments", keys=(argument.name,), type=read_type(argument.type) or STRING)
        for argument in action.arguments.values()
    ]
    language = Language([*facts.values(), *arguments])
    try:
        compiled = language.compile(condition)
    except ExpressionProblem as problem:
        document.at(key, problem)
        return None
    if compiled.kind != "BOOL":
        found = f"{compiled.kind.lower()}, as in {shown(condition)}"
        document.at(key, ExpressionProblem("wrong type", expected="true or false", found=found))
        return None
    return Approval(language=language, condition=compiled)


def _as_policy_error(error: ManifestError) -> PolicyError:
    if isinstance(error, PolicyError):
        return error
    if isinstance(error, ManifestProblems):
        return PolicyProblems([_as_policy_error(problem) for problem in error.problems], file=error.where)
    return PolicyError(error.message, where=error.where, expected=error.expected, found=error.found)
