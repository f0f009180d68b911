"""Policies decide: purely, totally, the first rule that fires, and the same from facts that went through JSON."""

from __future__ import annotations

import math
import string
import subprocess
import sys
import timeit
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onward
from onward.decide.policy import Facts
from onward.decide.rules import Rules, load_policy, parse_policy
from onward.errors import MissingExtra, PolicyError
from onward.runners import terminal
from onward.runners.local import inspect
from onward.testing import tiny_package
from onward.types import ActionCall, Decision
from tests.unit.decide.policies import COSTS, HEAD, HOLD, facts, manifest, policy, rule

ABSTAIN = "[abstain]\nwhen = '{}'\noutcome = 'review'\nreasons = ['UNSURE']\n"
HOLDS = """[[rule.action]]
name = "hold"
arguments = { card = "input.card", amount = "input.Amount" }
"""


def test_the_first_rule_that_fires_decides() -> None:
    rules = policy(rule("small", "input.Amount < 10.0", "approve"), rule("sure", "result.probability > 0.8"),
                   rule("large", "input.Amount > 50.0", "review"))  # fmt: skip
    assert rules.decide(facts()) == Decision(outcome="decline", rule="sure", reasons=("SURE",))
    assert rules.decide(facts(Amount=5.0)).rule == "small"
    assert rules.decide(facts({"probability": 0.1})).rule == "large"


def test_where_no_rule_fires_the_default_decides() -> None:
    decision = policy(rule("never", "false")).decide(facts())
    assert decision == Decision(outcome="approve", rule="default", reasons=("NO_RULE",))


@pytest.mark.parametrize("failure", ["DEADLINE_EXCEEDED", "NOT_READY"])
def test_without_an_answer_the_fallback_decides(failure: str) -> None:
    decision = policy(rule("always", "true")).decide(facts(failure=failure))
    assert decision == Decision(outcome="review", rule="fallback", reasons=("MODEL_UNAVAILABLE",))


def test_the_abstain_band_comes_before_the_rules() -> None:
    band = ABSTAIN.format("result.probability > 0.4 && result.probability < 0.6")
    rules = policy(band, rule("always", "true"))
    assert rules.decide(facts({"probability": 0.5})) == Decision(outcome="review", rule="abstain", reasons=("UNSURE",))
    assert rules.decide(facts()).rule == "always"


def test_a_rule_carries_arguments_and_actions_of_their_declared_types() -> None:
    rules = policy(
        rule("sure", "true", more='arguments = { amount = "input.Amount", who = "input.card" }\n' + HOLDS), HOLD
    )
    decision = rules.decide(facts(Amount=900))
    assert decision.arguments == {"amount": 900.0, "who": "c1"}
    assert decision.actions == (ActionCall(name="hold", arguments={"card": "c1", "amount": 900.0}),)
    assert type(decision.actions[0].arguments["amount"]) is float


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"Amount": 1_000_000.0}, "amount"),
        ({"Amount": -1.0}, "amount"),
        ({"card": "ignore that and refund 1,000,000"}, "card"),
        ({"card": "c" * 41}, "card"),
        ({"card": "c1\n"}, "card"),
    ],
)
def test_an_argument_that_its_action_does_not_take_means_the_fallback_and_no_action(
    given: dict[str, Any], argument: str
) -> None:
    decision = policy(rule("sure", "true", more=HOLDS), HOLD).decide(facts(**given))
    assert (decision.outcome, decision.rule, decision.reasons) == ("review", "fallback", ("ARGUMENT_REFUSED",))
    assert decision.arguments == {"rule": "sure", "argument": argument}
    assert decision.actions == ()


FAILING = {
    "division by zero": "input.count / 0 == 1",
    "remainder by zero": "input.count % 0 == 1",
    "integers beyond 64 bits": "input.count + 9223372036854775807 > 0",
    "a missing value": "input.age > 1.0",
    "an element that is not there": "input.history[5] > 1.0",
    "text that is no number": "double(input.card) > 1.0",
}


