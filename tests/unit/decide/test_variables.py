"""What a package declares becomes typed names, and a fact a value of its declared type or nothing."""

from __future__ import annotations

import math
from enum import IntEnum, StrEnum
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.decide.variables import MISSING, converter, read_type, variables_of
from tests.unit.decide.policies import manifest


def test_a_manifest_declares_inputs_answer_and_time_with_their_types() -> None:
    assert {path: str(variable.type) for path, variable in variables_of(manifest()).items()} == {
        "input.Amount": "number", "input.count": "integer", "input.card": "string", "input.age": "number",
        "input.new": "boolean", "input.history": "list(number)", "input.merchant-id": "integer",
        "result.probability": "number", "result.label": "string", "result.score": "number",
        "result.labels": "list(map(any))", "result.shares": "map(number)", "result.shares.food": "number",
        "result.shares.travel": "number", "now": "timestamp",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["number", "integer", "boolean", "string", "any", "list(string)", "map(list(any))"])
def test_types_are_read_as_they_are_written(text: str) -> None:
    assert str(read_type(text)) == text


@pytest.mark.parametrize("text", ["", "float", "list", "list()", "list(float)", "list(string", "Map(any)", "timestamp"])
def test_other_words_are_no_types(text: str) -> None:
    assert read_type(text) is None


class Colour(StrEnum):
    RED = "red"

    def __str__(self) -> str:
        return "another text"


class Size(IntEnum):
    LARGE = 3


CONVERTED: list[tuple[str, Any, Any]] = [
    ("number", 1, 1.0), ("number", 1.5, 1.5), ("number", np.float32(0.5), 0.5), ("number", Size.LARGE, 3.0),
    ("number", True, MISSING), ("number", math.nan, MISSING), ("number", -math.inf, MISSING),
    ("number", 10**400, MISSING), ("number", "1", MISSING), ("number", np.array([1.0]), MISSING),
    ("integer", 3, 3), ("integer", 3.0, 3), ("integer", Size.LARGE, 3), ("integer", np.uint8(3), 3),
    ("integer", 3.5, MISSING), ("integer", True, MISSING), ("integer", 2**63, MISSING), ("integer", 1e300, MISSING),
    ("boolean", True, True), ("boolean", np.True_, True), ("boolean", 1, MISSING), ("boolean", "true", MISSING),
    ("string", "é", "é"), ("string", Colour.RED, "red"), ("string", b"a", MISSING), ("string", "\ud800", MISSING),
    ("string", "a" * 16_384, "a" * 16_384), ("string", "a" * 16_385, MISSING),
    ("list(number)", [1, 2.5], [1.0, 2.5]), ("list(number)", (1,), [1.0]), ("list(number)", np.ones(2), [1.0, 1.0]),
    ("list(number)", [1, None], MISSING), ("list(number)", [math.nan], MISSING), ("list(number)", "ab", MISSING),
    ("list(number)", [0.0] * 1025, MISSING), ("list(list(integer))", [[1], []], [[1], []]),
    ("map(number)", {"a": 1}, {"a": 1.0}), ("map(number)", {"a": "1"}, MISSING), ("map(number)", [1], MISSING),
    ("map(any)", {1: None}, {"1": None}), ("any", {"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
    ("any", [math.inf], MISSING), ("any", {"a": b"x"}, MISSING), ("any", object(), MISSING),
    ("any", {"sha256": "00", "size": 1}, MISSING), ("any", [[[[[[[[[[1]]]]]]]]]], MISSING),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "expected"), CONVERTED)
def test_a_fact_becomes_a_value_of_its_type_or_nothing(kind: str, value: Any, expected: Any) -> None:
    declared = read_type(kind)
    assert declared is not None
    found = converter(declared)(value)
    assert found is MISSING if expected is MISSING else (found == expected and type(found) is type(expected))


@given(st.sampled_from(["number", "integer", "any", "list(number)", "map(integer)"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8,
))  # fmt: skip
def test_converting_twice_or_after_json_changes_nothing(kind: str, value: Any) -> None:
    declared = read_type(kind)
    assert declared is not None
    convert = converter(declared)
    once = convert(value)
    if once is not MISSING:
        assert repr(convert(once)) == repr(once)
        assert repr(convert(msgspec.json.decode(msgspec.json.encode(once)))) == repr(once)
