"""Plain values go through JSON and come back the same, to the last bit; anything else is refused by name."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given

from onward.decide.plain import NotRecordable, canonical, plain
from tests.unit.decide.decisions import values


@given(values)
def test_a_plain_value_comes_back_from_canonical_json_exactly(value: Any) -> None:
    made = plain(value)
    data = canonical(made)
    assert repr(msgspec.json.decode(data)) == repr(msgspec.json.decode(canonical(msgspec.json.decode(data))))
    assert msgspec.json.decode(data) == made == value
    assert json.loads(data) == made  # by another reader, too


def test_the_canonical_form_does_not_depend_on_the_order_of_names() -> None:
    assert canonical({"b": 1.0, "a": {"d": -0.0, "c": 1e16}}) == b'{"a":{"c":1e16,"d":-0.0},"b":1.0}'
    assert canonical({"a": {"c": 1e16, "d": -0.0}, "b": 1.0}) == canonical({"b": 1.0, "a": {"d": -0.0, "c": 1e16}})


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (np.float32(0.1), float(np.float32(0.1))),
        (np.array([[1, 2]], np.int64), [[1, 2]]),
        (np.array([b"ab"], object), [{"sha256": "fb8e20fc2e4c3f248c60c39bd652f3c1347298bb977b8b4d5903b85055620603",
                                      "size": 2}]),
        ((1, (2.5,)), [1, [2.5]]),
        (MappingProxyType({"a": OrderedDict(b=np.bool_(True))}), {"a": {"b": True}}),
        ({1: "one"}, {"1": "one"}),
    ],
)  # fmt: skip
def test_what_models_and_callers_give_becomes_plain(value: Any, made: Any) -> None:
    assert plain(value) == made
    assert plain(made) == made


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, np.float64("nan"), np.array([math.inf]), object(), {1}]
)
@pytest.mark.parametrize("wrapped", [lambda value: {"a": {"b": value}}, lambda value: {"a": {"b": [1.0, [value]]}}])
def test_what_json_does_not_carry_is_refused_by_its_name(value: Any, wrapped: Any) -> None:
    with pytest.raises(NotRecordable, match=r"facts\.a\.b"):
        plain(wrapped(value), "facts")


def test_half_a_character_is_no_json() -> None:
    with pytest.raises(NotRecordable):
        canonical({"a": "\ud800"})