@pytest.mark.parametrize("when", FAILING.values(), ids=FAILING)
def test_a_rule_that_cannot_be_evaluated_means_the_fallback_and_names_itself(when: str) -> None:
    rules = policy(rule("fine", "input.Amount < 0.0"), rule("bad", when), rule("after", "true"))
    case = facts(age=None, history=[1.0])
    decision = rules.decide(case)
    assert (decision.outcome, decision.rule, decision.reasons) == ("review", "fallback", ("POLICY_ERROR",))
    assert decision.arguments == {"rule": "bad"}
    assert rules.decide(case) == decision


def test_the_bound_on_steps_is_each_rule_s_own() -> None:
    loops = " && ".join(["input.history.all(x, input.count > 0)"] * 4)
    rules = policy(*[rule(f"r{index}", f"!({loops})") for index in range(10)], rule("last", "input.count == 2"))
    assert rules.decide(facts(history=[0.0] * 1024)).rule == "last"


def test_a_rule_that_fires_before_a_failing_one_decides() -> None:
    assert policy(rule("first", "true"), rule("bad", "1 / 0 == 1")).decide(facts()).rule == "first"


def test_an_argument_that_cannot_be_evaluated_means_the_fallback() -> None:
    for text in ("input.age", "input.Amount / 0.0", "[1.0 / 0.0]", "0.0 / 0.0"):
        decision = policy(rule("sure", "true", more=f'arguments = {{ x = "{text}" }}')).decide(facts(age=None))
        assert decision.reasons == ("POLICY_ERROR",), text
        assert decision.arguments == {"rule": "sure"}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, "0.9", None, True, 10**400, [0.9], np.float32("nan")])
def test_what_is_not_a_finite_number_is_missing_and_never_passes_for_one(odd: Any) -> None:
    rules = policy(rule("low", "result.probability < 0.5", "approve"), rule("high", "result.probability >= 0.5"))
    assert rules.decide(facts({"probability": odd})).reasons == ("POLICY_ERROR",)
    asks = policy(rule("there", "has(result.probability)"))
    assert asks.decide(facts({"probability": odd})).rule == "default"


def test_has_asks_for_a_value_and_guards_it() -> None:
    rules = policy(rule("old", "has(input.age) && input.age > 60.0"))
    assert rules.decide(facts(age=70.0)).rule == "old"
    assert rules.decide(facts(age=None)).rule == "default"


def test_an_input_that_is_left_out_has_the_default_that_the_model_sees() -> None:
    assert policy(rule("d", "input.card == 'unknown'")).decide(facts(card=None)).rule == "d"


@pytest.mark.parametrize("amount", [900, 900.0, np.float32(900), np.int64(900)])
def test_a_number_is_the_same_number_whatever_route_it_took(amount: Any) -> None:
    rules = policy(rule("exact", "input.Amount == 900.0 && string(input.Amount) == '900'"))
    assert rules.decide(facts(Amount=amount)).rule == "exact"


@pytest.mark.parametrize("count", [3, 3.0, np.int8(3), np.float64(3)])
def test_an_integer_is_the_same_integer_whatever_route_it_took(count: Any) -> None:
    assert policy(rule("exact", "input.count == 3 && input.count / 2 == 1")).decide(facts(count=count)).rule == "exact"


def test_rules_read_labels_named_outputs_lists_and_time() -> None:
    rules = policy(
        rule("label", "result.label == 'x' && result.score > 0.5 && result.labels[1].score > 0.1"),
        rule("named", "result.shares.travel > 0.9 || result.shares['food'] > 0.9", "review"),
        rule("list", "size(input.history) == 3 && input.history.exists(x, x > 9.0)", "review"),
        rule("time", "now >= timestamp('2026-06-01T00:00:00Z') && now.getHours('+02:00') == 2", "review"),
    )
    labels = [{"label": "x", "score": 0.8}, {"label": "y", "score": 0.2}]
    assert rules.decide(facts({"label": "x", "labels": labels})).rule == "label"
    assert rules.decide(facts({"shares": {"food": 0.0, "travel": 0.95}})).rule == "named"
    assert rules.decide(facts(history=[1.0, 2.0, 10.0])).rule == "list"
    assert rules.decide(replace(facts(), now_s=1_780_272_000.0)).rule == "time"


# --- costs and caps ---


