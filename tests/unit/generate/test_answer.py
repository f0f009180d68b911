"""Outputs become what a person reads: labels, names, plain values; only what was asked for is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import ExecutionError
from onward.generate.answer import Generation, plain, readable, readable_decision
from onward.package.manifest import parse_manifest
from onward.types import Blob, Decision, PackageId, Result

HEAD = """
format = 1
[package]
name = "p"
version = "1"
[[input]]
name = "x"
datatype = "FP32"
"""
SORTED = """
[[generate]]
step = "labels"
scores = "top_scores"
indices = "top_indices"
top_k = 2
"""
FULL = """
[[generate]]
step = "labels"
scores = "scores"
top_k = 2
output = "colour"
"""


def output(name: str, *more: str) -> str:
    return "\n".join(["[[output]]", f'name = "{name}"', 'datatype = "FP32"', *more, ""])


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\x85sky\n", encoding="utf-8")
    return tmp_path


def generation(text: str, folder: Path, *tensors: str) -> Generation:
    return Generation(parse_manifest(HEAD + text), folder, tensors=tensors)


def test_sorted_scores_get_their_names(labels: Path) -> None:
    made = generation(output("top_scores", "shape = [3]") + output("top_indices", "shape = [3]") + SORTED, labels,
                      "top_scores", "top_indices")  # fmt: skip
    assert made.fetches() == ("top_scores", "top_indices")
    tensors = {"top_scores": np.float32([[0.5, 0.25, 0.25]]), "top_indices": np.int64([[2, 0, 1]])}
    assert made(tensors) == {
        "label": "blue\x85sky", "score": 0.5,
        "labels": [{"label": "blue\x85sky", "score": 0.5}, {"label": "red", "score": 0.25}],
    }  # fmt: skip


@given(st.permutations([0.5, 0.25, 0.125]))
def test_a_full_score_vector_is_sorted_here(tmp_path_factory: pytest.TempPathFactory, scores: list[float]) -> None:
    folder = tmp_path_factory.mktemp("labels")
    names = ["red", "green", "blue"]
    (folder / "labels.txt").write_text("\n".join(names))
    answer = generation(output("scores", "shape = [3]") + FULL, folder, "scores")({"scores": np.float64([scores])})
    best = sorted(zip(scores, names, strict=True), reverse=True)[:2]
    assert answer["colours"] == [{"colour": name, "score": score} for score, name in best]
    assert (answer["colour"], answer["score"]) == (best[0][1], best[0][0])


def test_scores_appear_themselves_only_when_requested(labels: Path) -> None:
    made = generation(output("scores", "shape = [3]") + FULL, labels, "scores")
    tensors = {"scores": np.float64([[1.0, 0.0, 0.0]])}
    assert "scores" not in made(tensors)
    assert made(tensors, frozenset({"scores"}))["scores"] == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("index", [3, -1])
def test_an_index_without_a_label_is_an_error_of_the_model(labels: Path, index: int) -> None:
    made = generation(output("top_scores", "shape = [1]") + output("top_indices", "shape = [1]") + SORTED, labels)
    with pytest.raises(ExecutionError, match="index without a label"):
        made({"top_scores": np.float32([[1.0]]), "top_indices": np.int64([[index]])})


def test_only_outputs_on_request_are_left_out_until_requested(labels: Path) -> None:
    made = generation(output("a") + output("b", "on_request = true"), labels, "a", "b", "c")
    assert made.names == ("a", "b")
    assert made.fetches() == ("a",)
    assert made.fetches(frozenset({"b"})) == ("a", "b")


def test_a_label_is_made_although_its_scores_are_on_request_or_no_output_names_them(labels: Path) -> None:
    for text in (output("scores", "shape = [3]", "on_request = true"), output("colour"), output("other")):
        assert "scores" in generation(text + FULL, labels, "scores", "other").fetches()


def test_a_label_that_is_on_request_is_made_on_request(labels: Path) -> None:
    text = output("a") + output("colour", "on_request = true")
    made = generation(text + FULL, labels, "a", "scores")
    assert made.fetches() == ("a",)
    assert made.fetches(frozenset({"colour"})) == ("a", "scores")


def test_a_vector_gets_the_names_of_its_values(labels: Path) -> None:
    named = '[[generate]]\nstep = "named"\ninput = "contributions"\nnames = ["Time", "bias"]\n'
    made = generation(output("contributions", "shape = [2]") + named, labels, "contributions")
    assert made({"contributions": np.float64([[0.5, -1.0]])}) == {"contributions": {"Time": 0.5, "bias": -1.0}}


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.float32(0.5), 0.5),
        (np.int64([1, 2]), [1, 2]),
        (np.bool_(True), True),
        (np.array([[b"a", "grün".encode()]], dtype=object), [["a", "grün"]]),
        (np.array(b"\xff", dtype=object), "\ufffd"),
        (np.zeros((0, 3)), []),
    ],
)
def test_a_plain_value_is_what_json_holds(array: Any, value: Any) -> None:
    assert plain(array) == value
    json.dumps(plain(array))


def test_a_blob_is_readable_as_base64_and_a_decision_is_no_part_of_the_answer() -> None:
    decision = Decision(outcome="approve", rule="first", reasons=("small",))
    result = Result(
        answer={"decision": 3, "voice": Blob(data=b"RIFF", media_type="audio/wav")}, tensors={},
        package=PackageId(name="p", version="1", digest="d"), decision=decision,
    )  # fmt: skip
    told = json.loads(json.dumps(readable(result)))
    assert told == {"decision": 3, "voice": {"media_type": "audio/wav", "base64": "UklGRg=="}}
    assert json.loads(json.dumps(readable_decision(decision))) == {
        "outcome": "approve", "rule": "first", "reasons": ["small"], "arguments": {},
    }  # fmt: skip
