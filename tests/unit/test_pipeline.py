"""The pipeline: one input at a time or many together, the same answers; wrong calls are named precisely."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onward
from onward.decide.policy import Facts
from onward.errors import GoldenExampleFailed, InputError, UnknownOutput, WrongShape
from onward.package.assembly import assemble
from onward.package.package import open_package
from onward.pipeline import Pipeline
from onward.testing import tiny_package
from onward.types import CancelToken, Decision

rows = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), max_size=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("tiny") / "tiny" / "1.0.0", max_batch_size=4)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return onward.open(folder)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows)
def test_a_batch_of_any_size_is_bit_for_bit_what_one_by_one_gives(
    pipeline: Pipeline, values: list[list[float]]
) -> None:
    together = pipeline.batch(values)
    alone = [pipeline(value) for value in values]
    assert [result.answer for result in together] == [result.answer for result in alone]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.tensors["y"], other.tensors["y"])


def test_an_item_a_bare_value_and_an_array_are_the_same_input(pipeline: Pipeline) -> None:
    answers = [pipeline(value).answer for value in ({"x": [1, 2, 3]}, [1, 2, 3], np.array([1, 2, 3]))]
    assert answers == [{"y": [3.0, 5.0, 7.0]}] * 3


def test_a_result_says_which_package_answered(pipeline: Pipeline) -> None:
    identity = pipeline([1, 2, 3]).package
    assert (identity.name, identity.version, len(identity.digest)) == ("tiny", "1.0.0", 64)


def test_an_error_in_a_batch_names_the_input(pipeline: Pipeline) -> None:
    with pytest.raises(WrongShape, match=r"^\[1\] x: "):
        pipeline.batch([[1, 2, 3], [1, 2], [1, 2, 3]])
    with pytest.raises(WrongShape, match=r"^x: "):
        pipeline([1, 2])


def test_a_bare_value_needs_a_package_with_one_input(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    manifest = folder / "onward.toml"
    two = '[[input]]\nname = "z"\ndatatype = "FP32"\n\n[[input]]\nname = "x"'
    table = '[[prepare]]\nstep = "table"\ncolumns = ["x", "z", "w"]\noutput = "x"\n\n[execute]'
    text = manifest.read_text("utf-8").replace("shape = [3]\n\n[[output]]", two.split("\n\n")[0] + "\n\n[[output]]")
    text = text.replace("[[output]]", '[[input]]\nname = "w"\ndatatype = "FP32"\n\n[[output]]').replace(
        "[execute]", table
    )
    manifest.write_text(text, "utf-8")
    (folder / "examples.jsonl").unlink()
    assemble(folder)
    several = onward.open(folder)
    assert several({"x": 1, "z": 2, "w": 3}).answer == {"y": [3.0, 5.0, 7.0]}
    with pytest.raises(InputError, match="several inputs; expected a mapping with x, z, w; found list"):
        several([1, 2, 3])


def test_an_unknown_output_is_named_with_those_there_are(pipeline: Pipeline) -> None:
    with pytest.raises(UnknownOutput, match=r"^z: .*one of y"):
        pipeline([1, 2, 3], outputs=["z"])


def test_a_stream_ends_with_one_end_event_that_holds_the_result(pipeline: Pipeline) -> None:
    (event,) = pipeline.stream([1, 2, 3], CancelToken())
    assert event.kind == "end"
    assert event.result is not None
    assert event.result.answer == {"y": [3.0, 5.0, 7.0]}


def test_a_cancelled_stream_gives_nothing(pipeline: Pipeline) -> None:
    cancel = CancelToken()
    cancel.cancel()
    assert list(pipeline.stream([1, 2, 3], cancel)) == []


def test_a_policy_decides_on_every_result(folder: Path) -> None:
    class Large:
        def decide(self, facts: Facts) -> Decision:
            assert facts.answer is not None
            return Decision(outcome="review" if max(facts.answer["y"]) > 10 else "approve", rule="size")

    decided = Pipeline(open_package(folder), policy=Large()).batch([[1, 2, 3], [1, 2, 30]])
    assert [result.decision and result.decision.outcome for result in decided] == ["approve", "review"]


def test_a_golden_example_that_fails_says_which_where_and_by_how_much(tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    example = {"name": "wrong", "input": {"x": [0, 0, 0]}, "tensors": {"y": [[1, 1.5, 1]]}}
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n")
    assemble(folder)
    with pytest.raises(GoldenExampleFailed) as caught:
        onward.open(folder)
    message = str(caught.value)
    assert all(part in message for part in ("tiny", '"wrong"', "[1]", "expected 1.5", "found 1.0", "differs by 0.5"))
    assert onward.open(folder, check=False)([0, 0, 0]).answer == {"y": [1.0, 1.0, 1.0]}


def test_a_pipeline_whose_golden_examples_fail_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_package(tmp_path / "tiny", lock=False)
    example = {"name": "wrong", "input": {"x": [0, 0, 0]}, "tensors": {"y": [[1, 1.5, 1]]}}
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n")
    assemble(folder)
    closed: list[Pipeline] = []

    def close(pipeline: Pipeline) -> None:
        closed.append(pipeline)

    monkeypatch.setattr(Pipeline, "close", close)
    with pytest.raises(GoldenExampleFailed):
        onward.open(folder)
    assert len(closed) == 1


def test_a_pipeline_closes_as_a_context_and_twice(folder: Path) -> None:
    with onward.open(folder) as opened:
        assert opened([0, 0, 0]).answer == {"y": [1.0, 1.0, 1.0]}
    opened.close()


def test_a_blank_item_fits_the_model(folder: Path) -> None:
    pipeline = Pipeline(open_package(folder))
    assert len(pipeline.execute([pipeline.blank()], pipeline.default_fetches)) == 1


PROFILE = """
[profile]
entity = "card"
[[feature]]
name = "x"
kind = "measured"
function = "last_n"
field = "value"
n = 3
datatype = "FP32"
default = [1, 1, 1]
[[feature]]
name = "visits"
kind = "visit"
function = "count"
"""


@pytest.fixture(scope="module")
def personal(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tiny_package(tmp_path_factory.mktemp("personal") / "tiny", lock=False)
    manifest = folder / "onward.toml"
    card = '[[input]]\nname = "card"\ndatatype = "BYTES"\nrequired = false\n\n[[output]]'
    text = manifest.read_text("utf-8").replace("shape = [3]\n\n[[output]]", "shape = [-1]\n\n[[output]]", 1)
    manifest.write_text(text.replace("[[output]]", card, 1) + PROFILE, "utf-8")
    (folder / "examples.jsonl").unlink()
    assemble(folder)
    return onward.open(folder)


def test_an_input_left_out_comes_from_the_profile_and_without_one_from_the_default(personal: Pipeline) -> None:
    known = {"x": [1.0, 2.0, 3.0], "visits": 4}
    assert personal({"card": "c"}, profile=known).answer == {"y": [3.0, 5.0, 7.0]}
    assert personal({"card": "c"}).answer == personal({"x": [1, 1, 1]}).answer
    assert personal({"x": [0, 0, 0]}, profile=known).answer == personal({"x": [0, 0, 0]}).answer
    together = personal.batch([{"card": "c"}, {}], profiles=[known, None])
    assert [result.answer for result in together] == [{"y": [3.0, 5.0, 7.0]}, personal({}).answer]


def test_a_policy_sees_the_profile_or_what_stands_for_it(personal: Pipeline) -> None:
    seen: list[Facts] = []

    class Watch:
        def decide(self, facts: Facts) -> Decision:
            seen.append(facts)
            return Decision(outcome="seen", rule="watch")

    watched = Pipeline(personal.package, policy=Watch())
    watched({"card": "c"}, profile={"visits": 4})
    watched({"card": "c"})
    watched({"x": [0, 0, 0]})
    assert [facts.profile for facts in seen] == [
        {"x": [1.0, 1.0, 1.0], "visits": 4}, {"x": [1.0, 1.0, 1.0], "visits": 0}, {"x": [0, 0, 0], "visits": 0},
    ]  # fmt: skip
    watched.close()


def test_an_entity_that_is_no_text_is_refused(personal: Pipeline) -> None:
    with pytest.raises(InputError, match="card"):
        personal({"card": 17})
