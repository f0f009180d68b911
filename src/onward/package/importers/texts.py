"""The columns of texts of a scikit-learn pipeline: their vectorisers, and how a package prepares them.

Each vectoriser has a step `tokenize` and its own range of ids. Where there are several, a graph lays their ids side by
side, one sequence an item: an n-gram never reaches from one range into another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onward.errors import UsageError
from onward.package.importers.extra import need
from onward.package.importers.frame import Frame
from onward.package.importers.vectorizer import (
    Add,
    Vectorizer,
    check_tokens,
    is_vectorizer,
    vectorizer_of,
    write_counts,
    write_weights,
)
from onward.package.records import PrepareGraph, Tokenize
from onward.types import Array

IDS, ROW = "ids", "row"
PREPARE_FILE = "prepare.onnx"
MOST_TOKENS = 1 << 20
"""More than a body of `BODY_BYTES` can hold, so that no text is cut off: the original cuts none."""
BODY_BYTES = 1 << 20
MOST_NUMBERS = 1 << 23
"""How many numbers the terms of one batch may be."""
_PURPOSE = "packing a scikit-learn model"
_FLOAT, _DOUBLE = 1, 11


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStep:
    """One vectoriser: the column that it reads, its tokenizer's file and the tensor of ids."""

    column: str
    file: str
    output: str
    vectorizer: Vectorizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """All vectorisers of a pipeline."""

    steps: tuple[TextStep, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of texts, in the order of their first vectorisers."""
        return tuple(dict.fromkeys(step.column for step in self.steps))

    @property
    def largest_batch(self) -> int:
        """How many rows may run together: every term of every one is a number."""
        terms = sum(len(step.vectorizer.terms) for step in self.steps)
        return max(1, min(64, MOST_NUMBERS // terms))

    def prepare(self) -> tuple[Tokenize | PrepareGraph, ...]:
        """The steps of the manifest, behind that of the table."""
        steps = tuple(
            Tokenize(input=step.column, file=step.file, max_tokens=MOST_TOKENS, outputs=(step.output,))
            for step in self.steps
        )
        return steps if self.is_single else (*steps, PrepareGraph(file=PREPARE_FILE))

    @property
    def is_single(self) -> bool:
        """Whether one vectoriser's ids are the model's."""
        return len(self.steps) == 1

    def files(self, matrix: str, width: int) -> dict[str, bytes]:
        """The tokenizers' files, and the graph that joins their ids beside a matrix of so many columns."""
        files = {step.file: step.vectorizer.tokenizer.to_str(pretty=False).encode() for step in self.steps}
        return files if self.is_single else files | {PREPARE_FILE: self._graph(matrix, width)}

    def _graph(self, matrix: str, width: int) -> bytes:
        onnx = need("onnx", _PURPOSE)
        helper, types = onnx.helper, onnx.TensorProto
        names = [step.output for step in self.steps]
        inputs = [helper.make_tensor_value_info(name, types.INT64, [1, name]) for name in names]
        outputs = [helper.make_tensor_value_info(IDS, types.INT64, [1, "length"])]
        nodes = [helper.make_node("Concat", names, [IDS], name="join", axis=1)]
        if width:
            inputs.append(helper.make_tensor_value_info(ROW, types.FLOAT, [1, width]))
            outputs.append(helper.make_tensor_value_info(matrix, types.FLOAT, [1, width]))
            nodes.append(helper.make_node("Identity", [ROW], [matrix], name="row"))
        graph = helper.make_graph(nodes, "prepare", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def feeds(self, frame: Frame) -> dict[str, Array]:
        """The sample's ids. Raises `PackageError` where a tokenizer does not agree with its vectoriser."""
        values = {column.name: [str(value) for value in column.values] for column in frame.columns}
        for step in self.steps:
            check_tokens(step.vectorizer, values[step.column])
        ids = [step.vectorizer.tokens(values[step.column], MOST_TOKENS) for step in self.steps]
        return {IDS: np.concatenate(ids, axis=1)}

    def shapes(self, *, double: bool) -> dict[type, Callable[[Any], None]]:
        """The shapes of what vectorisers give, for skl2onnx's `custom_shape_calculators`."""
        types = need("skl2onnx.common.data_types", _PURPOSE)
        kind = types.DoubleTensorType if double else types.FloatTensorType
        widths = {id(step.vectorizer.fitted): len(step.vectorizer.terms) for step in self.steps}

        def shape(operator: Any) -> None:
            operator.outputs[0].type = kind([None, widths[id(operator.raw_operator)]])

        return {type(step.vectorizer.fitted): shape for step in self.steps}

    def conversions(self, *, double: bool) -> dict[type, Callable[[Any, Any, Any], None]]:
        """What vectorisers become, for skl2onnx's `custom_conversion_functions`."""
        known = {id(step.vectorizer.fitted): step.vectorizer for step in self.steps}

        def convert(scope: Any, operator: Any, container: Any) -> None:
            add, ids = _adder(scope, container), operator.inputs[0].full_name
            value = write_counts(known[id(operator.raw_operator)], ids, add, double=double)
            container.add_node("Identity", value, operator.outputs[0].full_name, name=_named(scope))

        def weigh(scope: Any, operator: Any, container: Any) -> None:
            add, counts = _adder(scope, container), operator.inputs[0].full_name
            if not double:
                counts = add("Cast", [counts], to=_FLOAT)
            value = write_weights(operator.raw_operator, counts, add, double=double)
            container.add_node("Identity", value, operator.outputs[0].full_name, name=_named(scope))

        weigher = need("sklearn.feature_extraction.text", _PURPOSE).TfidfTransformer
        return {weigher: weigh} | {type(step.vectorizer.fitted): convert for step in self.steps}


def _named(scope: Any) -> str:
    return str(scope.get_unique_operator_name("texts"))


def _adder(scope: Any, container: Any) -> Add:
    def add(operator: str, inputs: Sequence[Any], **attributes: Any) -> str:
        output = str(scope.get_unique_variable_name(f"texts_{operator.lower()}"))
        names = [value if isinstance(value, str) else _kept(value, scope, container) for value in inputs]
        container.add_node(operator, names, output, name=_named(scope), **attributes)
        return output

    return add


def _kept(value: Any, scope: Any, container: Any) -> str:
    array = np.asarray(value)
    name = str(scope.get_unique_variable_name("texts_constant"))
    kind = _DOUBLE if array.dtype == np.float64 else _FLOAT
    container.add_initializer(name, kind, list(array.shape), array.ravel().tolist())
    return name


def texts_of(estimator: Any, sample: Any) -> Texts | None:
    """The vectorisers of a fitted pipeline; None where it has none.

    Raises `UsageError` for vectorisers that cannot be packed, or that read something else than a column of texts.
    """
    found = list(_vectorizers(estimator, _plain_column(sample)))
    if not found:
        return None
    steps = []
    first = 2
    for number, (column, fitted) in enumerate(found):
        name = "tokenizer.json" if len(found) == 1 else f"tokenizer-{number}.json"
        vectorizer = vectorizer_of(fitted, first=first)
        first += len(vectorizer.ids)
        output = IDS if len(found) == 1 else f"{IDS}_{number}"
        steps.append(TextStep(column=column, file=name, output=output, vectorizer=vectorizer))
    return Texts(steps=tuple(steps))


def _plain_column(sample: Any) -> str:
    """What the one column of a sample that is no table is called."""
    return str(getattr(sample, "name", None) or "text")


def _vectorizers(part: Any, column: str) -> Iterator[tuple[str, Any]]:
    """The vectorisers within a part, each with the column that it reads."""
    if is_vectorizer(part):
        yield column, part
    for number, (_, step) in enumerate(getattr(part, "steps", None) or ()):
        found = list(_vectorizers(step, column))
        if found and number:
            expected = "the vectoriser as the first step, or in a ColumnTransformer or FeatureUnion that is"
            raise UsageError("a step before the vectoriser changes its texts", expected=expected)
        yield from found
    for _, inner in getattr(part, "transformer_list", None) or ():
        yield from _vectorizers(inner, column)
    names = [str(name) for name in getattr(part, "feature_names_in_", ())]
    for _, inner, chosen in getattr(part, "transformers_", ()):
        if any(_vectorizers(inner, "")):
            if isinstance(chosen, str):
                yield from _vectorizers(inner, chosen)
            elif isinstance(chosen, int) and names:
                yield from _vectorizers(inner, names[chosen])
            else:
                raise UsageError("a vectoriser reads several columns", expected="one, by its name", found=str(chosen))