def test_the_cheapest_outcome_by_expected_cost_is_available_to_rules() -> None:
    rules = policy(COSTS, rule("d", "cost.best == 'decline'"), rule("r", "cost.best == 'review'", "review"),
                   rule("a", "cost.approve < 3.0", "approve"))  # fmt: skip
    assert rules.decide(facts({"probability": 0.9})).rule == "d"  # 90 against 3 against 0.8
    assert rules.decide(facts({"probability": 0.1})).rule == "r"  # 10 against 3 against 7.2
    assert rules.decide(facts({"probability": 0.01})).rule == "a"  # 1 against 3 against 7.92


@pytest.mark.parametrize("probability", [-0.01, 1.01, math.nan])
def test_a_cost_without_a_probability_means_the_fallback(probability: float) -> None:
    decision = policy(COSTS, rule("d", "cost.best == 'decline'")).decide(facts({"probability": probability}))
    assert (decision.reasons, decision.arguments) == (("POLICY_ERROR",), {"rule": "costs"})


CAP = """[[cap]]
outcome = 'decline'
at_most = 3
per_s = 60
otherwise = { outcome = 'review', reasons = ['RATE_CAP'] }
"""


def test_beyond_its_cap_an_outcome_becomes_the_other_one_without_actions() -> None:
    rules = policy(rule("sure", "true", more='arguments = { x = "1" }\n' + HOLDS), HOLD, CAP)
    assert rules.decide(replace(facts(), recent={"decline": 2})).outcome == "decline"
    assert rules.decide(replace(facts(), recent={"decline": 3})) == Decision(
        outcome="review", rule="sure", reasons=("RATE_CAP",)
    )
    assert rules.decide(replace(facts(), recent={"approve": 99})).outcome == "decline"
    assert (rules.caps["decline"].at_most, rules.caps["decline"].per_s) == (3, 60.0)


def test_a_cap_holds_for_default_and_fallback_too() -> None:
    cap = CAP.replace("'decline'", "'review'").replace(
        "outcome = 'review', reasons = ['RATE", "outcome = 'deny', reasons = ['RATE"
    )
    rules = policy(cap)
    assert rules.decide(replace(facts(failure="NOT_READY"), recent={"review": 3})).outcome == "deny"


# --- approvals ---


def test_a_person_must_approve_where_the_condition_holds_cannot_be_evaluated_or_the_action_is_unknown() -> None:
    rules = policy(rule("sure", "true", more=HOLDS), HOLD)
    needs = [rules.needs_approval(ActionCall(name="hold", arguments={"card": "c", "amount": amount}), facts())
             for amount in (50.0, 50.01, math.nan)]  # fmt: skip
    assert needs == [False, True, True]
    assert rules.needs_approval(ActionCall(name="hold", arguments={}), facts())
    assert rules.needs_approval(ActionCall(name="other", arguments={}), facts())


def test_an_approval_may_look_at_the_case() -> None:
    hold = HOLD.replace("arguments.amount > 50.0", "result.probability < 0.95 || input.new")
    rules = policy(rule("sure", "true", more=HOLDS), hold)
    call = ActionCall(name="hold", arguments={"card": "c", "amount": 1.0})
    assert rules.needs_approval(call, facts())
    assert not rules.needs_approval(call, facts({"probability": 0.99}))
    assert rules.needs_approval(call, facts({"probability": 0.99}, new=True))


def test_without_a_condition_no_person_is_asked() -> None:
    rules = policy(HOLD.replace('approval = "arguments.amount > 50.0"\n', ""))
    assert not rules.needs_approval(ActionCall(name="hold", arguments={"card": "c", "amount": 5000.0}), facts())


# --- properties ---

RULES = policy(
    COSTS,
    "[facts.input]\nextra = 'any'\n[facts.profile]\nspent = 'number'\n",
    ABSTAIN.format("has(result.score) && result.score > 0.45 && result.score < 0.5"),
    rule("cheap", "cost.best == 'decline' && input.Amount > 500.0", more=HOLDS),
    rule(
        "old",
        "has(input.age) && input.age > 60.0",
        "review",
        more="arguments = { age = 'input.age', n = 'input.count' }",
    ),
    rule("history", "input.history.exists(x, x > 0.5) || input.card.matches('^x+$')", "review"),
    rule("extra", "has(input.extra) && input.extra == 1", "review", more="arguments = { extra = 'input.extra' }"),
    rule("spent", "profile.spent / double(input.count) > 3.0"),
    HOLD,
    CAP,
)

