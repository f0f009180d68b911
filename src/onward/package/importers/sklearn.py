"""Imports scikit-learn classifiers and regressors, pipelines with column transformers among them, through skl2onnx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from onward.errors import PackageError, ParityError, UsageError
from onward.package.examples import TOLERANCE
from onward.package.importers.draft import Draft
from onward.package.importers.extra import need
from onward.package.importers.forest import Rounding
from onward.package.importers.frame import Frame, frame_of
from onward.package.importers.histogram import has_categories
from onward.package.importers.histogram import model_of_estimator as histogram_model
from onward.package.importers.pipelinetail import Tail, join_tail, tail_of
from onward.package.importers.scaling import Scaling, exact_scalers, has_decimals
from onward.package.importers.sklearnparts import (
    as_converted,
    function_conversion,
    function_types,
    is_missing,
    own_conversions,
)
from onward.package.importers.tablegraph import GraphOutput, convert, round_thresholds_down, surround
from onward.package.importers.tabular import MARGINS, PREDICTION, SCORES, Original, draft_of_table
from onward.package.importers.texts import IDS, Texts, texts_of
from onward.package.importers.treemodel import draft_of_trees, frame_of_model
from onward.package.parity import compare_labels
from onward.package.records import PackageInfo

TARGET_OPSET = {"": 17, "ai.onnx.ml": 3}
_PURPOSE = "packing a scikit-learn model"


def draft_of_sklearn(estimator: Any, info: PackageInfo, *, sample: Any, tolerance: float | None = None) -> Draft:
    """Make a draft of a fitted estimator, with the sample's column names as inputs.

    Raises `UsageError` for what is neither classifier nor regressor, `PackageError` where skl2onnx cannot convert
    it, `ParityError` where the converted model does not answer as the original does on the sample.
    """
    need("skl2onnx", _PURPOSE)
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    texts = texts_of(estimator, sample)
    frame = frame_of(
        sample, names=names, categories=_trained_categories(estimator), texts=texts.columns if texts else ()
    )
    used = _used_columns(estimator)
    frame = frame if used is None else frame.only(used)
    original = _original(estimator, sample)
    if texts:
        return _draft_with_texts(estimator, sample, info, frame, original, texts, tolerance)
    tail = tail_of(estimator, sample)
    if tail is not None:
        return _draft_with_tail(estimator, tail, info, frame, original, None, tolerance)
    if has_categories(estimator):
        model = histogram_model(estimator)
        return draft_of_trees(model, info, frame=frame_of_model(model, sample), original=original, tolerance=tolerance)
    kinds = [column.kind == "category" for column in frame.columns]
    if any(kinds) and not all(kinds) and not _takes_columns(estimator):
        expected = "a pipeline that begins with a ColumnTransformer, or columns of numbers only"
        raise UsageError("the estimator takes text and numbers in one table", expected=expected)
    conversions: list[Callable[[], bytes]] = [
        lambda: _converted(estimator, frame, original),
        lambda: _converted(estimator, frame, original, scaling=Scaling()),
        lambda: _converted(estimator, frame, original, scaling=Scaling(single=True)),
        lambda: _converted(estimator, frame, original, double=True),
    ]
    if original.output == MARGINS and len(original.classes) == 2:
        conversions.append(lambda: _converted(estimator, frame, original, pair=True))
    if has_decimals(frame):
        typed = Scaling(frame=frame, columns=_columns_by_part(estimator))
        conversions.insert(2, lambda: _converted(estimator, frame, original, scaling=typed))
    return draft_of_table(info, frame, original, conversions, unknown=_unknown(estimator, frame), tolerance=tolerance)


def _draft_with_texts(
    estimator: Any, sample: Any, info: PackageInfo, frame: Frame, original: Original, texts: Texts,
    tolerance: float | None,
) -> Draft:  # fmt: skip
    if frame.table and not _takes_columns(estimator):
        expected = "a pipeline that begins with a ColumnTransformer, or texts only"
        raise UsageError("the estimator takes texts and a table at once", expected=expected)
    tail = tail_of(estimator, sample)
    if tail is not None:
        return _draft_with_tail(estimator, tail, info, frame, original, texts, tolerance)
    conversions: list[Callable[[], bytes]] = [
        lambda: _converted(estimator, frame, original, texts=texts),
        lambda: _converted(estimator, frame, original, texts=texts, double=True),
    ]
    if original.output == MARGINS and len(original.classes) == 2:
        conversions.append(lambda: _converted(estimator, frame, original, texts=texts, pair=True))
    unknown = _unknown(estimator, frame)
    return draft_of_table(info, frame, original, conversions, unknown=unknown, tolerance=tolerance, texts=texts)


def _draft_with_tail(
    estimator: Any, tail: Tail, info: PackageInfo, frame: Frame, original: Original, texts: Texts | None,
    tolerance: float | None,
) -> Draft:  # fmt: skip
    scalings: list[Scaling | None] = [None, Scaling(), Scaling(single=True)]
    if has_decimals(frame):
        scalings.insert(2, Scaling(frame=frame, columns=_columns_by_part(estimator)))

    def converted(scaling: Scaling | None, double: bool, rounding: Rounding, exact: bool) -> Callable[[], bytes]:
        def convert() -> bytes:
            initial = _initial(tail.front, frame, double=double)
            front = _convert(tail.front, initial, replace(original, classes=()), scaling, texts, double)
            model = join_tail(front, tail, original.output, exact=exact, rounding=rounding)
            wanted = GraphOutput(source=model.graph.output[0].name, name=original.output,
                                 shape=original.values.shape[1:])  # fmt: skip
            return surround(model, frame, [wanted], double=double, ids=_ids(model, frame, texts))

        return convert

    roundings: tuple[Rounding, ...] = ("down", "nearest")
    # trees compare what comes before them to the bit, so FP64 steps rounded to FP32 go before any other FP32 ones
    fronts = [(None, False), (None, True), *((scaling, False) for scaling in scalings[1:])]
    conversions = [
        converted(*front, rounding, exact) for front in fronts for rounding in roundings for exact in (False, True)
    ]
    unknown = _unknown(estimator, frame)
    return draft_of_table(info, frame, original, conversions, unknown=unknown, tolerance=tolerance, texts=texts)


def _original(estimator: Any, sample: Any) -> Original:
    base = need("sklearn.base", _PURPOSE)
    if base.is_regressor(estimator):
        values = np.asarray(estimator.predict(sample))
        return Original(output=PREDICTION, values=values)
    if not base.is_classifier(estimator):
        expected = "a classifier or a regressor, or a pipeline that ends in one"
        raise UsageError("cannot pack this estimator", expected=expected, found=type(estimator).__name__)
    labels = np.asarray(estimator.predict(sample))
    if labels.ndim != 1:
        raise UsageError("the classifier gives several labels a row", expected="one label a row")
    classes = tuple(str(name) for name in estimator.classes_)
    if hasattr(estimator, "predict_proba"):
        output, values = SCORES, np.asarray(estimator.predict_proba(sample))
    else:
        output, values = MARGINS, np.asarray(estimator.decision_function(sample))
        if values.ndim == 1:  # the margin of the second of two classes
            values = np.stack([-values, values], axis=1)
    if values.shape != (len(labels), len(classes)):
        found = f"{output} of shape {list(values.shape)} for {len(classes)} classes"
        raise UsageError("the classifier does not give a score for each class", found=found)
    original = Original(output=output, values=values, classes=classes, labels=tuple(map(str, labels)))
    best = [classes[int(index)] for index in np.argmax(values, axis=1)]
    try:
        compare_labels(original.labels, best, values, tolerance=TOLERANCE)
    except ParityError as error:
        expected = f"a classifier that answers its best class, as {type(estimator).__name__} does not: {error}"
        raise UsageError(f"predict and {output} of the classifier disagree", expected=expected) from None
    return original


def _converted(
    estimator: Any,
    frame: Frame,
    original: Original,
    *,
    double: bool = False,
    scaling: Scaling | None = None,
    texts: Texts | None = None,
    pair: bool = False,
) -> bytes:
    initial = _initial(estimator, frame, double=double)
    model = _convert(estimator, initial, original, scaling, texts, double)
    if not double:
        round_thresholds_down(model, _boosted_thresholds(estimator))
    source = model.graph.output[1 if original.classes else 0].name
    wanted = GraphOutput(source=source, name=original.output, shape=original.values.shape[1:], pair=pair)
    return surround(model, frame, [wanted], double=double, ids=_ids(model, frame, texts))


def _initial(estimator: Any, frame: Frame, *, double: bool) -> list[tuple[str, Any]]:
    """The inputs as the converter takes them: one for each column, or one of every column."""
    types = need("skl2onnx.common.data_types", _PURPOSE)
    number = types.DoubleTensorType if double else types.FloatTensorType
    found = {column.kind for column in frame.columns}
    if "text" in found or (_takes_columns(estimator) and (frame.is_named or "category" in found)):
        # A column of texts is one to skl2onnx, which would pick the first of several; its ids only its vectorisers see.
        kinds = {"category": types.StringTensorType([None, 1]), "text": types.Int64TensorType([None, 1])}
        return [(column.name, kinds.get(column.kind, number([None, 1]))) for column in frame.columns]
    kind = types.StringTensorType if found == {"category"} else number
    return [("every column", kind([None, len(frame.columns)]))]


def _ids(model: Any, frame: Frame, texts: Texts | None) -> dict[str, str]:
    """The tensor of token ids by the model's inputs: skl2onnx may rename inputs, but keeps their order."""
    if texts is None:
        return {}
    pairs = zip(model.graph.input, frame.columns, strict=True)
    return {tensor.name: IDS for tensor, column in pairs if column.kind == "text"}


