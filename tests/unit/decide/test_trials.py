"""A policy's own tests run when it is loaded: one that fails keeps the policy from being used."""

from __future__ import annotations

import pytest

from onward.decide.rules import Rules
from onward.errors import PolicyTestFailed
from tests.unit.decide.policies import HOLD, policy, rule

HOLDS = """arguments = { a = 'input.Amount' }
[[rule.action]]
name = 'hold'
arguments = { card = 'input.card', amount = 'input.Amount' }
"""
SURE = rule("sure", "result.probability > 0.8", more=HOLDS)
LINE_OF_EXPECT = 26


def loaded_with(expect: str, more: str = "") -> Rules:
    test = "[[test]]\nname = 'a sure fraud'\nresult = { probability = 0.9 }\ninput = { Amount = 10, card = 'c1' }\n"
    return policy(SURE, HOLD, f"{test}{more}expect = {{ {expect} }}\n")


HOLDING = [
    "outcome = 'decline'",
    "rule = 'sure'",
    "outcome = 'decline', rule = 'sure', reasons = ['SURE'], arguments = { a = 10 }",
    "actions = [{ name = 'hold' }]",
    "actions = [{ name = 'hold', arguments = { amount = 10.0 } }]",
]


@pytest.mark.parametrize("expect", HOLDING)
def test_what_is_named_must_hold_and_nothing_else_is_compared(expect: str) -> None:
    assert loaded_with(expect).name == "fraud"


FAILING = {
    "outcome = 'approve'": 'expect.outcome: test "a sure fraud"; expected approve; found decline (by sure: SURE)',
    "rule = 'default'": "expect.rule: ",
    "reasons = ['SURE', 'MORE']": "expect.reasons: ",
    "reasons = []": "expect.reasons: ",
    "arguments = { a = 11 }": "expect.arguments: ",
    "arguments = { b = 10 }": "expect.arguments: ",
    "actions = []": "expect.actions: ",
    "actions = [{ name = 'release' }]": "expect.actions: ",
    "actions = [{ name = 'hold', arguments = { card = 'c2' } }]": "expect.actions: ",
    "actions = [{ name = 'hold' }, { name = 'hold' }]": "expect.actions: ",
}


@pytest.mark.parametrize(("expect", "said"), FAILING.items())
def test_a_failing_test_says_where_what_was_expected_and_what_came(expect: str, said: str) -> None:
    with pytest.raises(PolicyTestFailed) as caught:
        loaded_with(expect)
    assert said in str(caught.value)
    assert f"policy.toml:{LINE_OF_EXPECT}: test[0]" in str(caught.value)
    assert caught.value.code == "POLICY_TEST_FAILED"


def test_a_test_may_set_time_recent_outcomes_and_the_failure_of_the_model() -> None:
    cap = (
        "[[cap]]\noutcome = 'decline'\nat_most = 2\nper_s = 1\notherwise = { outcome = 'review', reasons = ['CAP'] }\n"
    )
    case = "result = { probability = 0.9 }\ninput = { Amount = 10, card = 'c1' }\n"
    night = rule("night", "now.getHours() < 6", "review")
    at = "now = 2026-01-01T{}:00:00+02:00\n"
    often = "recent = { decline = 2 }\n"
    tests = [
        f"[[test]]\nname = 'capped'\n{case}{at.format(12)}{often}expect = {{ reasons = ['CAP'] }}\n",
        f"[[test]]\nname = 'night'\n{case}{at.format('03')}expect = {{ rule = 'night' }}\n",
        f"[[test]]\nname = 'no model'\n{case}failure = 'NOT_READY'\nexpect = {{ rule = 'fallback' }}\n",
    ]
    policy(night, SURE, HOLD, cap, *tests)