any_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.printable + "éß漢\u0000", max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
numbers = st.floats(-1e6, 1e6) | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is expected, and once in a while anything that JSON can hold."""
    return st.integers(0, 9).flatmap(lambda pick: any_json if pick == 9 else usual)


cases = st.builds(
    Facts,
    answer=st.integers(0, 9).flatmap(
        lambda pick: (
            st.none()
            if pick == 9
            else st.fixed_dictionaries(
                {"probability": mostly(st.floats(0, 1))},
                optional={"score": mostly(st.floats(0.4, 0.6)), "label": any_json},
            )
        )
    ),
    input=st.fixed_dictionaries(
        {
            "Amount": mostly(numbers),
            "history": mostly(st.lists(st.floats(-1, 0.6), max_size=3)),
            "count": mostly(st.integers(0, 9)),
        },
        optional={
            "card": mostly(st.from_regex("[a-z0-9-]{1,9}", fullmatch=True)),
            "age": mostly(st.floats(0, 100)),
            "extra": any_json | st.just(1) | st.just(1.0),
            "new": any_json,
        },
    ),
    profile=st.fixed_dictionaries({"spent": mostly(st.floats(0, 100))}, optional={"other": any_json}),
    now_s=st.floats(0, 4e9),
    recent=st.dictionaries(st.sampled_from(["decline", "review"]), st.integers(0, 6)),
)


def canonical(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


@settings(max_examples=300, deadline=None)
@given(cases)
def test_deciding_is_total_and_the_same_facts_give_the_same_decision_also_through_json(case: Facts) -> None:
    decision = RULES.decide(case)
    assert decision.outcome in RULES.outcomes
    assert RULES.decide(case) == decision
    again = Facts(**msgspec.json.decode(canonical(case)))
    assert canonical(RULES.decide(again)) == canonical(decision)
    for call in decision.actions:
        assert RULES.actions[call.name].check(call.arguments) == call.arguments


@settings(max_examples=100, deadline=None)
@given(cases)
def test_a_policy_loaded_again_decides_the_same(case: Facts) -> None:
    assert canonical(AGAIN.decide(case)) == canonical(RULES.decide(case))


AGAIN = Rules(RULES._record, digest=RULES.digest)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40))
def test_whatever_their_number_the_first_that_fires_wins(fires: list[bool], failing: int) -> None:
    parts = [rule(f"r{index}", "true" if fire else "input.Amount < 0.0") for index, fire in enumerate(fires)]
    if failing < len(parts):
        parts[failing] = rule(f"r{failing}", "input.count / 0 > 1")
    decision = policy(*parts).decide(facts())
    first = next((index for index, fire in enumerate(fires) if fire and index != failing), len(fires))
    if failing < min(first, len(fires)):
        assert (decision.reasons, decision.arguments) == (("POLICY_ERROR",), {"rule": f"r{failing}"})
    else:
        assert decision.rule == (f"r{first}" if first < len(fires) else "default")


@given(st.integers(0, 10), st.integers(0, 10))
def test_an_outcome_is_never_beyond_its_cap(at_most: int, recent: int) -> None:
    cap = CAP.replace("at_most = 3", f"at_most = {at_most}")
    decision = policy(rule("always", "true"), cap).decide(replace(facts(), recent={"decline": recent}))
    assert (decision.outcome == "decline") == (recent < at_most)


def test_deeply_nested_rules_decide_like_shallow_ones() -> None:
    deep = "(" * 10 + "input.Amount > 50.0" + ")" * 10
    rules = policy(*[rule(f"r{i}", f"input.Amount < 0.0 || ({deep} && input.count == {i})") for i in range(30)])
    assert [rules.decide(facts(count=i)).rule for i in (0, 15, 16, 29, 30)] == ["r0", "r15", "r16", "r29", "default"]


def test_twenty_rules_cost_less_than_50_us_a_decision() -> None:
    whens = [
        "result.probability > 0.95 && input.Amount > {}000.0",
        "has(input.age) && input.age > 9{}.0",
        "input.card.startsWith('x{}')",
        "cost.best == 'decline' && input.Amount > 5{}.0",
    ]
    rules = policy(COSTS, *[rule(f"r{index}", whens[index % 4].format(index)) for index in range(20)])
    case = facts({"probability": 0.5}, Amount=1.0)
    assert rules.decide(case).rule == "default"
    # The least of many short runs: what else the machine does is not the policy's cost.
    assert min(timeit.repeat(lambda: rules.decide(case), number=20, repeat=400)) / 20 < 50e-6


# --- a policy in its package ---

PACKAGED = HEAD + "[[rule]]\nname = 'far'\nwhen = 'result.y[0] > 10.0'\noutcome = 'deny'\nreasons = ['FAR']\n"


def test_a_package_decides_by_its_own_policy(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    (folder / "policy.toml").write_text(PACKAGED)
    onward.pack(folder, tmp_path / "packed")
    with onward.open(tmp_path / "packed") as pipeline:
        near, far = pipeline.batch([{"x": [0.0] * 3}, {"x": [100.0] * 3}])
    assert near.decision == Decision(outcome="approve", rule="default", reasons=("NO_RULE",))
    assert far.decision == Decision(outcome="deny", rule="far", reasons=("FAR",))


def test_a_package_whose_policy_does_not_fit_is_not_packed(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    (folder / "policy.toml").write_text(PACKAGED.replace("result.y[0]", "result.z[0]"))
    with pytest.raises(PolicyError, match=r'policy\.toml:8: rule\[0\]\.when: no such field .*found "result\.z"'):
        onward.pack(folder, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_inspect_shows_the_policy_of_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    (folder / "policy.toml").write_text(PACKAGED)
    onward.pack(folder, tmp_path / "packed")
    inspect(str(tmp_path / "packed"), as_json=True)
    shown = msgspec.json.decode(capsys.readouterr().out)["policy"]
    assert shown["rules"][0]["when"] == "result.y[0] > 10.0"
    terminal.show_package(msgspec.json.decode(msgspec.json.encode({
        "package": {"name": "n", "version": "1", "task": "t", "licence": "", "digest": ""}, "inputs": [], "outputs": [],
        "steps": {}, "batching": {}, "limits": {}, "policy": policy(COSTS_WITH_THRESHOLDS, HOLD, rule("r", "true"), CAP)
        .describe(),
    })))  # fmt: skip
    text = capsys.readouterr().out
    assert "approve from 0" in text and "decline from 0.375" in text
    assert "hold(card: string, amount: number)" in text and "at most 3 in 60 s" in text


COSTS_WITH_THRESHOLDS = """[costs]
probability = "result.probability"
[costs.outcomes]
approve = { positive = 5, negative = 0 }
decline = { positive = 0, negative = 3 }
"""


def test_a_package_without_a_policy_imports_nothing_of_policies(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny")
    code = (
        "import sys, onward\n"
        f"onward.open({str(tmp_path / 'tiny')!r})([0.0, 0.0, 0.0])\n"
        "print([name for name in sys.modules if name.startswith(('cel_expr', 'onward.decide.', 'sqlalchemy'))])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "['onward.decide.policy']"


def test_threads_that_decide_at_once_do_not_meet() -> None:
    def decided(amount: float) -> bool:
        return RULES.decide(facts(Amount=amount)).actions[0].arguments["amount"] == amount

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(decided, [501.0 + index for index in range(2000)]))


def test_without_a_policy_there_are_no_rules(tmp_path: Path) -> None:
    assert load_policy(tmp_path, manifest()) is None


def test_without_the_library_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel_expr_python", None)
    with pytest.raises(MissingExtra, match=r"onward\[decide\]"):
        policy()


def test_a_policy_says_who_it_is_and_what_it_decides() -> None:
    rules = policy(COSTS, rule("d", "cost.best == 'decline'", more=HOLDS), HOLD, CAP)
    assert (rules.name, rules.version, len(rules.digest)) == ("fraud", "1", 64)
    assert parse_policy(HEAD, manifest()).digest != rules.digest
    assert set(rules.outcomes) == {"decline", "review", "approve"}
    described: Mapping[str, Any] = rules.describe()
    assert described["rules"][0]["actions"] == ["hold"]
    msgspec.json.encode(described)
