"""One request in each form, and answers without their envelopes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import MalformedBody, UsageError, WrongShape
from onward.runners.endpoints import forms
from onward.runners.endpoints.recorded import Recorded


def v2(**tensors: tuple[list[int], list[Any]]) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": name, "shape": shape, "datatype": "FP32", "data": data} for name, (shape, data) in tensors.items()
        ]
    }


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v2/models/a/infer", "v2"), ("/v2/models/a/versions/1/infer?x=1", "v2"), ("/base/v2/models/a/infer", "v2"),
        ("/models/a", "onward"), ("/models/a/versions/1.0.0", "onward"), ("/models/a/b/c/d", "plain"),
        ("/predictions/a", "plain"), ("/v2/models/a", "plain"), ("/", "plain"),
    ],
)  # fmt: skip
def test_the_path_says_the_form(path: str, form: str) -> None:
    assert forms.form_of(path) == form


def test_a_v2_body_becomes_items_by_row() -> None:
    body = v2(x=([2, 2], [1, 2, 3, 4]), y=([2], [5, 6]))
    assert forms.as_items(body, {"y": "z"}) == [{"x": [1, 2], "z": 5}, {"x": [3, 4], "z": 6}]
    assert forms.as_items(v2(x=([1, 1], [[7]])), {}) == {"x": [7]}
    with pytest.raises(WrongShape):
        forms.as_items(v2(x=([2, 2], [1])), {})


KNOWN = {"x": ("FP32", (-1, 2)), "n": ("INT64", (-1,)), "one": ("FP32", (-1, 1))}


def test_items_become_a_v2_body_of_the_endpoints_datatypes() -> None:
    made = forms.as_v2([{"x": [1, 2], "m": 3, "one": 9}, {"x": [4, 5], "m": 6, "one": 8}], {"m": "n"}, KNOWN, where="")
    assert made == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 4, 5]},
            {"name": "n", "datatype": "INT64", "shape": [2], "data": [3, 6]},
            {"name": "one", "datatype": "FP32", "shape": [2, 1], "data": [9, 8]},
        ]
    }
    assert forms.as_v2([1, 2], {}, {"x": KNOWN["x"]}, where="")["inputs"][0]["shape"] == [1, 2]


@pytest.mark.parametrize("item", [{"q": 1}, 5, [{"n": 1}, {"x": [1, 2]}]])
def test_an_item_that_the_endpoint_does_not_take_is_refused(item: Any) -> None:
    with pytest.raises(MalformedBody):
        forms.as_v2(item, {}, KNOWN, where="line 1")


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=2, max_size=5))
def test_items_survive_the_way_to_v2_and_back(rows: list[list[float]]) -> None:
    items = [{"x": row} for row in rows]
    assert forms.as_items(forms.as_v2(items, {}, {"x": ("FP64", (-1, 3))}, where=""), {}) == items


def test_a_v2_body_takes_the_other_endpoints_names_and_asks_for_json() -> None:
    body = v2(x=([1], [1])) | {
        "parameters": {"binary_data_output": True}, "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }  # fmt: skip
    made = forms.renamed_v2(body, {"x": "input"}, {"y": "output"})
    assert made["inputs"][0]["name"] == "input" and made["outputs"] == [{"name": "output"}]
    assert "parameters" not in made and body["inputs"][0]["name"] == "x"


def answer(form: forms.Form, told: Any, *, by_value: bool = False) -> Any:
    return forms.answer_of(form, json.dumps(told).encode(), by_value=by_value)


def test_answers_lose_their_envelopes() -> None:
    outputs = {"id": "7", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    assert answer("v2", outputs) == {"y": [[1, 2]]}
    assert answer("v2", outputs, by_value=True) == {"y": [1, 2]}
    assert answer("onward", {"answer": {"y": 1}, "request_id": "a", "package": "p"}) == {"y": 1}
    decided = {"answer": {"y": 1}, "decision": {"outcome": "deny", "decision_id": "d1", "actions": []}}
    assert answer("onward", decided) == {"answer": {"y": 1}, "decision": {"outcome": "deny"}}
    assert answer("plain", [[0.5]]) == [[0.5]] and answer("plain", [[0.5]], by_value=True) == 0.5
    assert forms.answer_of("plain", b"cat\n", by_value=False) == "cat"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "answer", "decision", "x"]), inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


NEARLY_TENSOR = st.fixed_dictionaries(
    {"name": st.sampled_from(["x", "n", 3, None]), "datatype": st.sampled_from(["FP32", 1])},
    optional={
        "shape": st.lists(st.integers(-1, 3), max_size=3) | st.text(max_size=2),
        "data": JSON,
        "parameters": JSON,
    },
)
NEARLY_V2 = st.fixed_dictionaries(
    {"inputs": st.lists(NEARLY_TENSOR, max_size=2)},
    optional={"outputs": st.lists(NEARLY_TENSOR | JSON, max_size=2) | JSON, "parameters": JSON},
)


@given(st.sampled_from(["v2", "onward", "plain"]), JSON | NEARLY_V2, st.booleans())
def test_whatever_json_an_endpoint_gives_is_read_or_refused(form: forms.Form, told: Any, by_value: bool) -> None:
    try:
        answer(form, told, by_value=by_value)
    except MalformedBody:
        assert form != "plain"


@given(JSON | NEARLY_V2)
def test_whatever_json_a_line_holds_becomes_a_body_of_either_form_or_is_refused(value: Any) -> None:
    request = Recorded(line=1, value=value)
    try:
        if request.is_v2:
            forms.as_items(value, {})
            forms.renamed_v2(value, {}, {})
        else:
            forms.renamed_items(value, {"x": "y"})
            forms.as_v2(value, {}, KNOWN, where="")
    except (MalformedBody, WrongShape):
        pass


@pytest.mark.parametrize("told", [b"<html>", b"[1]", b"{}"])
def test_what_is_no_v2_answer_is_refused(told: bytes) -> None:
    with pytest.raises(MalformedBody):
        forms.answer_of("v2", told, by_value=False)


def test_places_in_answers_are_found_and_left_out() -> None:
    told = {"p": [{"s": 1}, {"s": 2}], "q": 3}
    steps = forms.steps_of("p[1].s", where="")
    assert steps == ("p", 1, "s") and forms.at_path(told, steps) == 2
    assert forms.at_path(told, ("p", 5)) == forms.at_path(told, ("q", "r")) == "nothing there"
    assert forms.without(told, steps) == {"p": [{"s": 1}, {}], "q": 3}
    assert forms.without(told, ("p", 0)) == {"p": [{"s": 2}], "q": 3}
    assert forms.without(told, ("r",)) == told
    with pytest.raises(UsageError):
        forms.steps_of("p[x]", where="--output")
