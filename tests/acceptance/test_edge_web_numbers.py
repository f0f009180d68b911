"""Numbers that JavaScript has no type for, numbers that are none, labels of another system: as by the server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onward.package.examples import Example
from onward.package.package import open_package
from onward.runners.agreement.comparison import compare
from onward.runners.edge.certificate import own_answers
from onward.runners.edge.web.browser import answers_in_browser, browser
from tests.acceptance.conftest import model, tensor, write_package
from tests.acceptance.test_edge_web import export

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser() is None, reason="no Chromium here: `apt-get install chromium`"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: `apt-get install npm`"),
]
MANIFEST = """format = 1
[package]
name = "echo"
version = "1.0.0"
task = "classification"
licence = "MIT"

[[input]]
name = "whole"
datatype = "INT64"
shape = []

[[input]]
name = "scores"
datatype = "FP32"
shape = [3]

[[output]]
name = "same"
datatype = "INT64"
shape = []

[[output]]
name = "odd"
datatype = "FP32"
shape = [3]

[[generate]]
step = "labels"
scores = "odd"
file = "labels.txt"
top_k = 3

[execute]
backend = "onnx"
file = "model.onnx"

[batching]
max_batch_size = 4
"""
LARGEST = float(np.finfo(np.float32).max)
WHOLE = [0, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**70, 1.5, "1", True]
SCORES: list[Any] = [
    [0.5, -1.0, 0.25], [-1.0, -2.0, -3.0], [-1.0, 4.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, -0.0],
    [LARGEST, -LARGEST, 0.0], [3.4028235e38, 0.0, 0.0], [3.4028236e38, 0.0, 0.0], [1e39, 0.0, 0.0], [2**130, 0, 0],
    [1.0, 1.0], [1.0, "x", 1.0, 1.0], [[1.0, 2.0, 3.0]], [1.0, None, 2.0], 1.0, "abc", {"a": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers") / "echo"
    nodes = [
        helper.make_node("Identity", ["whole"], ["same"]),
        # Below 0 they are no number, at 0 infinite.
        helper.make_node("Sqrt", ["scores"], ["roots"]),
        helper.make_node("Reciprocal", ["roots"], ["odd"]),
    ]
    inputs = [tensor("whole", TensorProto.INT64, ["n"]), tensor("scores", TensorProto.FLOAT, ["n", 3])]
    outputs = [tensor("same", TensorProto.INT64, ["n"]), tensor("odd", TensorProto.FLOAT, ["n", 3])]
    item = {"whole": 2**60 + 1, "scores": [0.5, 0.75, 0.25]}
    example = Example(name="large", input=item, answer={"label": "two", "same": 2**60 + 1})
    graphs = {"model.onnx": model(nodes, inputs, outputs, {})}
    write_package(folder, MANIFEST, graphs, labels="one\r\ntwo\r\nthree\r\n", examples=[example])
    return folder


def test_large_numbers_and_numbers_that_are_none_are_answered_as_behind_the_server(
    package: Path, tmp_path: Path
) -> None:
    report = export(package, tmp_path / "echo", "--inputs", "30")
    assert report["certificate"]["agreeing"] == report["certificate"]["inputs"]
    items: list[dict[str, Any]] = [{"whole": one, "scores": [0.5, 0.75, 0.25]} for one in WHOLE]
    items += [{"whole": 1, "scores": one} for one in SCORES]
    expected = own_answers(open_package(package), items)
    found = answers_in_browser(tmp_path / "echo", items, timeout_s=60).answers
    for item, answer, own in zip(items, found, expected, strict=True):
        assert answer.get("error") == own.get("error"), item
        assert answer.get("same") == own.get("same"), item
    agreement = compare("web", expected, found)
    assert agreement.agreeing == len(items), agreement.first
