"""Answers as columns: whole tensors where the package's outputs are its tensors, else one answer after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from onward.package.manifest import Catalogue, Labels, Manifest, Named
from onward.package.records import Entities, JsonText
from onward.runners.batch.cells import as_json_text
from onward.types import NUMPY_OF_DATATYPE, Array, Blob, Field

_LABEL = pa.string()
_SCORE = pa.float32()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerColumn:
    """A column of the answer. `json` says that its values are written as JSON text."""

    name: str
    type: pa.DataType
    json: bool = False


class AnswerColumns:
    """The columns of a package's answers, the same for every shard."""

    def __init__(self, manifest: Manifest, fetches: Sequence[str], outputs: Sequence[str], seen: Sequence[str]) -> None:
        """`fetches` are the tensors computed, `outputs` those asked for; `seen` names what an answer has besides."""
        self._named = {step.input: step for step in manifest.generate if isinstance(step, Named)}
        self._fields = {field.name: field for field in manifest.outputs}
        wanted = {name for name, field in self._fields.items() if not field.on_request or name in outputs}
        labels = [step for step in manifest.generate if isinstance(step, Labels)]
        columns: dict[str, AnswerColumn] = {}
        hidden: set[str] = set()
        for step in labels:
            hidden |= {step.scores, step.indices}
            for column in _label_columns(step):
                columns[column.name] = column
        for one in manifest.generate:
            if isinstance(one, Entities):
                hidden.add(one.scores)
                columns[one.output] = AnswerColumn(name=one.output, type=pa.string(), json=True)
        parsed = {step.input for step in manifest.generate if isinstance(step, JsonText) and step.input}
        for name in [name for name in self._fields if name in wanted]:
            if name not in columns and (name not in hidden or name in outputs):
                columns[name] = self._column(name, parsed)
        for name in seen:
            columns.setdefault(name, AnswerColumn(name=name, type=pa.string(), json=True))
        self.columns = tuple(columns.values())
        plain = not labels and not parsed and not any(isinstance(step, Catalogue) for step in manifest.generate)
        self.of_tensors_only = plain and {column.name for column in self.columns} == set(fetches)
        self._fetches = tuple(fetches)

    def _column(self, name: str, parsed: set[str]) -> AnswerColumn:
        field = self._fields[name]
        if name in self._named:
            return AnswerColumn(name=name, type=pa.struct([(one, pa.float32()) for one in self._named[name].names]))
        if name in parsed:
            return AnswerColumn(name=name, type=pa.string(), json=True)
        if field.content in ("image", "audio"):
            return AnswerColumn(name=name, type=pa.binary())
        return AnswerColumn(name=name, type=_type(field), json=field.content == "chat")

    def from_tensors(self, tensors: Sequence[Array]) -> list[pa.Array]:
        """The columns from the fetched tensors of all rows: one array each, rows first."""
        found = dict(zip(self._fetches, tensors, strict=True))
        return [self._of_tensor(column, found[column.name]) for column in self.columns]

    def from_answers(self, answers: Sequence[Mapping[str, Any]]) -> list[pa.Array]:
        """The columns from answers, one after another. What an answer leaves out is null."""
        return [_cells(column, [answer.get(column.name) for answer in answers]) for column in self.columns]

    def _of_tensor(self, column: AnswerColumn, tensor: Array) -> pa.Array:
        if column.name in self._named:
            names = self._named[column.name].names
            return pa.StructArray.from_arrays([pa.array(np.ascontiguousarray(part)) for part in tensor.T], list(names))
        if tensor.dtype == object:
            return _cells(column, [_texts(row) for row in tensor.tolist()])
        flat = pa.array(np.ascontiguousarray(tensor).reshape(-1)).cast(_innermost(column.type))
        for size in reversed(tensor.shape[1:]):
            count = len(flat) // size if size else 0
            flat = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * size, flat)
        return flat if flat.type == column.type else flat.cast(column.type)


def _label_columns(step: Labels) -> list[AnswerColumn]:
    one = pa.struct([(step.output, _LABEL), ("score", _SCORE)])
    return [
        AnswerColumn(name=step.output, type=_LABEL),
        AnswerColumn(name="score", type=_SCORE),
        AnswerColumn(name=f"{step.output}s", type=pa.list_(one)),
    ]


def _type(field: Field) -> pa.DataType:
    if field.datatype == "BYTES":
        type_ = pa.string()
    elif field.datatype == "FP16":
        type_ = pa.float32()
    else:
        type_ = pa.from_numpy_dtype(NUMPY_OF_DATATYPE[field.datatype])
    for _ in field.shape:
        type_ = pa.list_(type_)
    return type_


def _innermost(type_: pa.DataType) -> pa.DataType:
    while pa.types.is_list(type_):
        type_ = type_.value_type
    return type_


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _cells(column: AnswerColumn, values: Sequence[Any]) -> pa.Array:
    if column.json:
        return pa.array([None if value is None else as_json_text(value) for value in values], pa.string())
    if pa.types.is_binary(column.type):
        values = [value.data if isinstance(value, Blob) else value for value in values]
    elif pa.types.is_string(column.type):
        values = [value if isinstance(value, str) or value is None else as_json_text(value) for value in values]
    try:
        return pa.array(values, column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if not pa.types.is_list(column.type):
            raise
        return pa.array([_nested(value, column.type) for value in values], column.type)


def _nested(value: Any, type_: pa.DataType) -> Any:
    """Lists inside which texts stand for what is not text."""
    if value is None or not pa.types.is_list(type_):
        return value if not pa.types.is_string(type_) or isinstance(value, str | None) else as_json_text(value)
    return [_nested(one, type_.value_type) for one in value]
