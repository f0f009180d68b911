"""The preparation of a manifest: host steps in order, then the graph; every tensor has the item's row first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onward.errors import InputError, MissingInput, UnknownInput
from onward.package.manifest import parse_manifest
from onward.prepare.steps import Preparation
from onward.types import Array

HEAD = """
format = 1
[package]
name = "p"
version = "1"
[[output]]
name = "y"
datatype = "FP32"
"""
TABLE = """
[[prepare]]
step = "table"
columns = ["b", "a"]
"""


def field(name: str, datatype: str = "FP32", *more: str) -> str:
    return "\n".join(["[[input]]", f'name = "{name}"', f'datatype = "{datatype}"', *more, ""])


def preparation(text: str, *, graph: object = None) -> Preparation:
    return Preparation(parse_manifest(HEAD + text), Path(), graph=graph)  # type: ignore[arg-type]


def test_without_steps_the_fields_are_the_tensors_with_a_row_in_front() -> None:
    prepared = preparation(field("x", "FP32", "shape = [2, 3]"))({"x": np.zeros((2, 3))})
    assert prepared.tensors["x"].shape == (1, 2, 3)
    assert (prepared.rows, prepared.length) == (1, 0)


def test_fields_that_no_step_takes_go_beside_the_table() -> None:
    whole = preparation(field("a") + field("b") + field("c") + TABLE)
    tensors = whole({"a": 1, "b": 2, "c": 3}).tensors
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"features": [[2, 1]], "c": [3]}
    assert whole.table is None


def test_a_preparation_that_is_one_table_says_so() -> None:
    whole = preparation(field("a") + field("b") + TABLE)
    assert whole.table is not None
    assert whole.table.decode_row(b'{"a": 1, "b": 2}') == [2, 1]


def test_a_graph_gets_the_items_tensors_and_gives_the_models() -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def graph(tensors: dict[str, Array]) -> dict[str, Array]:
        seen.update({name: tensor.shape for name, tensor in tensors.items()})
        return {"features": np.ones((1, 7), np.float32)}

    text = field("x", "FP32", "shape = [-1]") + '[[prepare]]\nstep = "graph"\nfile = "prepare.onnx"\n'
    assert preparation(text, graph=graph)({"x": [1, 2]}).tensors["features"].shape == (1, 7)
    assert seen == {"x": (2,)}


def test_the_length_is_that_of_the_padded_tensors() -> None:
    text = field("ids", "INT64", "shape = [-1]") + "[batching]\npad = { ids = 0 }\n"
    assert preparation(text)({"ids": [1, 2, 3]}).length == 3


def test_optional_and_default_fields_may_be_left_out_or_null() -> None:
    text = field("a", "FP32", "required = false") + field("b", "INT64", "default = 4")
    for item in ({}, {"a": None, "b": None}):
        tensors = preparation(text)(item).tensors
        assert np.isnan(tensors["a"]).all()
        assert tensors["b"].tolist() == [4]


@pytest.mark.parametrize(
    ("item", "error"), [({}, MissingInput), ({"a": 1, "z": 1}, UnknownInput), ({"a": None}, MissingInput)]
)
def test_names_are_checked_before_values(item: dict[str, object], error: type[InputError]) -> None:
    with pytest.raises(error):
        preparation(field("a"))(item)
