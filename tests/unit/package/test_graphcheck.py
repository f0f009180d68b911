from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onward.errors import RefusedGraph
from onward.package.graphcheck import check_graph, check_graph_bytes


def refused(model: onnx.ModelProto) -> str:
    with pytest.raises(RefusedGraph) as caught:
        check_graph_bytes(model.SerializeToString())
    return str(caught.value)


def test_a_graph_that_infers_is_let_through(tmp_path: Path, models: ModuleType) -> None:
    onnx.save(models.linear_model(), tmp_path / "model.onnx")
    assert check_graph(tmp_path / "model.onnx", tmp_path) == ()


@pytest.mark.parametrize(
    ("operator", "domain"),
    [
        ("Gradient", "ai.onnx.preview.training"),
        ("Adam", "ai.onnx.preview.training"),
        ("Momentum", "ai.onnx.training"),
        ("AdamWOptimizer", "com.microsoft"),
        ("SoftmaxGrad", "com.microsoft"),
        ("Adagrad", ""),
    ],
)
def test_an_operator_that_trains_is_refused_by_name(models: ModuleType, operator: str, domain: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], domain=domain, name="step")
    text = refused(models.model([node]))
    assert f'"{operator}"' in text and "trains" in text and '"step"' in text


def test_a_model_that_imports_a_training_domain_is_refused(models: ModuleType) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    assert "ai.onnx.preview.training" in refused(models.model([node], domains=["ai.onnx.preview.training"]))


def test_training_information_is_refused(models: ModuleType) -> None:
    model = models.linear_model()
    model.training_info.add()
    assert "training information" in refused(model)


def test_an_operator_of_a_foreign_domain_is_refused(models: ModuleType) -> None:
    assert "foreign code" in refused(models.model([helper.make_node("Run", ["x"], ["y"], domain="evil.ops")]))


def test_a_models_own_function_is_let_through_and_looked_into(models: ModuleType) -> None:
    def with_body(operator: str, domain: str) -> onnx.ModelProto:
        body = [helper.make_node(operator, ["a"], ["b"], domain=domain)]
        function = helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        call = helper.make_node("Twice", ["x"], ["y"], domain="own")
        result: onnx.ModelProto = models.model([call], domains=["own"], functions=[function])
        return result

    check_graph_bytes(with_body("Identity", "").SerializeToString())
    assert "foreign code" in refused(with_body("Run", "evil.ops"))


def test_subgraphs_are_looked_into(models: ModuleType) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["x"], ["z"])
        return helper.make_graph([node], "g", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Identity"), else_branch=branch("Momentum"))
    assert '"Momentum"' in refused(models.model([node]))


def test_subgraphs_without_end_are_refused() -> None:
    def message(number: int, data: bytes) -> bytes:
        size, written = len(data), b""
        while size >= 0x80:
            written += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + written + bytes([size]) + data

    graph = b""
    for _ in range(40):  # by hand: protobuf itself refuses to write so deep
        graph = message(1, message(4, b"If") + message(5, message(6, graph)))
    with pytest.raises(RefusedGraph, match="nested too deeply"):
        check_graph_bytes(message(7, graph))


def external(models: ModuleType, location: str) -> onnx.ModelProto:
    tensor = numpy_helper.from_array(models.WEIGHTS, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    result: onnx.ModelProto = models.model([node], initializers=[tensor])
    return result


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin", "missing.bin", ""])
def test_external_data_outside_the_package_is_refused(tmp_path: Path, models: ModuleType, location: str) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(models.WEIGHTS.tobytes())
    (folder / "model.onnx").write_bytes(external(models, location).SerializeToString())
    with pytest.raises(RefusedGraph, match="not a file of the package"):
        check_graph(folder / "model.onnx", folder)


def test_external_data_inside_the_package_is_let_through_and_named(tmp_path: Path, models: ModuleType) -> None:
    (tmp_path / "weights.bin").write_bytes(models.WEIGHTS.tobytes())
    (tmp_path / "model.onnx").write_bytes(external(models, "weights.bin").SerializeToString())
    assert check_graph(tmp_path / "model.onnx", tmp_path) == ("weights.bin",)


def test_external_data_behind_a_link_is_refused(tmp_path: Path, models: ModuleType) -> None:
    (tmp_path / "weights.bin").symlink_to("/etc/passwd")
    (tmp_path / "model.onnx").write_bytes(external(models, "weights.bin").SerializeToString())
    with pytest.raises(RefusedGraph):
        check_graph(tmp_path / "model.onnx", tmp_path)


def test_external_data_of_a_constant_is_found(models: ModuleType) -> None:
    tensor = external(models, "w.bin").graph.initializer[0]
    assert "w.bin" in refused(models.model([helper.make_node("Constant", [], ["y"], value=tensor)]))


def test_numbers_of_an_attribute_hide_nothing_that_stands_behind_them(models: ModuleType) -> None:
    foreign = helper.make_graph([helper.make_node("Evil", ["x"], ["y"], domain="org.evil")], "g", [], [])
    node = helper.make_node("If", ["c"], ["y"])
    # Numbers and words, then the tag of a graph: of every length, and such as look like tags.
    node.attribute.append(
        onnx.AttributeProto(
            name="a", type=onnx.AttributeProto.GRAPHS, floats=[0.5, 0.0, 0.125] * 50,
            ints=[0, 0x40, 0x3D, 300, 1 << 40, -1] * 50,
            strings=[b"\x4a" * length for length in range(40)] + [b"", b"\x4a\x00\n"] * 20, graphs=[foreign],
        )
    )  # fmt: skip
    assert "org.evil" in refused(models.model([node]))


def test_large_weights_are_skipped_not_read(tmp_path: Path, models: ModuleType) -> None:
    weights = numpy_helper.from_array(np.zeros((1000, 1000), dtype=np.float32), "w")
    model = models.model([helper.make_node("Identity", ["x"], ["y"])], initializers=[weights])
    check_graph_bytes(model.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_are_let_through_or_refused_but_never_crash(data: bytes) -> None:
    try:
        check_graph_bytes(data)
    except RefusedGraph as error:
        assert error.code == "REFUSED_GRAPH"


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_model_is_let_through_or_refused_but_never_crashes(
    models: ModuleType, position: int, byte: int
) -> None:
    data = bytearray(models.linear_model().SerializeToString())
    data[position % len(data)] = byte
    try:
        check_graph_bytes(bytes(data))
    except RefusedGraph as error:
        assert error.expected


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80" * 20])
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(RefusedGraph):
        check_graph(tmp_path / "model.onnx", tmp_path)
