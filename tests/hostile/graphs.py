"""Graphs made to do harm."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.cases import case, named, tiny


def model(nodes: Sequence[Any], initializers: Sequence[Any] = (), functions: Sequence[Any] = (),
          domains: Sequence[str] = (), sparse: Sequence[Any] = ()) -> bytes:  # fmt: skip
    """A model of x [n, 3] → y [n, 3]; with what it is to hold, as a file."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializers)
    graph.sparse_initializer.extend(sparse)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    return bytes(made.SerializeToString())


PASS = helper.make_node("Identity", ["x"], ["y"])


def add(name: str, data: bytes, files: dict[str, bytes] | None = None, code: str = "REFUSED_GRAPH") -> None:
    named(f"graph_{name}", lambda place: tiny(place, {"model.onnx": data, **(files or {})}), code)


def declared(name: str, dims: Sequence[int], datatype: int = TensorProto.FLOAT, raw: bytes = b"") -> Any:
    tensor = onnx.TensorProto(name=name, data_type=datatype, dims=dims)
    if raw:
        tensor.raw_data = raw
    return tensor


ABSURD = {
    "terabytes": [1 << 40], "product": [1 << 20, 1 << 20], "overflow": [1 << 32, 1 << 32, 1 << 32], "negative": [-1],
    "negative_twice": [-(1 << 31), -(1 << 31)], "zero_beside": [0, 1 << 62, 1 << 62, -5], "many": [1] * 100,
}  # fmt: skip
for _name, _dims in ABSURD.items():
    add(f"tensor_{_name}", model([PASS], [declared("w", _dims)]))
add("tensor_of_texts", model([PASS], [declared("w", [1 << 40], TensorProto.STRING)]))
add("tensor_in_a_node", model([PASS, helper.make_node("Constant", [], ["c"], value=declared("w", [1 << 40]))]))
add("tensor_shorter_than_it_says", model([PASS], [declared("w", [1000], raw=bytes(16))]))
_one = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
_at = helper.make_tensor("i", TensorProto.INT64, [1], [5])
add("sparse", model([PASS], sparse=[helper.make_sparse_tensor(_one, _at, [1 << 20, 1 << 20])]))

for _index, _location in enumerate(("/etc/passwd", "../w.bin", "a/../../w.bin", "w.bin", "", "C:/w.bin", "a\\w.bin",
                                    "*/_ORT_MEM_ADDR_/*", "file:///etc/passwd")):  # fmt: skip

    def _external(location: str) -> bytes:
        tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return model([PASS], [tensor])

    add(f"data_at_{_index}", _external(_location))


@case("INVALID_PACKAGE")
def graph_data_behind_a_link(place: Path) -> Path:
    folder = tiny(place, {"model.onnx": _external("w.bin"), "w.bin": bytes(16)})
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("/etc/passwd")
    return folder


for _name, _told in {
    "beyond": {"offset": "1000", "length": "16"}, "long": {"length": str(1 << 50)}, "odd": {"offset": "-1"},
    "text": {"offset": "0x10"}, "short": {"length": "4"}, "huge": {"offset": "9" * 5000},
}.items():  # fmt: skip
    _tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    _tensor.data_location = onnx.TensorProto.EXTERNAL
    _tensor.external_data.add(key="location", value="w.bin")
    for _key, _value in _told.items():
        _tensor.external_data.add(key=_key, value=_value)
    add(f"data_{_name}", model([PASS], [_tensor]), {"w.bin": bytes(64)})

for _operator, _domain in (
    ("Gradient", "ai.onnx.preview.training"), ("Adam", "ai.onnx.preview.training"), ("SoftmaxGrad", "com.microsoft"),
    ("YieldOp", "com.microsoft"), ("PythonOp", "com.microsoft"), ("ATen", "com.microsoft"),
    ("EPContext", "com.microsoft"), ("Evil", "evil.example"), ("StringRegexReplace", "ai.onnx.contrib"),
    ("ATen", "org.pytorch.aten"),
):  # fmt: skip
    add(f"operator_{_operator}_{re.sub('[^a-z]', '', _domain)}",
        model([helper.make_node(_operator, ["x"], ["y"], domain=_domain)], domains=[_domain]))  # fmt: skip


def _function(name: str, calls: Sequence[str]) -> Any:
    nodes, before = [], "a"
    for number, called in enumerate(calls):
        domain = "" if called == "Identity" else "own"
        nodes.append(helper.make_node(called, [before], [f"t{number}"], domain=domain))
        before = f"t{number}"
    nodes.append(helper.make_node("Identity", [before], ["b"]))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, opsets)


_laughs = [_function("F0", ["Identity"] * 10)] + [_function(f"F{n}", [f"F{n - 1}"] * 10) for n in range(1, 12)]
_call = helper.make_node("F11", ["x"], ["y"], domain="own")
add("functions_that_unfold_to_10_12", model([_call], functions=_laughs, domains=["own"]))
_self = helper.make_node("F", ["x"], ["y"], domain="own")
add("function_that_calls_itself", model([_self], functions=[_function("F", ["F"])], domains=["own"]))
_each = [_function("F", ["G"]), _function("G", ["F"])]
add("functions_that_call_each_other", model([_self], functions=_each, domains=["own"]))


def _field(number: int, data: bytes) -> bytes:
    size = bytearray()
    left = len(data)
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([number << 3 | 2, *size, left]) + data


def _deep(levels: int) -> bytes:
    """A graph in an attribute (6) of a node (5) of a graph (1), and so on."""
    graph = b""
    for _ in range(levels):
        graph = _field(1, _field(4, b"If") + _field(5, _field(6, graph)))
    return _field(7, graph)


add("graphs_without_end", _deep(1000))
add("text", b"not a graph")
add("empty", b"")
add("zeros", bytes(10 << 20))
add("varint_without_end", b"\xff" * (10 << 20))
named(
    "half_a_million_nodes",
    lambda place: tiny(place, {"model.onnx": b"\x3a\x80\x80\x40" + b"\x0a\x00" * (1 << 19)}),
    "REFUSED_GRAPH",
)


@case("REFUSED_GRAPH")
def graph_in_another_format(place: Path) -> Path:
    manifest = (tiny(place / "q") / "onward.toml").read_text().replace("model.onnx", "model.ort")
    return tiny(place, {"model.ort": model([PASS])}, manifest=manifest)


def _constant(shape: Sequence[int]) -> bytes:
    """Computed when the graph is loaded: gigabytes, made of a few bytes."""
    sizes = numpy_helper.from_array(np.array(shape, np.int64), "sizes")
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return model(nodes, [sizes, axes])


# Nobody can tell from the file: where memory is limited, the runtime gives up, at once or with the first example.
for _size in (40, 30):
    _data = _constant([1 << _size])
    named(f"graph_constant_of_2_{_size}", lambda place, data=_data: tiny(place, {"model.onnx": data}),  # type: ignore[misc]
          "REFUSED_GRAPH", "EXECUTION_FAILED")  # fmt: skip
