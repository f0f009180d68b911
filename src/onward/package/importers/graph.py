"""Writes ONNX graphs node by node, for importers that know a model family's architecture.

This module knows names, constants and the two ends of a graph; it does not know any model family.
`onnx` is imported when a graph is written, not before: it belongs to the extra `pack`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onward.errors import PackageError

if TYPE_CHECKING:
    import onnx

#: LayerNormalization came with opset 17; onnxruntime and onnxruntime-web of 2023 and later run it.
OPSET = 17
#: The IR version of that time: a higher one would shut out older runtimes for nothing.
IR_VERSION = 8

Array = npt.NDArray[Any]


class UnsupportedModel(PackageError):
    """The importer does not support this model."""

    code = "UNSUPPORTED_MODEL"


class GraphWriter:
    """Collects nodes and constants in order, then writes them as one checked ONNX model."""

    def __init__(self, name: str, *, opset: int = OPSET) -> None:
        self._name = name
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, Array] = {}
        self._taken: set[str] = set()

    def constant(self, name: str, value: Array) -> str:
        """Add a constant tensor under a readable name and return the name to refer to it."""
        unique = self._unique(name)
        self._constants[unique] = np.asarray(value, order="C")  # ascontiguousarray would give a scalar an axis
        return unique

    def ints(self, name: str, *values: int) -> str:
        """Add a constant INT64 vector, as shapes, axes and slices want it."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name, made from `name`."""
        return self.split(operator, inputs, [name], **attributes)[0]

    def split(self, operator: str, inputs: Sequence[str], names: Sequence[str], **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        from onnx import helper

        outputs = [self._unique(name) for name in names]
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, name=f"{outputs[0]}", **attributes))
        return outputs

    def output(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> None:
        """Add the node that yields a graph output, whose name is kept to the letter."""
        if self.split(operator, inputs, [name], **attributes) != [name]:
            raise ValueError(f"{name!r} is already the name of another tensor in the graph")

    def reserve(self, *names: str) -> None:
        """Keep names for graph inputs, so that no tensor within takes them."""
        self._taken.update(names)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """Write the model and let the ONNX checker pass over it, shapes included."""
        import onnx
        from onnx import helper, numpy_helper

        constants = [numpy_helper.from_array(value, name) for name, value in self._constants.items()]
        graph = helper.make_graph(self._nodes, self._name, list(inputs), list(outputs), constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self._opset)],
            ir_version=IR_VERSION if self._opset <= 18 else 10,
            producer_name="onward",
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self._taken:
            count += 1
            unique = f"{name}.{count}"
        self._taken.add(unique)
        return unique


def tensor(name: str, datatype: type[np.generic], shape: Sequence[str | int]) -> onnx.ValueInfoProto:
    """Describe a graph input or output; a string in the shape names a free dimension."""
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(datatype)), list(shape))


class Weights:
    """The tensors of a state dict, taken by name and shape, so that nothing is misread or left over unseen."""

    def __init__(self, tensors: Mapping[str, Array], *, prefix: str = "") -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._used: set[str] = set()

    def take(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """The named tensor as FP32. Raises UnsupportedModel when it is missing or has another shape."""
        full = self._prefix + name
        value = self._tensors.get(full)
        if value is None:
            raise UnsupportedModel("a weight is missing", where=full)
        if value.shape != shape:
            raise UnsupportedModel(
                "a weight has another shape than the configuration says",
                where=full, expected=str(shape), found=str(value.shape),
            )  # fmt: skip
        self._used.add(full)
        if not np.all(np.isfinite(value)):
            raise UnsupportedModel("a weight holds NaN or infinity", where=full)
        return value.astype(np.float32)

    def unused(self) -> list[str]:
        """Names of the tensors that no graph node was made from."""
        return sorted(name for name in self._tensors if name not in self._used)
