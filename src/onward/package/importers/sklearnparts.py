"""Parts of a scikit-learn pipeline that skl2onnx converts otherwise than they answer, or not at all.

Missing categories are NaN or None to scikit-learn. In the graph they are a text of their own, so for the time of the
conversion encoders and imputers are told that this text is what they were trained with. Nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from onward.package.importers.extra import need
from onward.package.importers.scaling import DOUBLE, FLOAT
from onward.package.importers.tablegraph import UNKNOWN_CATEGORY

_PURPOSE = "packing a scikit-learn model"
Converter = Callable[[Any, Any, Any], None]

_FUNCTIONS: dict[Any, tuple[tuple[str, float | None], ...]] = {
    np.log1p: (("Add", 1.0), ("Log", None)),
    np.expm1: (("Exp", None), ("Sub", 1.0)),
    np.log: (("Log", None),),
    np.exp: (("Exp", None),),
    np.sqrt: (("Sqrt", None),),
    np.square: (("Mul", None),),
    np.abs: (("Abs", None),),
    np.log2: (("Log", None), ("Div", float(np.log(2)))),
    np.log10: (("Log", None), ("Div", float(np.log(10)))),
    np.sin: (("Sin", None),),
    np.cos: (("Cos", None),),
    np.tanh: (("Tanh", None),),
    np.negative: (("Neg", None),),
    np.reciprocal: (("Reciprocal", None),),
}
"""NumPy's functions as operators, each with its constant."""


def parts_of(estimator: Any) -> Iterator[Any]:
    """An estimator and all that is inside it: steps of pipelines, of unions, and of column transformers."""
    yield estimator
    for _, step in getattr(estimator, "steps", None) or ():
        yield from parts_of(step)
    for _, step in getattr(estimator, "transformer_list", None) or ():
        yield from parts_of(step)
    for _, step, _ in getattr(estimator, "transformers_", None) or ():
        if not isinstance(step, str):
            yield from parts_of(step)


@contextmanager
def as_converted(estimator: Any) -> Iterator[None]:
    """While this lasts, the parts are as skl2onnx takes them, and mean the same."""
    changed: list[tuple[Any, str, Any]] = []

    def change(part: Any, name: str, value: Any) -> None:
        changed.append((part, name, getattr(part, name)))
        setattr(part, name, value)

    try:
        for part in parts_of(estimator):
            kind = type(part).__name__
            if kind in ("OneHotEncoder", "OrdinalEncoder"):
                change(part, "categories_", [_told(categories) for categories in part.categories_])
            elif kind == "SimpleImputer" and getattr(part, "statistics_", np.zeros(1)).dtype.kind in "OUS":
                change(part, "missing_values", UNKNOWN_CATEGORY)
            elif kind == "KBinsDiscretizer" and part.encode == "onehot":  # sparse or dense is the same to the next step
                change(part, "encode", "onehot-dense")
            elif kind == "VotingClassifier":
                change(part, "flatten_transform", False)  # of what it is not asked for
        yield
    finally:
        for part, name, value in reversed(changed):
            setattr(part, name, value)


def _told(categories: Any) -> Any:
    if np.asarray(categories).dtype.kind != "O":
        return categories
    return np.array([UNKNOWN_CATEGORY if is_missing(value) else value for value in categories], dtype=object)


def is_missing(value: Any) -> bool:
    """Whether a category stands for a missing value: None, or NaN of any kind."""
    return value is None or value is not value or (isinstance(value, float) and value != value)


def own_conversions() -> dict[type, Converter]:
    """Conversions of parts, for skl2onnx's `custom_conversion_functions`."""
    preprocessing = need("sklearn.preprocessing", _PURPOSE)
    return {preprocessing.OrdinalEncoder: _ordinal()}


