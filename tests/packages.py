"""Small real packages for the tests of the server: every datatype, a network with weights, one that takes its time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onward.package.assembly import assemble
from onward.package.examples import Example, write_examples
from onward.testing import tiny_package
from onward.types import NUMPY_OF_DATATYPE

DATATYPES = tuple(NUMPY_OF_DATATYPE)
ONNX_OF_DATATYPE = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip
MLP_SIZES = (30, 64, 32, 1)


def echo_package(folder: Path, datatypes: dict[str, str], *, name: str, shape: tuple[int, ...] = (3,)) -> Path:
    """Gives each input `x` back as `x_out`: {input: datatype}, all of the same shape."""
    nodes = [helper.make_node("Identity", [field], [f"{field}_out"]) for field in datatypes]
    free = [size if size >= 0 else f"d{index}" for index, size in enumerate(shape)]

    def values(suffix: str) -> list[Any]:
        return [value(field + suffix, ONNX_OF_DATATYPE[kind], ["n", *free]) for field, kind in datatypes.items()]

    fields = [field_toml("input", field, kind, shape) for field, kind in datatypes.items()]
    fields += [field_toml("output", f"{field}_out", kind, shape) for field, kind in datatypes.items()]
    return write(folder, manifest(name, fields), {"model.onnx": graph(nodes, values(""), values("_out"))})


def mlp_package(
    folder: Path, *, name: str = "mlp", version: str = "1.0.0", seed: int = 7, sizes: Sequence[int] = MLP_SIZES
) -> Path:
    """A network of three layers, `features` [30] → `score` [1], with two golden examples."""
    rng = np.random.default_rng(seed)
    constants: dict[str, np.ndarray[Any, Any]] = {}
    nodes = []
    before = "features"
    for layer, (width, height) in enumerate(itertools.pairwise(sizes)):
        last = layer == len(sizes) - 2
        constants[f"w{layer}"] = rng.normal(0, width**-0.5, (width, height)).astype(np.float32)
        constants[f"b{layer}"] = rng.normal(0, 0.1, height).astype(np.float32)
        nodes.append(helper.make_node("Gemm", [before, f"w{layer}", f"b{layer}"], [f"z{layer}"]))
        before = "score" if last else f"a{layer}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"z{layer}"], [before]))
    made = graph(nodes, [value("features", TensorProto.FLOAT, ["n", sizes[0]])],
                 [value("score", TensorProto.FLOAT, ["n", sizes[-1]])], constants)  # fmt: skip
    fields = [field_toml("input", "features", "FP32", (30,)), field_toml("output", "score", "FP32", (1,))]
    examples = [
        Example(
            name=f"all {x:g}",
            input={"features": [x] * 30},
            tensors={"score": [mlp_by_hand(constants, np.full(30, x))]},
        )
        for x in (0.0, 1.0)
    ]
    return write(folder, manifest(name, fields, version=version), {"model.onnx": made}, examples=examples)


def mlp_by_hand(constants: dict[str, np.ndarray[Any, Any]], x: np.ndarray[Any, Any]) -> list[float]:
    """The network in numpy."""
    for layer in range(3):
        x = x @ constants[f"w{layer}"] + constants[f"b{layer}"]
        x = np.maximum(x, 0) if layer < 2 else 1 / (1 + np.exp(-x))
    return [float(number) for number in x]


def sleeper_package(
    folder: Path, *, name: str = "sleeper", queue_rows: int = 4, max_batch_size: int = 1, deadline_ms: int = 10_000
) -> Path:
    """y = x, after as many seconds as the largest x of the batch says: the python backend."""
    fields = [field_toml("input", "x", "FP32", (1,)), field_toml("output", "y", "FP32", (1,))]
    text = manifest(
        name, fields, execute='backend = "python"\nentry = "model:Sleeper"\n',
        more=f"[batching]\nmax_batch_size = {max_batch_size}\n[limits]\nqueue_rows = {queue_rows}\n"
        f"deadline_ms = {deadline_ms}\n",
    )  # fmt: skip
    source = """
        import time

        class Sleeper:
            def __init__(self, folder):
                pass

            def run(self, feeds):
                time.sleep(float(feeds["x"].max()))
                return {"y": feeds["x"]}
    """
    example = Example(name="no time", input={"x": [0.0]}, tensors={"y": [[0.0]]})
    return write(folder, text, {}, files={"model.py": dedent(source)}, examples=[example])


def lookup_package(folder: Path, *, name: str = "lookup") -> Path:
    """y = table[index], with a table of four: an index beyond it fails the whole batch in the runtime."""
    made = graph(
        [helper.make_node("Gather", ["table", "index"], ["y"])], [value("index", TensorProto.INT64, ["n"])],
        [value("y", TensorProto.FLOAT, ["n"])], {"table": np.array([10, 11, 12, 13], np.float32)},
    )  # fmt: skip
    fields = [field_toml("input", "index", "INT64", ()), field_toml("output", "y", "FP32", ())]
    return write(folder, manifest(name, fields), {"model.onnx": made})


def padded_package(folder: Path, *, name: str = "padded") -> Path:
    """Sums of rows of any length: `ids` INT64 [-1] → `total` INT64 [], padded with 0 so that lengths may mix."""
    made = graph(
        [helper.make_node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0)],
        [value("ids", TensorProto.INT64, ["n", "length"])], [value("total", TensorProto.INT64, ["n"])],
        {"axis": np.array([1], np.int64)},
    )  # fmt: skip
    fields = [field_toml("input", "ids", "INT64", (-1,)), field_toml("output", "total", "INT64", ())]
    return write(folder, manifest(name, fields, more="[batching]\npad = { ids = 0 }\n"), {"model.onnx": made})


def reader_package(folder: Path, *, name: str = "reader") -> Path:
    """A text in: `text` BYTES → `same` BYTES, content text."""
    made = graph([helper.make_node("Identity", ["text"], ["same"])], [value("text", TensorProto.STRING, ["n"])],
                 [value("same", TensorProto.STRING, ["n"])])  # fmt: skip
    fields = [field_toml("input", "text", "BYTES", (), 'content = "text"\n'), field_toml("output", "same", "BYTES", ())]
    return write(folder, manifest(name, fields), {"model.onnx": made})


def manifest(
    name: str, fields: list[str], *, version: str = "1.0.0", more: str = "",
    execute: str = 'backend = "onnx"\nfile = "model.onnx"\n',
) -> str:  # fmt: skip
    """A manifest's text."""
    head = f'format = 1\n[package]\nname = "{name}"\nversion = "{version}"\nlicence = "Apache-2.0"\n'
    return head + "".join(fields) + "[execute]\n" + execute + more


