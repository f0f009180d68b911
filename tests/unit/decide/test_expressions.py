"""Expressions are checked against declared variables and bounded, whatever somebody writes into them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onward.decide.expressions import ExpressionProblem, Language, Reading, matcher
from onward.decide.policy import Facts
from onward.decide.variables import ANY, INTEGER, NUMBER, STRING, TIMESTAMP, ValueType, Variable

VARIABLES = (
    Variable(root="input", keys=("t",), type=STRING),
    Variable(root="input", keys=("n",), type=NUMBER),
    Variable(root="input", keys=("i",), type=INTEGER),
    Variable(root="input", keys=("l",), type=ValueType("list", NUMBER)),
    Variable(root="input", keys=("s",), type=ValueType("list", STRING)),
    Variable(root="input", keys=("m",), type=ValueType("map", ANY)),
    Variable(root="now", keys=(), type=TIMESTAMP),
)
LANGUAGE = Language(VARIABLES)


def value(text: str, **given: Any) -> Any:
    """What an expression gives on an input; errors as text."""
    expression = LANGUAGE.compile(text)
    values = Reading(LANGUAGE, [expression]).values(Facts(answer={}, input=given, now_s=0.5), {})
    try:
        return expression.program.eval(LANGUAGE.activation(values)).plain_value()
    except RuntimeError as error:
        return str(error)


GIVEN = {
    "input.n * 2.0 + double(input.i)": 8.5,
    "string(0.1) + string(1e21) + string(100.0)": "0.11e+21100",
    "0.1 + 0.2": 0.1 + 0.2,
    "-7 / 2": -3,
    "-7 % 3": -1,
    "size('é漢')": 2,
    "input.t.startsWith('a') ? 'yes' : 'no'": "yes",
    "'''a'b''' == 'a\\'b'": True,
    "now == timestamp('1970-01-01T00:00:00.5Z')": True,
    "has(input.m.a) && !has(input.m.b)": True,
    "input.m.exists(k, k == 'a')": True,
    "input.l.map(x, x * 2.0)": [2.0, 4.0],
    "input.l.filter(x, x > 1.0)": [2.0],
    "dyn(1) == 1.0": True,
    "input.t // a comment\n == 'abc'": True,
}


@pytest.mark.parametrize(("text", "expected"), GIVEN.items())
def test_expressions_mean_what_cel_says(text: str, expected: Any) -> None:
    found = value(text, t="abc", n=2.75, i=3, l=[1.0, 2.0], m={"a": 1})
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("text", ["input.m.map(k, k)", "{'b': 1, 'a': 2}.map(k, k)", "dyn(input.l).map(x, x)"])
def test_what_has_no_order_gives_no_list(text: str) -> None:
    with pytest.raises(ExpressionProblem, match="map and filter loop over lists"):
        LANGUAGE.compile(text)


DEEP = ["(" * 1300 + "true" + ")" * 1300, "[" * 2000, "{" * 2000, "1" + "+1" * 1000, "true?1:" * 500 + "1",
        "a(" * 1000, "input.l" + "[0]" * 1000, "'" * 4001, "\\" * 4000, "true && " * 600 + "(", "\x00" * 100,
        "!" * 4097]  # fmt: skip


@pytest.mark.parametrize("text", DEEP, ids=range(len(DEEP)))
def test_deep_long_and_broken_expressions_are_refused_at_once(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ExpressionProblem):
        LANGUAGE.compile(text)
    assert time.perf_counter() - started < 2.0


PIECES = [*"()[]{}.,?:!<>=&|+-*/%'\"\\ \n1ae", "input.t", "input.l", "has(", ".map(x,", "now", "r'", ".matches("]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_whatever_is_written_is_compiled_or_refused_as_an_expression(text: str) -> None:
    try:
        LANGUAGE.compile(text)
    except ExpressionProblem as problem:
        assert problem.message


TEXT = "a" * 16_384
COSTLY = {
    "input.t.matches('(a|aa|aaa|aaaa){1,100}b')": {"t": TEXT},
    "input.t.matches('(a*)*b')": {"t": TEXT},
    "input.s.exists(x, x.matches('(a|aa|aaa|aaaa){1,100}b'))": {"s": ["a" * 16] * 1024},
    "input.s.map(x, x + input.t + input.t + input.t + input.t).size() == 1": {"s": [""] * 1024, "t": TEXT},
    "input.l.map(x, x * 2.0) == input.l": {"l": [1.0] * 1024},
    "input.l.all(x, 2.0 in input.l || input.m == input.m)": {"l": [1.0] * 1024, "m": {str(i): i for i in range(1024)}},
    "2.0 in (" + "+".join(["input.l"] * 25) + ")": {"l": [1.0] * 1024},
    "input.t + input.t == input.t.substring(1)": {"t": TEXT},
}


@pytest.mark.parametrize(("text", "given"), COSTLY.items())
def test_the_costliest_expressions_end_in_bounded_time(text: str, given: dict[str, Any]) -> None:
    started = time.perf_counter()
    try:
        value(text, **given)
    except ExpressionProblem as problem:
        assert "substring" in problem.found
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("given", [{"t": "a" * 16_385}, {"t": "\ud800"}, {"t": b"a"}, {"t": 5}, {"t": None}, {}])
def test_a_text_that_is_too_long_or_none_is_missing(given: dict[str, Any]) -> None:
    assert "No value" in value("input.t == 'a'", **given)
    assert value("has(input.t)", **given) is False


def test_texts_in_a_list_are_bounded_together() -> None:
    assert value("has(input.s)", s=["a" * 16] * 1024) is True
    assert value("has(input.s)", s=["a" * 17] * 1024) is False
    assert value("has(input.s)", s=["a"] * 1025) is False
    assert value("has(input.m)", m={"a": ["a" * 16_384, "a"]}) is False


def test_patterns_match_the_whole_text_in_linear_time() -> None:
    matches = matcher("(a+)+")
    assert matches("aaa") and not matches("aaab") and not matches("aaa\n") and not matches("")
    started = time.perf_counter()
    assert not matches("a" * 100_000 + "!")
    assert time.perf_counter() - started < 1.0
    assert matcher('say "\\\\"')('say "\\"')
    with pytest.raises((ValueError, RuntimeError)):
        matcher("(")
