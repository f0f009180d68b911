"""Conversions of scikit-learn's scalers that give its numbers to the bit.

skl2onnx scales in FP32, or in FP64 with constants rounded to FP32. A tree behind the scaler turns the last bit into
another branch wherever a value lies on a threshold, and with whole numbers or few decimals many do: thresholds are
midpoints of values, and so are other values. scikit-learn scales FP64 tables in FP64 and its trees round the result
to FP32; FP32 tables it scales in FP32. Each has its conversion here.

What is left is the served input: FP32, so that 5.1 comes in as 5.0999999. With `decimals` the scaler takes it for the
number of so many decimals that rounds to the same FP32 value, where there is one: the number that was typed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onward.package.importers.extra import need
from onward.package.importers.frame import Frame
from onward.types import Array

_PURPOSE = "packing a scikit-learn model"
FLOAT, DOUBLE = 1, 11
"""Numbers of `onnx.TensorProto`, which are stable."""
MOST_DECIMALS = 6
"""FP32 tells no more apart of numbers about 1; what has more digits is a measurement and lies on no threshold."""

Converter = Callable[[Any, Any, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How scalers compute: in FP32 where `single` is set, else in FP64.

    With a `frame`, they take its columns for what was typed; `columns` names those of a scaler, by its id, where the
    scaler itself does not know.
    """

    single: bool = False
    frame: Frame | None = None
    columns: Mapping[int, Sequence[str]] = field(default_factory=dict)


def exact_scalers(scaling: Scaling) -> dict[type, Converter]:
    """Converters by type of scaler, for skl2onnx's `custom_conversion_functions`."""
    preprocessing = need("sklearn.preprocessing", _PURPOSE)

    def standard(scaler: Any) -> list[tuple[str, Any]]:
        # the one scaler that rounds its constants to the table's type first
        steps = [("Sub", scaler.mean_ if scaler.with_mean else None), ("Div", scaler.scale_)]
        return [(operator, np.float32(value) if scaling.single and value is not None else value)
                for operator, value in steps]  # fmt: skip

    def robust(scaler: Any) -> list[tuple[str, Any]]:
        return [("Sub", scaler.center_), ("Div", scaler.scale_)]

    def min_max(scaler: Any) -> list[tuple[str, Any]]:
        clip = [("Clip", scaler.feature_range)] if scaler.clip else []
        return [("Mul", scaler.scale_), ("Add", scaler.min_), *clip]

    def max_abs(scaler: Any) -> list[tuple[str, Any]]:
        clip = [("Clip", (-1.0, 1.0))] if getattr(scaler, "clip", False) else []
        return [("Div", scaler.scale_), *clip]

    steps = {
        preprocessing.StandardScaler: standard,
        preprocessing.RobustScaler: robust,
        preprocessing.MinMaxScaler: min_max,
        preprocessing.MaxAbsScaler: max_abs,
    }
    return {kind: _converter(steps_of, scaling) for kind, steps_of in steps.items()}


def has_decimals(frame: Frame) -> bool:
    """Whether a column holds numbers of a few decimals, which FP32 does not hold exactly."""
    return any(decimals(column.values) for column in frame.columns if column.kind == "number")


def decimals(values: Sequence[Any]) -> int:
    """How many decimals the numbers have; 0 where they are whole, or have more than six."""
    present = np.array([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    return next((count for count in range(MOST_DECIMALS + 1) if np.array_equal(present.round(count), present)), 0)


def _decimals_of(scaler: Any, frame: Frame, columns: Mapping[int, Sequence[str]]) -> Array:
    """The decimals of each of a scaler's columns; 0 where they are not the table's own."""
    known = {column.name: decimals(column.values) if column.kind == "number" else 0 for column in frame.columns}
    names = columns.get(id(scaler)) or [str(name) for name in getattr(scaler, "feature_names_in_", ())]
    if not names and scaler.n_features_in_ == len(known):
        names = list(known)
    return np.array([known.get(name, 0) for name in names] or [0], dtype=np.float64)


def _converter(steps_of: Callable[[Any], list[tuple[str, Any]]], scaling: Scaling) -> Converter:
    def convert(scope: Any, operator: Any, container: Any) -> None:
        scaler = operator.raw_operator
        nodes = _Nodes(scope, container)
        source = operator.inputs[0].full_name
        if len(operator.inputs) > 1:
            common = need("skl2onnx.operator_converters.common", _PURPOSE)
            source = common.concatenate_variables(scope, operator.inputs, container)
        given = nodes.cast(source, FLOAT)  # whole numbers and booleans come as such
        value = nodes.cast(given, DOUBLE)
        if scaling.frame is not None:
            value = nodes.typed(given, value, 10.0 ** _decimals_of(scaler, scaling.frame, scaling.columns))
        for name, constant in steps_of(scaler):
            if constant is None:
                continue
            constants = [np.float64(bound) for bound in constant] if name == "Clip" else [np.asarray(constant)]
            value = nodes.add(name, value, *(nodes.constant(each) for each in constants))
            if scaling.single:  # FP64 and then rounding is FP32 to the bit, for one operation
                value = nodes.cast(nodes.cast(value, FLOAT), DOUBLE)
        container.add_node("Cast", value, operator.outputs[0].full_name, to=FLOAT, name=nodes.name("Cast"))

    return convert


class _Nodes:
    """Adds nodes under names that the converter's scope has free."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def name(self, operator: str) -> str:
        return str(self._scope.get_unique_operator_name(operator))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = str(self._scope.get_unique_variable_name(f"scaling_{operator.lower()}"))
        self._container.add_node(operator, list(inputs), output, name=self.name(operator), **attributes)
        return output

    def cast(self, value: str, to: int) -> str:
        return self.add("Cast", value, to=to)

    def constant(self, value: Any) -> str:
        array = np.asarray(value, dtype=np.float64)
        name = str(self._scope.get_unique_variable_name("scaling_constant"))
        self._container.add_initializer(name, DOUBLE, list(array.shape), array.ravel().tolist())
        return name

    def typed(self, given: str, exact: str, factors: Array) -> str:
        """The number of so many decimals whose FP32 value was given; where there is none, the given value itself."""
        factor = self.constant(factors)
        whole = self.add("Round", self.add("Mul", exact, factor))
        number = self.add("Div", whole, factor)
        same = self.add("Equal", self.cast(number, FLOAT), given)
        return self.add("Where", same, number, exact)
