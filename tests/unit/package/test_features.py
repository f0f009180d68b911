from __future__ import annotations

import pytest

from onward.errors import ManifestError
from onward.package.features import typed_value
from onward.package.manifest import Feature, ManifestProblems, ProfileSource, dump_manifest, parse_manifest
from onward.package.signature import signature_of
from onward.types import TensorSpec

HEAD = """format = 1
[package]
name = "fraud"
version = "1.0.0"
[[input]]
name = "Amount"
datatype = "FP32"
[[input]]
name = "card"
datatype = "BYTES"
required = false
[[input]]
name = "history"
datatype = "INT64"
shape = [-1]
required = false
[[output]]
name = "probability"
datatype = "FP32"
"""
PROFILE = '[profile]\nentity = "card"\nttl_s = 86400\n'
SPENT = '[[feature]]\nname = "spent_1h"\nkind = "purchase"\nfunction = "sum"\nfield = "amount"\nwindow_s = 3600\n'
HISTORY = """[[feature]]
name = "history"
kinds = ["rating", "view"]
function = "last_n"
field = "item"
n = 50
"""
OTHERS = """[[feature]]
name = "seen"
kind = "purchase"
function = "time_since"
[[feature]]
name = "plan"
kind = "subscription"
function = "last"
field = "plan"
datatype = "BYTES"
default = "none"
[[feature]]
name = "ratings"
kind = "rating"
function = "last_n"
field = "stars"
n = 50
datatype = "FP32"
missing = 3
default = [1, 2.5]
"""


def problem(text: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert not isinstance(caught.value, ManifestProblems), str(caught.value)
    return caught.value


def test_profile_and_features_are_read_with_their_types() -> None:
    manifest = parse_manifest(HEAD + PROFILE + SPENT + HISTORY + OTHERS)
    assert manifest.profile == ProfileSource(entity="card", ttl_s=86400.0, max_events=10_000)
    spent, history, seen, plan, ratings = manifest.features
    assert spent == Feature(
        name="spent_1h", kinds=("purchase",), function="sum", field="amount", window_s=3600.0, default=0.0
    )
    assert isinstance(spent.default, float)
    assert (history.datatype, history.shape, history.default) == ("INT64", (-1,), ())
    assert (seen.datatype, seen.default) == ("FP64", None)
    assert (plan.datatype, plan.default) == ("BYTES", "none")
    assert (ratings.datatype, ratings.missing, ratings.default) == ("FP32", 3.0, (1.0, 2.5))


def test_a_manifest_with_a_profile_reads_back_as_it_was_written() -> None:
    manifest = parse_manifest(HEAD + PROFILE + SPENT + HISTORY + OTHERS)
    assert parse_manifest(dump_manifest(manifest)) == manifest


def test_the_entity_becomes_no_tensor() -> None:
    manifest = parse_manifest(HEAD + PROFILE + HISTORY)
    specs = [TensorSpec(name="Amount", datatype="FP32", shape=(-1,))]
    specs.append(TensorSpec(name="history", datatype="INT64", shape=(-1, -1)))
    outputs = [TensorSpec(name="probability", datatype="FP32", shape=(-1,))]
    assert signature_of(manifest, specs, outputs).tensor_inputs == tuple(specs)


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        (PROFILE.replace("card", "crad"), 21, "profile.entity", 'did you mean "card"?'),
        (PROFILE.replace("card", "Amount"), 21, "profile.entity", "cannot name an entity"),
        (PROFILE.replace("86400", "0"), 22, "profile.ttl_s", "above 0"),
        (PROFILE + "max_events = 0\n", 23, "profile.max_events", "out of range"),
        (SPENT, 20, "feature[0]", "need a profile"),
        (PROFILE + SPENT.replace("spent_1h", "spent-1h"), 24, "feature[0].name", "not allowed"),
        (PROFILE + SPENT + SPENT, 30, "feature[1].name", "given twice"),
        (PROFILE + SPENT.replace('kind = "purchase"', ""), 23, "feature[0].kind", "missing"),
        (PROFILE + SPENT + 'kinds = ["a"]\n', 29, "feature[0].kinds", "beside kind"),
        (PROFILE + SPENT.replace("purchase", "Purchase"), 25, "feature[0].kind", "not allowed"),
        (PROFILE + HISTORY.replace("view", "View"), 25, "feature[0].kinds[1]", "not allowed"),
        (PROFILE + SPENT.replace('"sum"', '"summ"'), 26, "feature[0].function", 'did you mean "sum"?'),
        (PROFILE + SPENT.replace('field = "amount"', ""), 23, "feature[0].field", "missing"),
        (PROFILE + SPENT.replace('"sum"', '"count"'), 27, "feature[0].field", "count looks at no field"),
        (PROFILE + SPENT.replace("3600", "-1"), 28, "feature[0].window_s", "above 0"),
        (PROFILE + SPENT + "n = 3\n", 29, "feature[0].n", "only for last_n"),
        (PROFILE + HISTORY.replace("n = 50", ""), 23, "feature[0].n", "missing"),
        (PROFILE + SPENT + 'default = "0"\n', 29, "feature[0].default", "one FP64"),
        (PROFILE + SPENT + 'datatype = "INT64"\n', 29, "feature[0].datatype", "sum gives FP64"),
        (PROFILE + SPENT + "windows_s = 3\n", 29, "feature[0].windows_s", 'did you mean "window_s"?'),
        (PROFILE + HISTORY + "default = [1.5]\n", 29, "feature[0].default", "an array of INT64"),
        (PROFILE + HISTORY + 'datatype = "FP64"\n', 23, "feature[0]", "does not fit the input of its name"),
        (PROFILE + SPENT.replace("spent_1h", "history"), 23, "feature[0]", "does not fit the input of its name"),
        (PROFILE + SPENT.replace("spent_1h", "card"), 23, "feature[0]", "does not fit"),
        (PROFILE + HISTORY.replace("history", "others"), 23, "feature[0].datatype", "missing"),
        (
            PROFILE + SPENT.replace('"sum"', '"distinct"') + "missing = 1\n",
            29,
            "feature[0].missing",
            "not for distinct",
        ),
    ],
)
def test_an_error_names_line_key_and_what_would_be_right(text: str, line: int, key: str, says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(HEAD + text)
    problems = caught.value.problems if isinstance(caught.value, ManifestProblems) else [caught.value]
    found = [str(each) for each in problems if str(each).startswith(f"onward.toml:{line}: {key}: ")]
    assert len(found) == 1, str(caught.value)
    assert says in found[0]


def test_an_input_that_no_feature_surely_fills_still_needs_a_default() -> None:
    text = HEAD + PROFILE + SPENT.replace("spent_1h", "other")
    assert "input[2].required" in str(problem(text))
    parse_manifest(HEAD + PROFILE + HISTORY)


@pytest.mark.parametrize(
    ("value", "datatype", "typed"),
    [
        (3, "FP32", 3.0),
        (3.0, "INT64", 3),
        (3.5, "INT64", None),
        (300, "UINT8", None),
        (True, "INT64", None),
        (1, "BOOL", None),
        ("1", "FP64", None),
        (10**400, "FP64", None),
        (float("nan"), "FP64", None),
        ("x", "BYTES", "x"),
        (None, "BYTES", None),
    ],
)
def test_nothing_is_silently_turned_into_another_type(value: object, datatype: str, typed: object) -> None:
    found = typed_value(value, datatype)
    assert found == typed
    assert type(found) is type(typed)