def _convert(
    estimator: Any,
    initial: list[tuple[str, Any]],
    original: Original,
    scaling: Scaling | None,
    texts: Texts | None,
    double: bool,
) -> Any:
    """Convert with the options that this kind of estimator knows: skl2onnx refuses an option that it does not.

    With `scaling`, scalers give scikit-learn's numbers to the bit: a tree turns one bit into another branch.
    """
    skl2onnx = need("skl2onnx", _PURPOSE)
    last = list(_parts(estimator))[-1]
    choices: list[dict[int, dict[str, bool]]] = [{}]
    if original.classes:
        raw = {"raw_scores": True} if original.output == MARGINS else {}
        choices = [{id(estimator): {"zipmap": False} | raw}, {id(last): {"zipmap": False} | raw}, {id(last): raw}, {}]
    conversions = _conversions() | own_conversions() | (exact_scalers(scaling) if scaling else {})
    conversions |= texts.conversions(double=double) if texts else {}
    shapes = texts.shapes(double=double) if texts else {}
    for kind in function_types(estimator):
        conversions[kind], shapes[kind] = function_conversion(double)
    for options in choices:
        try:
            with as_converted(estimator):
                return convert(
                    skl2onnx.convert_sklearn,
                    estimator,
                    initial_types=initial,
                    options=options or None,
                    custom_conversion_functions=conversions,
                    custom_shape_calculators=shapes,
                    target_opset=TARGET_OPSET,
                )
        except PackageError as error:
            if options == choices[-1] or not isinstance(error.__cause__, NameError):
                raise
    raise AssertionError("the last choice returns or raises")


