"""The tensors that an ONNX file takes and gives, as the runtime that will serve it sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from onward.errors import PackageError
from onward.types import Array, TensorSpec

DATATYPE_OF_ONNX: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class GraphSession:
    """An ONNX file loaded to be looked at and tried out while packing; serving has its own backend."""

    def __init__(self, model: Path | bytes, where: str = "") -> None:
        self._where = where or (str(model) if isinstance(model, Path) else "model")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no public base class
            raise PackageError(f"onnxruntime cannot load it: {error}", where=self._where) from None
        self.inputs = tuple(self._spec(tensor, "input") for tensor in self._session.get_inputs())
        self.outputs = tuple(self._spec(tensor, "output") for tensor in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once; raises `PackageError` with the runtime's reason where it fails."""
        try:
            results = self._session.run(None, dict(feeds))
        except Exception as error:
            raise PackageError(f"the graph fails on the sample: {error}", where=self._where) from None
        return {spec.name: result for spec, result in zip(self.outputs, results, strict=True)}

    def _spec(self, tensor: Any, kind: str) -> TensorSpec:
        datatype = DATATYPE_OF_ONNX.get(tensor.type)
        if datatype is None:
            hint = "; export scikit-learn models with zipmap=False" if "map(" in tensor.type else ""
            raise PackageError(
                f'{kind} "{tensor.name}" has a type that cannot be served',
                where=self._where,
                expected=f"a tensor of numbers, booleans or strings{hint}",
                found=tensor.type,
            )
        shape = tuple(size if isinstance(size, int) and size > 0 else -1 for size in tensor.shape)
        return TensorSpec(name=tensor.name, datatype=datatype, shape=shape)


def graph_tensors(file: Path) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
    """The input and output tensors of an ONNX file."""
    session = GraphSession(file)
    return session.inputs, session.outputs
