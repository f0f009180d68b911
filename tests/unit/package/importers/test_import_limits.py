"""What asks for more than there is, or is longer than any, is refused by every way in before it is taken in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from onward.errors import PackageError, RefusedGraph
from onward.package.importers.mlflow import draft_of_mlflow
from onward.package.importers.triton import import_triton
from onward.package.records import PackageInfo
from tests.triton_models import write, write_config, write_layer


def write_bomb(file: Path) -> None:
    """Sums terabytes of zeros."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = {"sizes": np.array([1 << 42], np.int64), "axes": np.array([0], np.int64)}
    write(file, nodes, [value("x", TensorProto.FLOAT, ["n", 4])], [value("y", TensorProto.FLOAT, ["n", 4])], constants)


def test_a_triton_repository_with_a_graph_that_wants_terabytes_is_refused(tmp_path: Path) -> None:
    write_bomb(tmp_path / "models" / "bomb" / "1" / "model.onnx")
    (found,) = import_triton(tmp_path / "models", tmp_path / "out")
    assert found.code == "REFUSED_GRAPH" and "memory" in found.refused


@pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt"])
def test_a_file_of_words_that_is_longer_than_any_is_refused_unread(file: str, tmp_path: Path) -> None:
    model = tmp_path / "models" / "one"
    write_layer(model / "1" / "model.onnx")
    write_config(model, 'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: 4 } '
                 'output { name: "y" data_type: TYPE_FP32 dims: 3 label_filename: "labels.txt" }')  # fmt: skip
    with (model / file).open("ab") as stream:
        stream.truncate(17 << 20)
    (found,) = import_triton(tmp_path / "models", tmp_path / "out")
    assert "too long" in found.refused


def test_an_mlmodel_that_is_longer_than_any_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "MLmodel").open("wb") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(PackageError, match="too long"):
        draft_of_mlflow(tmp_path, PackageInfo(name="long", version="1.0.0"))


@pytest.mark.parametrize("example", [False, True])
def test_an_mlflow_model_with_a_graph_that_wants_terabytes_is_refused(example: bool, tmp_path: Path) -> None:
    write_bomb(tmp_path / "model.onnx")
    more = "saved_input_example_info:\n  artifact_path: input_example.json\n" if example else ""
    (tmp_path / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n" + more, "utf-8")
    (tmp_path / "input_example.json").write_text("[[1, 2, 3, 4]]", "utf-8")
    with pytest.raises(RefusedGraph, match="memory"):
        draft_of_mlflow(tmp_path, PackageInfo(name="bomb", version="1.0.0"))
