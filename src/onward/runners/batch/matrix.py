"""The columnar fast path of preparation: a whole record batch becomes one matrix, without an object for each row.

It only takes what it is certain of; every row with a doubt goes the ordinary way, which says what is wrong with it.
So there is one preparation, and this is a quicker way to the same numbers (a test holds them together).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onward.package.manifest import Table
from onward.pipeline import Pipeline
from onward.prepare.profile import MAX_ENTITY_BYTES
from onward.types import NUMPY_OF_DATATYPE, Array, Field

_LARGEST = float(np.finfo(np.float32).max)


class MatrixPreparation:
    """Record batches → (rows, columns) FP32, and which rows are in doubt."""

    def __init__(self, step: Table, fields: Mapping[str, Field], columns: Mapping[str, str], entity: str) -> None:
        self.output = step.output
        self._fields = [fields[name] for name in step.columns]
        self._columns = columns
        self._unknown_is_nan = step.unknown == "nan"
        self._entity = entity
        self._beside = [field for name, field in fields.items() if name not in step.columns and name != entity]

    @classmethod
    def of(cls, pipeline: Pipeline, columns: Mapping[str, str]) -> MatrixPreparation | None:
        """The fast path of a package, None where its preparation is more than a table."""
        manifest = pipeline.manifest
        if len(manifest.prepare) != 1 or not isinstance(manifest.prepare[0], Table):
            return None
        step = manifest.prepare[0]
        fields = {field.name: field for field in manifest.inputs}
        filled = {feature.name for feature in manifest.features} & fields.keys()
        entity = manifest.profile.entity if manifest.profile else ""
        beside = [field for name, field in fields.items() if name not in step.columns and name != entity]
        taken = [spec.name for spec in pipeline.model.inputs]
        if filled or taken != [step.output] or any(field.datatype != "BYTES" or field.shape for field in beside):
            return None
        return cls(step, fields, columns, entity)

    def __call__(self, table: pa.RecordBatch) -> tuple[Array, Array]:
        """The matrix and, for each row, whether it is in doubt: its numbers then mean nothing."""
        count = table.num_rows
        matrix = np.empty((count, len(self._fields)), np.float32)  # (rows, columns)
        doubt = np.zeros(count, bool)
        for index, field in enumerate(self._fields):
            matrix[:, index], uncertain = self._column(field, table, count)
            if uncertain is not None:
                doubt |= uncertain
        for field in self._beside:
            doubt |= self._doubtful_text(field, table, count)
        if self._entity:
            doubt |= self._doubtful_entity(table, count)
        return matrix, doubt

    def _column(self, field: Field, table: pa.RecordBatch, count: int) -> tuple[Any, Array | None]:
        column = table.column(self._columns[field.name]) if field.name in self._columns else pa.nulls(count)
        if field.categories:
            numbers, doubt = self._indices(field, column)
        elif field.datatype == "BOOL":
            numbers, doubt = _bools(column)
        else:
            numbers, doubt = _numbers(field, column)
        missing = None
        if column.null_count:
            missing = column.is_null().to_numpy(zero_copy_only=False)
            default = self._default(field)
            doubt = doubt & ~missing if doubt is not None else None
            if default is None:
                doubt = missing if doubt is None else doubt | missing
            else:
                numbers = np.where(missing, np.float32(default), numbers)
        outside = _outside(field, numbers)
        if outside is not None:
            doubt = outside if doubt is None else doubt | outside
        return numbers, doubt

    def _default(self, field: Field) -> float | None:
        """What a missing value counts as; None: it is in doubt."""
        default = field.default
        if default is None:
            return None if field.required else float("nan")
        if field.categories:
            return float(field.categories.index(default)) if default in field.categories else None
        return float(default) if isinstance(default, int | float) else None

    def _indices(self, field: Field, column: pa.Array) -> tuple[Any, Array | None]:
        if not _is_text(column.type):
            return _all_in_doubt(column)
        found = pc.index_in(column, value_set=pa.array(field.categories, column.type))
        unknown = found.is_null().to_numpy(zero_copy_only=False)
        numbers = found.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float32)
        if not unknown.any():
            return numbers, None
        if self._unknown_is_nan:
            return np.where(unknown, np.float32("nan"), numbers), None
        return numbers, unknown

    def _doubtful_text(self, field: Field, table: pa.RecordBatch, count: int) -> Array:
        """What only a policy looks at must still be text."""
        if field.name not in self._columns:
            return np.full(count, field.required and field.default is None)
        column = table.column(self._columns[field.name])
        if not _is_text(column.type):
            return np.full(count, True)
        if field.required and field.default is None and column.null_count:
            return np.asarray(column.is_null().to_numpy(zero_copy_only=False))
        return np.zeros(count, bool)

    def _doubtful_entity(self, table: pa.RecordBatch, count: int) -> Array:
        if self._entity not in self._columns:
            return np.zeros(count, bool)
        column = table.column(self._columns[self._entity])
        if not _is_text(column.type):
            return np.full(count, not pa.types.is_null(column.type))
        size = pc.binary_length(column)
        fine = pc.and_(
            pc.and_(pc.greater(size, 0), pc.less_equal(size, MAX_ENTITY_BYTES)), pc.utf8_is_printable(column)
        )
        return ~np.asarray(fine.fill_null(True).to_numpy(zero_copy_only=False))


def _numbers(field: Field, column: pa.Array) -> tuple[Any, Array | None]:
    type_ = column.type
    if pa.types.is_null(type_):
        return np.zeros(len(column), np.float32), None
    floating = field.datatype[0] == "F"
    if not (pa.types.is_floating(type_) or pa.types.is_integer(type_)):
        return _all_in_doubt(column)
    values = (column.fill_null(0) if column.null_count else column).to_numpy(zero_copy_only=False)
    if values.dtype == np.float32 and floating:
        return values, None
    wide = values.astype(np.float64)  # as Python's numbers go
    if floating:
        beyond = (np.abs(wide) > _LARGEST) & ~np.isinf(wide)
        with np.errstate(over="ignore"):
            return wide.astype(np.float32), beyond if beyond.any() else None
    limits = np.iinfo(NUMPY_OF_DATATYPE[field.datatype])
    with np.errstate(invalid="ignore"):
        doubt = ~((wide >= limits.min) & (wide <= limits.max)) | (np.floor(wide) != wide) | (np.abs(wide) >= 2.0**53)
    return wide.astype(np.float32), doubt if doubt.any() else None


def _bools(column: pa.Array) -> tuple[Any, Array | None]:
    if not pa.types.is_boolean(column.type):
        return _all_in_doubt(column) if not pa.types.is_null(column.type) else (np.zeros(len(column), np.float32), None)
    values = column.fill_null(False) if column.null_count else column
    return values.to_numpy(zero_copy_only=False).astype(np.float32), None


def _all_in_doubt(column: pa.Array) -> tuple[Any, Array]:
    return np.zeros(len(column), np.float32), np.full(len(column), True)


def _outside(field: Field, numbers: Any) -> Array | None:
    if field.minimum is None and field.maximum is None:
        return None
    outside = np.zeros(len(numbers), bool)
    if field.minimum is not None:
        outside |= numbers < np.float32(field.minimum)
    if field.maximum is not None:
        outside |= numbers > np.float32(field.maximum)
    return outside if outside.any() else None


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))
