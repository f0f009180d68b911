"""The columns of texts of a scikit-learn pipeline: their vectorisers, and how a package prepares them.

Each vectoriser has a step `tokenize` and its own range of ids. The ids of one column's vectorisers are laid side by
side in the graph: an n-gram never reaches from one range into another.
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
from onward.package.records import Tokenize
from onward.types import Array

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

    def outputs(self, column: str) -> list[str]:
        """The tensors of ids of a column."""
        return [step.output for step in self.steps if step.column == column]

    def prepare(self) -> tuple[Tokenize, ...]:
        """The steps of the manifest."""
        return tuple(
            Tokenize(input=step.column, file=step.file, max_tokens=MOST_TOKENS, outputs=(step.output,))
            for step in self.steps
        )

    def files(self) -> dict[str, bytes]:
        """The tokenizers' files."""
        return {step.file: step.vectorizer.tokenizer.to_str(pretty=False).encode() for step in self.steps}

    def feeds(self, frame: Frame) -> dict[str, Array]:
        """The sample's ids. Raises `PackageError` where a tokenizer does not agree with its vectoriser."""
        values = {column.name: [str(value) for value in column.values] for column in frame.columns}
        for step in self.steps:
            check_tokens(step.vectorizer, values[step.column])
        return {step.output: step.vectorizer.tokens(values[step.column], MOST_TOKENS) for step in self.steps}

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
        output = "ids" if len(found) == 1 else f"ids_{number}"
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