def field_toml(kind: str, name: str, datatype: str, shape: tuple[int, ...], more: str = "") -> str:
    """One `[[input]]` or `[[output]]`."""
    return f'[[{kind}]]\nname = "{name}"\ndatatype = "{datatype}"\nshape = {list(shape)}\n{more}'


def value(name: str, datatype: int, shape: list[Any]) -> onnx.ValueInfoProto:
    """A graph's input or output."""
    return helper.make_tensor_value_info(name, datatype, shape)


def graph(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[Any],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A checked ONNX model."""
    held = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    made = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs, held),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=9,
    )  # fmt: skip
    onnx.checker.check_model(made)
    return made


def write(
    folder: Path, text: str, graphs: dict[str, onnx.ModelProto], *, files: dict[str, str] | None = None,
    examples: list[Example] | None = None,
) -> Path:  # fmt: skip
    """Write a package's files and assemble it; returns the folder."""
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(text, "utf-8")
    for name, made in graphs.items():
        onnx.save(made, str(folder / name))
    for name, content in (files or {}).items():
        (folder / name).write_text(content, "utf-8")
    if examples:
        write_examples(folder, examples)
    assemble(folder)
    return folder


CHAIN = """format = 1
[package]
name = "chain"
version = "1.0.0"
licence = "Apache-2.0"
[[input]]
name = "x"
datatype = "FP32"
shape = [3]
[[input]]
name = "way"
datatype = "BYTES"
content = "text"
required = false
default = "short"
[[output]]
name = "y"
datatype = "FP32"
shape = [3]
[[output]]
name = "doubled"
datatype = "FP32"
shape = [3]
on_request = true
[[stage]]
name = "double"
package = "double"
version = "1.0.0"
inputs = { x = "x" }
[[stage]]
name = "far"
package = "plus"
version = "1.0.0"
inputs = { x = "double.y" }
when = "way"
values = ["long"]
[answer]
y = ["far.y", "double.y"]
doubled = "double.y"
"""


def staged_packages(repository: Path) -> Path:
    """`double` (2x), `plus` (x + 10) and `chain`, made of them: y = 2x, and 2x + 10 where `way` is "long"."""
    tiny_package(repository / "double" / "1.0.0", name="double", scale=2.0, offset=0.0)
    tiny_package(repository / "plus" / "1.0.0", name="plus", scale=1.0, offset=10.0)
    return chain_package(repository)


def chain_package(repository: Path, text: str = CHAIN, *, example: bool = True) -> Path:
    """`chain` alone."""
    folder = repository / "chain" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(text, "utf-8")
    if example:
        far = Example(name="far", input={"x": [1.0, 2.0, 3.0], "way": "long"}, answer={"y": [12.0, 14.0, 16.0]})
        write_examples(folder, [far])
    assemble(folder, repositories=[repository])
    return folder
