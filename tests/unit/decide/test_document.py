"""A wrong policy is refused with its line, its key, what was found and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.decide.document import PolicyProblems
from onward.decide.rules import load_policy, parse_policy
from onward.errors import PolicyError
from onward.package.manifest import parse_manifest
from tests.unit.decide.policies import MANIFEST_TEXT, manifest

GOOD = '''format = 1
[policy]
name = "fraud"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[facts.input]
intent = "string"
slots = { order = "string", amount = "number" }
[costs]
probability = "result.probability"
[costs.outcomes]
approve = { positive = "input.Amount", negative = 0 }
decline = { positive = 0.0, negative = "8.0" }
[abstain]
when = "result.probability == 0.5"
outcome = "review"
reasons = ["UNSURE"]
[[rule]]
name = "cheapest"
when = "cost.best == 'decline'"
outcome = "route:fraud"
reasons = ["COST"]
arguments = { amount = "input.Amount" }
[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.Amount", urgent = "true" }
[[rule]]
name = "long"
when = """
input.slots.amount > 5.0
  && has(input.intent)
"""
outcome = "decline"
reasons = ["LONG"]
[[cap]]
outcome = "decline"
at_most = 20
per_s = 3600
otherwise = { outcome = "review", reasons = ["RATE_CAP"] }
[[action]]
name = "hold"
approval = "arguments.amount > 50.0"
approval_expires_s = 60
compensation = "release"
[action.arguments]
card = { type = "string", max_length = 40, pattern = "[a-z0-9-]+" }
amount = { type = "number", minimum = 0, maximum = 10000, default = 1.0 }
urgent = "boolean"
[[action]]
name = "release"
[action.arguments]
card = "string"
amount = "number"
urgent = "boolean"
[[test]]
name = "declined"
result = { probability = 0.99 }
input = { Amount = 900, card = "c1", slots = { amount = 1.0 } }
recent = { decline = 3 }
now = 2026-01-01T00:00:00Z
expect = { outcome = "route:fraud", rule = "cheapest", actions = [{ name = "hold", arguments = { card = "c1" } }] }
'''


def test_a_whole_policy_is_read() -> None:
    rules = parse_policy(GOOD, manifest())
    assert [rule.name for rule in rules.rules] == ["abstain", "cheapest", "long"]
    assert rules.actions["hold"].approval_expires_s == 60.0
    assert rules.actions["hold"].compensation == "release"
    assert rules.actions["release"].approval_expires_s == 86_400.0


# what to replace, with what: line, key, and what the error says
BAD = {
    "format missing": ("format = 1\n", "", "policy.toml: format: missing; expected format = 1"),
    "format newer": ("format = 1", "format = 2", ":1: format: not a format"),
    "format no integer": ("format = 1", "format = true", ":1: format: not a format"),
    "unknown table": ("[abstain]", "[abstian]", ':15: abstian: unknown key; expected one of format, policy'),
    "unknown key": ('version = "1"', 'version = "1"\nvresion = "2"', ':5: policy.vresion: unknown key'),
    "no version": ('version = "1"\n', "", ":2: policy.version: missing"),
    "no default": ('default = { outcome = "approve", reasons = ["NO_RULE"] }\n', "", ":2: policy.default: missing"),
    "no fallback": ('fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }', "",
        ":2: policy.fallback: missing"),
    "outcome in capitals": ('outcome = "route:fraud"\nreasons', 'outcome = "Route"\nreasons',
        ":22: rule[0].outcome: not allowed here"),
    "reason in small letters": ('reasons = ["COST"]', 'reasons = ["cost"]',
        ":23: rule[0].reasons[0]: not a reason code"),
    "no reasons": ('reasons = ["COST"]\n', "", ":19: rule[0].reasons: missing"),
    "no when": ("when = \"cost.best == 'decline'\"\n", "", ":19: rule[0].when: missing"),
    "when no text": ("when = \"cost.best == 'decline'\"", "when = true", ":21: rule[0].when: wrong type"),
    "unknown field": ("cost.best == 'decline'", "input.Amuont > 1.0",
                      ':21: rule[0].when: no such field (column 1 of the expression); expected one of input.Amount'),
    "nearest name": ("cost.best == 'decline'", "input.Amuont > 1.0",
                     'found "input.Amuont"; did you mean "input.Amount"?'),
    "unknown output": ("cost.best == 'decline'", "true && result.probabilty > 1.0",
                       ':21: rule[0].when: no such field (column 9 of the expression)'),
    "output on request": ("cost.best == 'decline'", "result.explanation > 1.0", ":21: rule[0].when: no such field"),
    "hidden scores": ("cost.best == 'decline'", "result.scores[0] > 1.0", ":21: rule[0].when: no such field"),
    "unknown name of a named output": ("cost.best == 'decline'", "result.shares.fodo > 1.0",
                                       'found "result.shares.fodo"; did you mean "result.shares.food"?'),
    "unknown key of a named output": ("cost.best == 'decline'", "result.shares['fodo'] > 1.0",
                                      'found "result.shares.fodo"; did you mean "result.shares.food"?'),
    "a test with a slip in a named output": ("probability = 0.99", "probability = 0.99, shares = { fodo = 1.0 }",
                                             ":58: test[0].result.shares.fodo: no such field"),
    "unknown field in has": ("cost.best == 'decline'", "has(input.nothing)", ":21: rule[0].when: no such field"),
    "a whole table": ("cost.best == 'decline'", "input['Amount'] > 1.0", ":21: rule[0].when: not a value"),
    "field of a number": ("cost.best == 'decline'", "input.Amount.cents > 1", "it is a number, without fields"),
    "unwritable field": ("cost.best == 'decline'", "input.merchant > 1", "(not writable in CEL: input.merchant-id)"),
    "unknown name": ("cost.best == 'decline'", "inputs.Amount > 1.0", ':21: rule[0].when: no such name'),
    "unknown function": ("cost.best == 'decline'", "lower(input.card) == 'x'", ":21: rule[0].when: no such name"),
    "text against number": ("cost.best == 'decline'", "input.card < 1.0",
                            ":21: rule[0].when: wrong types (column 12 of the expression)"),
    "number against integer": ("cost.best == 'decline'", "input.Amount > 50", "1.0 is a number, 1 an integer"),
    "integer against number": ("cost.best == 'decline'", "input.count > 1.5", "found > of int, double"),
    "time against integer": ("cost.best == 'decline'", "now > 5", ":21: rule[0].when: wrong types"),
    "boolean against text": ("cost.best == 'decline'", "input.new == 'yes'", "found == of bool, string"),
    "not a boolean": ("cost.best == 'decline'", "result.probability",
                      ':21: rule[0].when: wrong type; expected true or false; found double'),
    "not surely a boolean": ("cost.best == 'decline'", "result.labels[0].flag", "compare it: x == true"),
    "branches of two types": ("cost.best == 'decline'", "(input.new ? 1 : 'a') == 1", ":21: rule[0].when: wrong types"),
    "not CEL": ("cost.best == 'decline'", "cost.best = 'decline'", ":21: rule[0].when: not valid CEL (column 11"),
    "no end": ("cost.best == 'decline'", "(cost.best == 'decline'", ":21: rule[0].when: not valid CEL"),
    "nothing": ("cost.best == 'decline'", "", ":21: rule[0].when: not valid CEL"),
    "line inside the text": ("&& has(input.intent)", "&& has(input.intnet)",
                             ':32: rule[1].when: no such field (column 10 of the expression)'),
    "line of a type inside the text": ("&& has(input.intent)", "&& input.intent", ":32: rule[1].when: wrong types"),
    "unknown cost": ("cost.best == 'decline'", "cost.aprove > 1.0", 'did you mean "cost.approve"?'),
    "cost of text": ('positive = "input.Amount"', 'positive = "input.card"',
        ":13: costs.outcomes.approve.positive: wrong type"),
    "cost missing": (", negative = 0 }", " }", ":13: costs.outcomes.approve.negative: missing"),
    "cost of costs": ('probability = "result.probability"', 'probability = "cost.approve"',
        ":11: costs.probability: a cost that depends"),
    "probability no number": ('probability = "result.probability"', 'probability = "input.card"',
        ":11: costs.probability: wrong type"),
    "two rules of one name": ('name = "long"', 'name = "cheapest"', ":29: rule[1].name: given twice"),
    "a rule called default": ('name = "long"', 'name = "default"', ":29: rule[1].name: a word of its own"),
    "unknown action": ('name = "hold"\narguments', 'name = "holt"\narguments',
                       ':26: rule[0].action[0].name: no such action; expected one of hold, release; found '
                       '"holt"; did you mean "hold"?'),
    "unknown argument": ('urgent = "true" }', 'urgend = "true" }',
        ":27: rule[0].action[0].arguments.urgend: no such argument"),
    "argument of another type": ('urgent = "true"', "urgent = \"'yes'\"",
        ":27: rule[0].action[0].arguments.urgent: wrong type"),
    "argument missing": (', urgent = "true" }', " }", ":27: rule[0].action[0].arguments: an argument is missing"),
    "argument of no JSON type": ('arguments = { amount = "input.Amount" }', 'arguments = { amount = "now" }',
                                 ":24: rule[0].arguments.amount: wrong type"),
    "argument unknown field": ('arguments = { amount = "input.Amount" }', 'arguments = { amount = "input.amount" }',
                               'did you mean "input.Amount"?'),
    "cap of no outcome": ('[[cap]]\noutcome = "decline"', '[[cap]]\noutcome = "declined"',
        ":37: cap[0].outcome: nothing has this outcome"),
    "cap without number": ("at_most = 20\n", "", ":36: cap[0].at_most: missing"),
    "cap without time": ("per_s = 3600\n", "", ":36: cap[0].per_s: missing"),
    "cap of nothing a second": ("per_s = 3600", "per_s = 0", ":39: cap[0].per_s: out of range"),
    "cap upon cap": ('otherwise = { outcome = "review"', 'otherwise = { outcome = "decline"',
        ":40: cap[0].otherwise: capped itself"),
    "approval no boolean": ("arguments.amount > 50.0", "arguments.amount", ":43: action[0].approval: wrong type"),
    "approval unknown argument": ("arguments.amount > 50.0", "arguments.amont > 50.0",
        'did you mean "arguments.amount"?'),
    "approval that never expires": ("approval_expires_s = 60", "approval_expires_s = 0",
        ":44: action[0].approval_expires_s: out of range"),
    "expiry without approval": ('approval = "arguments.amount > 50.0"\n', "",
        ":43: action[0].approval_expires_s: nothing needs approval"),
    "unknown compensation": ('compensation = "release"', 'compensation = "relaese"', 'did you mean "release"?'),
    "compensation with other arguments": ('card = "string"\n', 'card = "integer"\n',
        ":45: action[0].compensation: takes other arguments"),
    "argument of unknown type": ('urgent = "boolean"\n[[action]]', 'urgent = "bool"\n[[action]]',
                                 ":49: action[0].arguments.urgent.type: not allowed here"),
    "bounds on text": ("max_length = 40,", "minimum = 4,", ":47: action[0].arguments.card.minimum: not for a string"),
    "a pattern that is none": ('pattern = "[a-z0-9-]+"', 'pattern = "[a-z"',
        ":47: action[0].arguments.card.pattern: not a regular expression"),
    "a pattern that costs": ('pattern = "[a-z0-9-]+"', 'pattern = "((a{99}){99}){99}"',
        ":47: action[0].arguments.card.pattern: the pattern repeats"),
    "minimum above maximum": ("minimum = 0,", "minimum = 10001,",
        ":48: action[0].arguments.amount.maximum: below the minimum"),
    "a default that does not fit": ("default = 1.0", "default = -1.0",
        ":48: action[0].arguments.amount.default: does not fit"),
    "a fact of no type": ('intent = "string"', 'intent = "text"', ":8: facts.input.intent: not a type"),
    "a fact that the package declares": ('intent = "string"', 'card = "string"',
        ":8: facts.input.card: the package declares this"),
    "a test of nothing": ('expect = {', "expects = {", ":62: test[0].expects: unknown key"),
    "a test with a slip": ("probability = 0.99", "probabilty = 0.99", ':58: test[0].result.probabilty: no such field'),
    "a test of another type": ("Amount = 900", 'Amount = "900"', ":59: test[0].input.Amount: wrong type"),
    "a test with a slip inside": ("slots = { amount", "slots = { amuont",
        ":59: test[0].input.slots.amuont: no such field"),
    "a test at no time": ("now = 2026-01-01T00:00:00Z", "now = 2026-01-01T00:00:00", ":61: test[0].now: wrong type"),
    "a test with a half count": ("recent = { decline = 3 }", "recent = { decline = 3.5 }",
        ":60: test[0].recent.decline: wrong type"),
    "no TOML": ("[[rule]]\nname = \"long\"", "[[rule]\nname = \"long\"", ":28: not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), BAD.values(), ids=BAD)
def test_a_mistake_is_named_with_its_line_its_key_and_what_would_be_right(old: str, new: str, said: str) -> None:
    assert GOOD.count(old) >= 1
    with pytest.raises(PolicyError) as caught:
        parse_policy(GOOD.replace(old, new, 1), manifest())
    assert said in str(caught.value)
    assert "policy.toml" in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    text = GOOD.replace("cost.best == 'decline'", "input.nope").replace("per_s = 3600", "per_s = 0")
    with pytest.raises(PolicyProblems) as caught:
        parse_policy(text, manifest())
    assert [problem.where for problem in caught.value.problems] == [
        "policy.toml:21: rule[0].when", "policy.toml:39: cap[0].per_s",
    ]  # fmt: skip
    assert caught.value.code == "INVALID_POLICY"


def test_what_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"format = 1\nname = '\xff'\n")
    with pytest.raises(PolicyError, match=r"policy\.toml:2: not valid UTF-8"):
        load_policy(tmp_path, manifest())


def test_features_of_the_profile_are_declared_by_the_manifest() -> None:
    text = (
        MANIFEST_TEXT
        + """
[profile]
entity = "card"
[[feature]]
name = "spent_1h"
kind = "purchase"
function = "sum"
field = "amount"
[[feature]]
name = "count_1h"
kind = "purchase"
function = "count"
"""
    )
    policy = GOOD.replace("cost.best == 'decline'", "profile.spent_1h > 5.0 && profile.count_1h > 3 || {}")
    policy = policy.replace('name = "declined"', 'name = "declined"\nprofile = { spent_1h = 9.0, count_1h = 4 }')
    rules = parse_policy(policy.replace("{}", "false"), parse_manifest(text))
    assert rules.entity == "card"
    with pytest.raises(PolicyError, match="found > of int, double"):
        parse_policy(policy.replace("{}", "profile.count_1h > 3.5"), parse_manifest(text))
