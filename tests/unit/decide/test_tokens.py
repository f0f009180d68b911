"""What an expression reads and what it may not do is found in its tokens, never in its texts and comments."""

from __future__ import annotations

import pytest

from onward.decide.tokens import misuses_of, paths_of, tokens_of, with_asked_as_names

PATHS = {
    "input.a": ["input.a"],
    "input . a . b": ["input.a.b"],
    "input.a.size() > size(input.b)": ["input.a", "input.b"],
    "'input.a' == \"input.b\" // input.c": [],
    "r'\\' == input.a": ["input.a"],
    "'''it's input.b''' == input.a": ["input.a"],
    "'\\'' + input.a": ["input.a"],
    "f(input.a)[input.b].c": ["input.a", "input.b"],
    "has(input.a) && true": ["input.a", "true"],
    "[1.5, 2e3].exists(x, x > input.a)": ["x", "x", "input.a"],
    "": [],
    "input.": ["input"],
    "1.a": [],
}


@pytest.mark.parametrize(("expression", "paths"), PATHS.items())
def test_the_paths_that_an_expression_reads_are_found(expression: str, paths: list[str]) -> None:
    assert [path.text for path in paths_of(tokens_of(expression))] == paths


def test_has_becomes_a_name_at_the_same_place() -> None:
    expression = "true && has( input.a ) && input.b > 1.0"
    tokens = tokens_of(expression)
    asked = [path for path in paths_of(tokens) if path.asked]
    rewritten = with_asked_as_names(expression, tokens, asked)
    assert rewritten == "true && has. input.a   && input.b > 1.0"
    assert [path.text for path in asked] == ["input.a"]


REFUSED = {
    "input.l.all(x, input.l.all(y, y == x))": "a loop inside a loop",
    "input.l.map(x, x).map(y, y).size() > 0": "map twice",
    "input.l.map(x, [x, x]).size() > 0": "a list made inside map",
    "input.l.map(x, {'a': x}).size() > 0": "a list made inside map",
    "input.s.exists(x, x + x + x + x + x + x == '')": "too many sums",
    " || ".join(["input.l.exists(x, x > 1.0)"] * 9): "too many loops",
    " || ".join(["input.t.matches('a')"] * 9): "too many patterns",
    "input.t.matches(input.u)": "matches takes a literal",
    "matches(input.t, input.u)": "matches takes a literal",
    "input.t.matches('a' + 'b')": "matches takes a literal",
    "input.t.matches()": "matches takes a literal",
    "input.t.matches('((a{20}){20}){20}')": "the pattern repeats too much",
    "input.t.matches('a{1,1001}')": "the pattern repeats too much",
    f"input.t.matches('{'a' * 300}')": "the pattern is too long",
    "(input.l + input.l).exists(x, x > 1.0)": "a loop over a sum",
    "(input.b ? input.l + input.l : input.l).map(x, x).size() > 1": "a loop over a sum",
    "input.l.all(x, " + " && ".join(["input.a == x"] * 5) + ")": "too many fields read",
    "input.s.exists(x, input.t.matches('a'))": "matches on more than the element",
    "input.s.exists(x, a.x.matches('a'))": "matches on more than the element",
    "now.getHours('Europe/Berlin') > 5": "not a fixed time zone",
    "now.getHours(input.t) > 5": "not a fixed time zone",
}


@pytest.mark.parametrize(("expression", "message"), REFUSED.items())
def test_what_costs_without_bound_or_depends_on_the_machine_is_refused(expression: str, message: str) -> None:
    assert message in [misuse.message for misuse in misuses_of(tokens_of(expression))]


ALLOWED = [
    "input.l.filter(x, x > 1.0).map(y, y * 2.0).exists(z, z > 3.0)",
    "input.l.map(x, input.l[0] + x).size() > 0",
    "1.0 + input.a > 2.0 && input.l.exists(x, x > 1.0) && input.a + input.b + input.a + input.b + input.a > 1.0",
    "input.s.exists(x, x.matches('^a+$'))",
    "input.t.matches('a{3}b{1,100}')",
    "matches(input.t, r'\\d+')",
    "now.getHours('+02:00') > 5 && now.getDate('UTC') == 1 && now.getMonth() == 1",
    "input.t == 'matches(x)' && input.t == '.map(x, [x])'",
    "{'a': [1]}.a[0] == 1",
]


@pytest.mark.parametrize("expression", ALLOWED)
def test_what_is_bounded_is_allowed(expression: str) -> None:
    assert [*misuses_of(tokens_of(expression))] == []
