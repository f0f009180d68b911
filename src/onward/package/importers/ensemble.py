"""Makes one ONNX graph of several that feed each other: an ensemble answers as one model, with one run.

Each model's names get a prefix of their own; `Identity` nodes tie its ends to the ensemble's tensors, and the runtime
takes them out again. This module knows graphs and maps of names, not where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onward.errors import PackageError
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.tensors import GraphSession
from onward.types import Array, TensorSpec

if TYPE_CHECKING:
    import onnx

MAX_BYTES = (1 << 31) - 1
"""What one ONNX file may hold: the bound of Protocol Buffers."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One model of an ensemble. `inputs` and `outputs` are {its tensor: the ensemble's tensor}."""

    name: str
    model: onnx.ModelProto
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


def in_order(parts: Sequence[Part], inputs: Sequence[str]) -> list[Part]:
    """The parts so that each comes after those that it needs. Raises `PackageError` where there is no such order."""
    known, left, ordered = set(inputs), list(parts), []
    while left:
        ready = next((part for part in left if known.issuperset(part.inputs.values())), None)
        if ready is None:
            missing = sorted({name for part in left for name in part.inputs.values()} - known)
            expected = "inputs of the ensemble, or outputs of steps that do not wait for each other"
            raise PackageError("nothing gives a tensor of the ensemble", expected=expected, found=", ".join(missing))
        left.remove(ready)
        ordered.append(ready)
        known.update(ready.outputs.values())
    return ordered


def joined(
    parts: Sequence[Part], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, name: str
) -> onnx.ModelProto:
    """One model of all parts, which stand in order.

    Raises `UnsupportedModel` where their operators are of versions that cannot be brought together, or the whole is
    beyond 2 GiB; `PackageError` where a map names a tensor that a model has not got.
    """
    need("onnx", "joining the models of an ensemble")
    import onnx

    for part in parts:
        _check_maps(part)
    models = _of_one_opset([part.model for part in parts])
    nodes: list[Any] = []
    constants: list[Any] = []
    sparse: list[Any] = []
    functions: list[Any] = []
    taken = {spec.name for spec in inputs}
    for index, (part, model) in enumerate(zip(parts, models, strict=True)):
        prefix = f"{index}.{part.name}/"
        graph = _prefixed(model, prefix, functions)
        for own, shared in part.inputs.items():
            nodes.append(_identity(shared, prefix + own))
        nodes.extend(graph.node)
        constants.extend(graph.initializer)
        sparse.extend(graph.sparse_initializer)
        for own, shared in part.outputs.items():
            if shared in taken:
                raise PackageError(f'two steps give the tensor "{shared}"', expected="one step for each tensor")
            taken.add(shared)
            nodes.append(_identity(prefix + own, shared))
    missing = [spec.name for spec in outputs if spec.name not in taken]
    if missing:
        raise PackageError("no step gives an output of the ensemble", found=", ".join(missing))
    graph = onnx.helper.make_graph(nodes, name, [_value(spec) for spec in inputs], [_value(spec) for spec in outputs],
                                   constants, sparse_initializer=sparse)  # fmt: skip
    whole: onnx.ModelProto = onnx.helper.make_model(
        graph, opset_imports=_opsets(models), functions=functions, ir_version=max(model.ir_version for model in models)
    )
    if whole.ByteSize() > MAX_BYTES:
        raise UnsupportedModel("the ensemble's models are too large for one file",
                               expected=f"at most {MAX_BYTES} bytes", found=str(whole.ByteSize()))  # fmt: skip
    return whole


def run_in_turn(parts: Sequence[Part], feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
    """What the parts give when each runs by itself: the ensemble's outputs, row by row."""
    sessions = [GraphSession(part.model.SerializeToString(), part.name) for part in parts]
    rows: list[dict[str, Array]] = []
    for row in range(len(next(iter(feeds.values())))):
        tensors = {name: array[row : row + 1] for name, array in feeds.items()}
        for part, session in zip(parts, sessions, strict=True):
            given = session.run({own: tensors[shared] for own, shared in part.inputs.items()})
            tensors |= {shared: given[own] for own, shared in part.outputs.items()}
        rows.append({name: tensors[name] for name in outputs})
    return {name: np.concatenate([row[name] for row in rows]) for name in outputs}


def _check_maps(part: Part) -> None:
    constants = {constant.name for constant in part.model.graph.initializer}
    needed = {value.name for value in part.model.graph.input} - constants
    given = {value.name for value in part.model.graph.output}
    for kind, named, there in (("input", set(part.inputs), needed), ("output", set(part.outputs), given)):
        unknown = named - there
        if unknown:
            raise PackageError(f'"{part.name}" has no such {kind}', expected=", ".join(sorted(there)),
                               found=", ".join(sorted(unknown)))  # fmt: skip
    if needed - set(part.inputs):
        raise PackageError(f'nothing is mapped to an input of "{part.name}"',
                           found=", ".join(sorted(needed - set(part.inputs))))  # fmt: skip


def _of_one_opset(models: Sequence[onnx.ModelProto]) -> list[onnx.ModelProto]:
    """Copies of the models whose standard operators are all of the newest version among them."""
    from onnx import version_converter

    versions = [_version(model, "") for model in models]
    newest = max(versions)
    converted = []
    for model, version in zip(models, versions, strict=True):
        if version == newest:
            converted.append(model)
            continue
        try:
            converted.append(version_converter.convert_version(model, newest))
        except Exception as error:  # the converter raises bare RuntimeError, ConvertError and others
            raise UnsupportedModel(
                f"an operator set cannot be brought from {version} to {newest}: {error}",
                expected="models exported with one operator set",
            ) from None
    return converted


def _opsets(models: Sequence[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    from onnx import helper

    found: dict[str, int] = {}
    for model in models:
        for each in model.opset_import:
            domain = "" if each.domain == "ai.onnx" else each.domain
            if found.setdefault(domain, each.version) != each.version:
                raise UnsupportedModel(f'models use "{domain}" in different versions', expected="one version",
                                       found=f"{found[domain]} and {each.version}")  # fmt: skip
    return [helper.make_opsetid(domain, version) for domain, version in found.items()]


def _version(model: onnx.ModelProto, domain: str) -> int:
    return next((each.version for each in model.opset_import if each.domain in (domain, "ai.onnx")), 1)


def _prefixed(model: onnx.ModelProto, prefix: str, functions: list[Any]) -> onnx.GraphProto:
    """The model's graph with every name prefixed; its functions are added to the list."""
    from onnx import compose

    renamed = compose.add_prefix(model, prefix=prefix)
    functions.extend(renamed.functions)
    graph: onnx.GraphProto = renamed.graph
    return graph


def _identity(source: str, target: str) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Identity", [source], [target], name=f"{source} is {target}")


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    kind = TensorProto.STRING if spec.datatype == "BYTES" else helper.np_dtype_to_tensor_dtype(spec.dtype)
    shape = ["batch" if index == 0 else f"{spec.name}.{index}" if size == -1 else size
             for index, size in enumerate(spec.shape)]  # fmt: skip
    return helper.make_tensor_value_info(spec.name, kind, shape)
