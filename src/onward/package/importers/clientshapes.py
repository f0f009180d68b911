"""Rewrites the two ends of an ONNX graph to what clients see: reshaped tensors, narrower dimensions, fewer outputs.

Triton's configuration may show other shapes than the model has. A package has one graph and clients see its tensors, so
the difference becomes part of the graph: a `Reshape` behind an input or in front of an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onward.errors import PackageError
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.tensors import GraphSession
from onward.types import Array, TensorSpec

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How clients see a tensor, the batch in front: `shape`, and what the model has in its place (None: the same)."""

    shape: tuple[int, ...]
    model_shape: tuple[int, ...] | None = None


def with_client_shapes(
    file: Path, inputs: Mapping[str, Ends], outputs: Mapping[str, Ends], *, where: str
) -> bytes | None:
    """The model in `file` as clients see it, or None where they see it as it is.

    External data stays outside, where the model says. Raises `PackageError` where the shapes contradict the model,
    `UnsupportedModel` for a reshape with several free dimensions.
    """
    session = GraphSession(file)
    changes = _changes(session.inputs, inputs, "input", where) | _changes(session.outputs, outputs, "output", where)
    dropped = [spec.name for spec in session.outputs if spec.name not in outputs]
    if not changes and not dropped:
        return None
    onnx = need("onnx", "reshaping a model's tensors")
    model = onnx.load(str(file), load_external_data=False)
    for name, ends in changes.items():
        _change(model.graph, name, ends, is_input=name in inputs)
    kept = [value for value in model.graph.output if value.name not in dropped]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    data: bytes = model.SerializeToString()
    return data


def answers_of_original(
    session: GraphSession, feeds: Mapping[str, Array], inputs: Mapping[str, Ends], outputs: Mapping[str, Ends]
) -> dict[str, Array]:
    """What the model as it was gives on what clients send, in the shapes that clients see; row by row."""
    rows: list[dict[str, Array]] = []
    for row in range(len(next(iter(feeds.values())))):
        given = {name: _as(array[row : row + 1], inputs[name].model_shape) for name, array in feeds.items()}
        answers = session.run(given)
        rows.append({name: _as(answers[name], ends.model_shape and ends.shape) for name, ends in outputs.items()})
    return {name: np.concatenate([each[name] for each in rows]) for name in outputs}


def _as(row: Array, shape: Sequence[int] | None) -> Array:
    """One row in another shape; its batch of 1 stays in front."""
    return row if shape is None else row.reshape(1, *shape[1:])


def _changes(specs: Sequence[TensorSpec], seen: Mapping[str, Ends], kind: str, where: str) -> dict[str, Ends]:
    """Those tensors that clients see otherwise than the model has them."""
    changes: dict[str, Ends] = {}
    for spec in specs:
        ends = seen.get(spec.name)
        if ends is None:
            continue
        if ends.model_shape is not None:
            _check_fits(spec, ends.model_shape, f"reshape of {kind}", where)
            changes[spec.name] = ends
            continue
        _check_fits(spec, ends.shape, f"dims of {kind}", where)
        if ends.shape[1:] != spec.shape[1:]:
            changes[spec.name] = ends
    return changes


def _check_fits(spec: TensorSpec, shape: Sequence[int], kind: str, where: str) -> None:
    fits = len(shape) == len(spec.shape) and all(
        have in (-1, given) for have, given in zip(spec.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise PackageError(
            f'{kind} "{spec.name}": not the shape that the model has', where=where,
            expected=f"{list(spec.shape)}, or a size in place of a -1", found=str(list(shape)),
        )  # fmt: skip


def _change(graph: onnx.GraphProto, name: str, ends: Ends, *, is_input: bool) -> None:
    values = graph.input if is_input else graph.output
    value = next(value for value in values if value.name == name)
    shape = value.type.tensor_type.shape
    if ends.model_shape is None:
        for dimension, size in zip(shape.dim[1:], ends.shape[1:], strict=True):
            if size != -1:
                dimension.dim_value = size
        return
    inner = f"{name}.as_the_model_has_it"
    if is_input:
        _rename_uses(graph, name, inner)
        node, constant = _reshape(name, inner, _target(ends.shape, ends.model_shape, name))
        graph.node.insert(0, node)
    else:
        _rename_uses(graph, name, inner)
        _rename_producer(graph, name, inner)
        node, constant = _reshape(inner, name, _target(ends.model_shape, ends.shape, name))
        graph.node.append(node)
    graph.initializer.append(constant)
    del shape.dim[:]
    for index, size in enumerate(ends.shape):
        dimension = shape.dim.add()
        if size == -1:
            dimension.dim_param = "batch" if index == 0 else f"{name}.{index}"
        else:
            dimension.dim_value = size


def _reshape(source: str, target: str, shape: Sequence[int]) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    from onnx import helper, numpy_helper

    constant = numpy_helper.from_array(np.array(shape, np.int64), f"{target}.shape")
    return helper.make_node("Reshape", [source, constant.name], [target], name=f"{target}.reshape"), constant


def _target(given: Sequence[int], wanted: Sequence[int], name: str) -> tuple[int, ...]:
    """What Reshape is told: 0 keeps the batch, -1 is the one size that follows from the others."""
    first = 0 if given[:1] == wanted[:1] == (-1,) else wanted[0]
    target = (first, *wanted[1:])
    if target.count(-1) > 1:
        raise UnsupportedModel(f'the reshape of "{name}" has several free dimensions', expected="one at most",
                               found=str(list(wanted[1:])))  # fmt: skip
    return target


def _rename_uses(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Everything that reads a tensor reads another one; graphs within see the names around them."""
    for node in graph.node:
        for index, used in enumerate(node.input):
            if used == name:
                node.input[index] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_uses(inner, name, new)


def _rename_producer(graph: onnx.GraphProto, name: str, new: str) -> None:
    for node in graph.node:
        for index, made in enumerate(node.output):
            if made == name:
                node.output[index] = new
                return
    raise UnsupportedModel(f'no node gives the output "{name}" that is to be reshaped')
