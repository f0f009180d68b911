"""A package with a smaller model is a package of its own, and promises what its own model answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="models are made smaller with the extra `pack`")
from onnx import TensorProto, helper, numpy_helper, save

from onward.package.assembly import assemble
from onward.package.examples import Example, read_examples, write_examples
from onward.package.package import Package, open_package
from onward.pipeline import Pipeline
from onward.runners.edge.smaller import smaller_package

SIZE = 64


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """One product of 64 numbers with 64 x 64 weights."""
    folder = tmp_path / "product"
    folder.mkdir()
    weights = np.random.default_rng(3).normal(size=(SIZE, SIZE)).astype(np.float32)
    shape = ["n", SIZE]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "model.onnx")
    fields = "".join(f'[[{kind}]]\nname = "{name}"\ndatatype = "FP32"\nshape = [{SIZE}]\n'
                     for kind, name in (("input", "x"), ("output", "y")))  # fmt: skip
    (folder / "onward.toml").write_text(
        f'format = 1\n[package]\nname = "product"\nversion = "1.0.0"\n{fields}', "utf-8"
    )
    rows = np.random.default_rng(4).normal(size=(8, SIZE)).astype(np.float32)
    write_examples(
        folder, [Example(name=str(n), input={"x": row}, answer={"y": row @ weights}) for n, row in enumerate(rows)]
    )
    return assemble(folder)


def test_it_promises_what_its_own_model_answers_and_is_near_the_original(package: Package, tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    made, trials = smaller_package(package, "weights8", tmp_path / "place")
    assert [trial.setting for trial in trials] == ["weights8"]
    assert made.id.digest != package.id.digest
    reopened = open_package(made.folder)  # its lock fits its files
    with Pipeline(reopened) as pipeline:
        assert pipeline.check_examples() == 8
    for old, new in zip(read_examples(package.folder), read_examples(made.folder), strict=True):
        assert old.input["x"] == new.input["x"]
        assert old.answer != new.answer
        assert np.allclose(old.answer["y"], new.answer["y"], atol=0.3)


def test_the_original_is_left_as_it_is(package: Package, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in package.folder.iterdir()}
    (tmp_path / "place").mkdir()
    smaller_package(package, "weights8", tmp_path / "place")
    assert {path.name: path.read_bytes() for path in package.folder.iterdir()} == before