def function_conversion(double: bool) -> tuple[Converter, Callable[[Any], None]]:
    """The conversion and the shape of a `FunctionTransformer` of one of NumPy's functions."""
    types = need("skl2onnx.common.data_types", _PURPOSE)

    def shape(operator: Any) -> None:
        width = sum(tensor.type.shape[1] or 1 for tensor in operator.inputs)
        operator.outputs[0].type = (types.DoubleTensorType if double else types.FloatTensorType)([None, width])

    def convert(scope: Any, operator: Any, container: Any) -> None:
        function = operator.raw_operator.func
        value = _joined(scope, operator, container)
        value = _node(scope, container, "Cast", [value], to=DOUBLE)
        for name, constant in _FUNCTIONS[function] if function is not None else ():
            given = [value] if constant is None else [value, _number(scope, container, constant)]
            value = _node(scope, container, name, [value, value] if function is np.square else given)
        final = operator.outputs[0].full_name
        container.add_node("Cast", value, final, to=DOUBLE if double else FLOAT, name=_named(scope))

    return convert, shape


def function_types(estimator: Any) -> list[type]:
    """The types of the function transformers within an estimator whose functions are all known here."""
    found = [part for part in parts_of(estimator) if type(part).__name__ == "FunctionTransformer"]
    known = all(part.func in _FUNCTIONS and not part.kw_args for part in found if part.func is not None)
    return [type(found[0])] if found and known and any(part.func is not None for part in found) else []


def _ordinal() -> Converter:
    """Codes of categories, with what infrequent, unknown and missing ones are encoded as: skl2onnx leaves these out."""
    registration = need("skl2onnx.common._registration", _PURPOSE)

    def convert(scope: Any, operator: Any, container: Any) -> None:
        encoder = operator.raw_operator
        rare = encoder._default_to_infrequent_mappings if encoder._infrequent_enabled else []
        grouped: dict[int, Any] = {place: codes for place, codes in enumerate(rare) if codes is not None}
        if any(np.asarray(categories).dtype.kind != "O" for categories in encoder.categories_):
            if grouped and len(operator.inputs) != len(encoder.categories_):
                # skl2onnx takes the codes of one column for those of another
                raise NotImplementedError("infrequent categories that are numbers, in several columns")
            registration.get_converter("SklearnOrdinalEncoder")(scope, operator, container)
            return
        value = _joined(scope, operator, container)
        unknown = float(encoder.unknown_value) if encoder.handle_unknown == "use_encoded_value" else float("nan")
        columns = []
        for index, categories in enumerate(encoder.categories_):
            places = grouped.get(index, range(len(categories)))
            codes = [float(encoder.encoded_missing_value) if category == UNKNOWN_CATEGORY else float(places[place])
                     for place, category in enumerate(categories)]  # fmt: skip
            at = str(scope.get_unique_variable_name("ordinal_index"))
            container.add_initializer(at, 7, [1], [index])
            column = _node(scope, container, "Gather", [value, at], axis=1)
            columns.append(
                _node(
                    scope, container, "LabelEncoder", [column], op_domain="ai.onnx.ml", op_version=2,
                    keys_strings=list(map(str, categories)), values_floats=codes, default_float=unknown,
                )
            )  # fmt: skip
        joined = columns[0] if len(columns) == 1 else _node(scope, container, "Concat", columns, axis=1)
        kinds = {"Int64TensorType": 7, "DoubleTensorType": DOUBLE}
        kind = kinds.get(type(operator.outputs[0].type).__name__, FLOAT)
        container.add_node("Cast", joined, operator.outputs[0].full_name, to=kind, name=_named(scope))

    return convert


def _joined(scope: Any, operator: Any, container: Any) -> str:
    if len(operator.inputs) == 1:
        return str(operator.inputs[0].full_name)
    return _node(scope, container, "Concat", [tensor.full_name for tensor in operator.inputs], axis=1)


def _number(scope: Any, container: Any, value: float) -> str:
    name = str(scope.get_unique_variable_name("part_constant"))
    container.add_initializer(name, DOUBLE, [1], [value])
    return name


def _named(scope: Any) -> str:
    return str(scope.get_unique_operator_name("part"))


def _node(scope: Any, container: Any, operator: str, inputs: list[str], **attributes: Any) -> str:
    output = str(scope.get_unique_variable_name(f"part_{operator.lower()}"))
    container.add_node(operator, inputs, output, name=_named(scope), **attributes)
    return output