def _conversions() -> dict[type, Callable[[Any, Any, Any], None]]:
    """skl2onnx's own conversions of histogram boosting, with attributes as plain numbers.

    Their lists mix integers, booleans and numpy's kinds of both, which `onnx.helper.make_node` does not take.
    """
    registration = need("skl2onnx.common._registration", _PURPOSE)
    ensemble = need("sklearn.ensemble", _PURPOSE)

    def plain(alias: str) -> Callable[[Any, Any, Any], None]:
        stock = registration.get_converter(alias)
        return lambda scope, operator, container: stock(scope, operator, _PlainContainer(container))

    return {
        ensemble.HistGradientBoostingClassifier: plain("SklearnHistGradientBoostingClassifier"),
        ensemble.HistGradientBoostingRegressor: plain("SklearnHistGradientBoostingRegressor"),
    }


class _PlainContainer:
    """A converter's container that turns numpy numbers in attributes into Python's."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *arguments: Any, **attributes: Any) -> Any:
        """Add a node to the container."""
        plain = {name: self._plain(value) for name, value in attributes.items()}
        return self._container.add_node(*arguments, **plain)

    @staticmethod
    def _plain(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        plain = [element.item() if isinstance(element, np.generic) else element for element in value]
        return [int(element) if isinstance(element, bool) else element for element in plain]


def _boosted_thresholds(estimator: Any) -> Iterator[float]:
    """The FP64 thresholds of histogram boosting, which skl2onnx rounds to the nearest FP32."""
    for part in _parts(estimator):
        for trees in getattr(part, "_predictors", ()):
            for tree in trees:
                yield from (float(value) for value in tree.nodes["num_threshold"][tree.nodes["is_leaf"] == 0])


def _takes_columns(estimator: Any) -> bool:
    """Whether the estimator picks its columns by itself: it is, or begins with, a column transformer."""
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    return hasattr(first, "transformers_")


def _used_columns(estimator: Any) -> set[str] | None:
    """The columns that a column transformer in front looks at; None where it is not told by name."""
    steps = getattr(estimator, "steps", None)
    first = steps[0][1] if steps else estimator
    used: set[str] = set()
    for _, inner, chosen in getattr(first, "transformers_", None) or [("", "", 0)]:
        names = [chosen] if isinstance(chosen, str) else list(chosen) if isinstance(chosen, list) else [None]
        if isinstance(inner, str) and inner == "drop":
            continue
        if not all(isinstance(name, str) for name in names):
            return None
        used.update(map(str, names))
    return used


def _parts(estimator: Any) -> Iterator[Any]:
    """An estimator and those inside it, outermost first."""
    yield estimator
    for _, step in getattr(estimator, "steps", None) or ():
        yield from _parts(step)


def _trained_categories(estimator: Any) -> dict[str, tuple[str, ...]]:
    """The text categories that encoders were trained with, by column name."""
    found: dict[str, tuple[str, ...]] = {}
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    for part in _parts(estimator):
        groups = [(part, names)] if hasattr(part, "categories_") else []
        for _, transformer, columns in getattr(part, "transformers_", ()):
            groups.append((transformer, _column_names(columns, names)))
        for transformer, columns in groups:
            encoder = next((inner for inner in _parts(transformer) if hasattr(inner, "categories_")), None)
            for name, categories in zip(columns, getattr(encoder, "categories_", ()), strict=False):
                present = [category for category in categories if not is_missing(category)]
                if all(isinstance(category, str) for category in present):
                    found.setdefault(name, tuple(map(str, present)))
    return found


def _columns_by_part(estimator: Any) -> dict[int, list[str]]:
    """The columns of each part within a column transformer that takes as many as the transformer hands on, by id."""
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ())]
    found: dict[int, list[str]] = {}
    for part in _parts(estimator):
        for _, transformer, columns in getattr(part, "transformers_", ()):
            chosen = _column_names(columns, names)
            for inner in _parts(transformer):
                if getattr(inner, "n_features_in_", -1) == len(chosen):
                    found[id(inner)] = chosen
    return found


def _column_names(columns: Any, names: list[str]) -> list[str]:
    if isinstance(columns, str):
        return [columns]
    if isinstance(columns, slice):
        return names[columns] if isinstance(columns.start, int | None) else []
    chosen = np.asarray(columns)
    if chosen.dtype.kind in "biu" and names:
        return [str(name) for name in np.asarray(names, dtype=object)[chosen]]
    return [str(name) for name in chosen.tolist()]


def _unknown(estimator: Any, frame: Frame) -> Literal["error", "nan"]:
    """Whether the package answers for categories that the estimator was not trained with."""
    try:
        parameters = estimator.get_params(deep=True)
    except (AttributeError, TypeError) as error:
        raise PackageError(f"the estimator does not tell its parameters: {error}") from None
    if any(column.kind == "category" and column.has_missing for column in frame.columns):
        return "error"  # a missing one is NaN, and the graph cannot tell two kinds of NaN apart
    return (
        "nan"
        if any(key.endswith("handle_unknown") and value != "error" for key, value in parameters.items())
        else "error"
    )
