from __future__ import annotations

import resource
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onward.errors import RefusedGraph
from onward.package import graphtrial
from onward.package.graphtrial import try_graphs
from onward.package.pack import pack


def of_constant(models: ModuleType, elements: int) -> onnx.ModelProto:
    """A graph of a few bytes that sums so many zeros."""
    constants = {"sizes": np.array([elements], np.int64), "axes": np.array([0], np.int64)}
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros", "axes"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "sum"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made: onnx.ModelProto = models.model(
        nodes, initializers=[*initializers, numpy_helper.from_array(models.WEIGHTS, "w")]
    )
    return made


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_a_graph_that_loads_passes_and_costs_little(tmp_path: Path, models: ModuleType) -> None:
    file = saved(tmp_path, models.linear_model())
    started_s = time.monotonic()
    try_graphs([file], tmp_path)
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("elements", [1 << 30, 1 << 42], ids=["gigabytes", "terabytes"])
def test_a_graph_that_asks_for_more_memory_than_there_is_is_refused_and_takes_none_of_ours(
    tmp_path: Path, models: ModuleType, elements: int
) -> None:
    file = saved(tmp_path / "source", of_constant(models, elements))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RefusedGraph, match="memory"):
        pack(file, tmp_path / "out", name="bomb")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10  # KiB
    (tmp_path / "source" / "onward.toml").write_text(models.MANIFEST)
    with pytest.raises(RefusedGraph, match="memory"):
        pack(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_the_runtime_cannot_load_is_refused_with_its_reason(tmp_path: Path, models: ModuleType) -> None:
    made = models.model([helper.make_node("NoSuchOperator", ["x"], ["y"])])
    with pytest.raises(RefusedGraph, match="NoSuchOperator"):
        try_graphs([saved(tmp_path, made)], tmp_path)


def test_a_process_that_dies_is_told_and_we_live(
    tmp_path: Path, models: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "dying.py"
    dying.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(graphtrial, "_CHILD", dying)
    with pytest.raises(RefusedGraph, match="SIGSEGV"):
        try_graphs([saved(tmp_path, models.linear_model())], tmp_path)


def test_a_graph_that_does_not_take_zeros_is_not_refused(tmp_path: Path, models: ModuleType) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["index"], to=onnx.TensorProto.INT64),
        helper.make_node("Sub", ["index", "one"], ["below"]),
        helper.make_node("Gather", ["w", "below"], ["y3"]),
        helper.make_node("ReduceSum", ["y3", "axes"], ["y"], keepdims=0),
    ]
    constants = {"one": np.array([100], np.int64), "w": models.WEIGHTS, "axes": np.array([1], np.int64)}
    made = models.model(nodes, initializers=[numpy_helper.from_array(value, name) for name, value in constants.items()])
    try_graphs([saved(tmp_path, made)], tmp_path)
