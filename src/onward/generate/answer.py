"""The third step of inference: from the graphs' numbers to what a person reads.

Scores already are probabilities and already are sorted where the graph says so; here they only get names.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onward.errors import ExecutionError, PackageError
from onward.generate.catalogue import CatalogueReading
from onward.package.manifest import Catalogue, GenerateGraph, Labels, Manifest, Named
from onward.package.records import Entities, JsonText
from onward.package.signature import read_labels
from onward.types import Array, Blob, Decision, Item, Result

if TYPE_CHECKING:
    from onward.generate.entities import EntityReading


class Generation:
    """Makes the answer of one item from its rows of the outputs. `tensors` are the last graph's outputs by name."""

    def __init__(self, manifest: Manifest, folder: Path, *, tensors: Iterable[str]) -> None:
        self._tensors = frozenset(tensors)
        self._fields = manifest.outputs
        self._labels: dict[str, tuple[Labels, tuple[str, ...]]] = {}
        self._named: dict[str, Named] = {}
        self._catalogues: dict[str, CatalogueReading] = {}
        self._entities: dict[str, EntityReading] = {}
        self._json: set[str] = set()
        self._hidden: set[str] = set()
        for step in manifest.generate:
            if isinstance(step, Labels):
                self._labels[step.scores] = (step, read_labels(folder / step.file))
                self._hidden |= {step.scores, step.indices}
            elif isinstance(step, Named):
                self._named[step.input] = step
            elif isinstance(step, Catalogue):
                self._catalogues[step.ids] = CatalogueReading(step, folder)
                self._hidden |= set(step.tensors)
            elif isinstance(step, Entities):
                from onward.generate.entities import EntityReading  # it reads words, which most packages have none of

                self._entities[step.scores] = EntityReading(step, manifest, folder)
                self._hidden.add(step.scores)
            elif isinstance(step, JsonText) and step.input:
                self._json.add(step.input)
            elif not isinstance(step, GenerateGraph):
                raise PackageError(f"there is no generate step {type(step).__name__}")

    def __call__(
        self, tensors: Mapping[str, Array], requested: frozenset[str] = frozenset(), item: Item | None = None
    ) -> dict[str, Any]:
        """The answer from {output: (1, …)}; outputs that a label stands for appear only when requested.

        Entities are places in a text, so they need the `item`; without it they are left out.
        """
        answer: dict[str, Any] = {}
        for name, tensor in tensors.items():
            row = tensor[0]
            if name in self._entities and item is not None:
                found, row = self._entities[name](row, item)
                answer |= found
            if name in self._labels:
                answer |= self._label(row, tensors, *self._labels[name])
            if name in self._catalogues:
                answer |= self._catalogues[name](tensors)
            if name in self._named:
                step = self._named[name]
                answer[name] = dict(zip(step.names, row.tolist(), strict=True))
            elif name in self._json:
                answer[name] = _parsed(name, row)
            elif name not in self._hidden or name in requested:
                answer[name] = plain(row)
        return answer

    def _label(
        self, scores: Array, tensors: Mapping[str, Array], step: Labels, names: tuple[str, ...]
    ) -> dict[str, Any]:
        if step.indices:
            indices = tensors[step.indices][0][: step.top_k].tolist()
            best = scores[: step.top_k].tolist()
        else:
            order = np.argsort(-scores, kind="stable")[: step.top_k]
            indices, best = order.tolist(), scores[order].tolist()
        beyond = next((index for index in indices if not 0 <= index < len(names)), None)
        if beyond is not None:
            expected = f"0 to {len(names) - 1}, as {step.file} has labels"
            raise ExecutionError("the model gave an index without a label", expected=expected, found=str(beyond))
        labels = [{step.output: names[index], "score": score} for index, score in zip(indices, best, strict=True)]
        return {step.output: names[indices[0]], "score": best[0], f"{step.output}s": labels}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of everything that can be asked for: the output fields."""
        return tuple(field.name for field in self._fields)

    def fetches(self, requested: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """The last graph's tensors to compute for the default outputs, those requested, and the labels made of them."""
        fields = {field.name for field in self._fields}
        wanted = [field.name for field in self._fields if not field.on_request or field.name in requested]
        for step, _ in self._labels.values():
            own = fields.intersection((step.output, "score", f"{step.output}s")) - self._tensors
            # A label that no [[output]] names is part of every answer; one that is named follows its `on_request`.
            if not own or own.intersection(wanted):
                wanted += [step.scores, step.indices]
        for catalogue in self._catalogues.values():
            wanted += catalogue.tensors
        wanted += self._entities
        wanted += self._named.keys() - fields
        return tuple(name for name in dict.fromkeys(wanted) if name in self._tensors)


def readable(result: Result) -> dict[str, Any]:
    """A result's answer as JSON can hold it: a blob as its media type and base64. The decision goes beside it."""
    return {name: _json_value(value) for name, value in result.answer.items()}


def readable_decision(decision: Decision) -> dict[str, Any]:
    """A decision as JSON can hold it."""
    return {
        "outcome": decision.outcome, "rule": decision.rule, "reasons": list(decision.reasons),
        "arguments": dict(decision.arguments),
    }  # fmt: skip


def plain(array: Array) -> Any:
    """An array as JSON can hold it: numbers, lists, and text for BYTES."""
    value = array.tolist() if isinstance(array, np.ndarray | np.generic) else array
    return _text(value)


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list) and value and not isinstance(value[0], int | float):
        return [_text(element) for element in value]
    return value


def _parsed(name: str, row: Array) -> Any:
    try:
        return json.loads(plain(row))
    except (TypeError, ValueError):
        raise ExecutionError(f"the model's output {name!r} is not JSON", expected="JSON text") from None


def _json_value(value: Any) -> Any:
    if isinstance(value, Blob):
        return {"media_type": value.media_type, "base64": base64.b64encode(value.data).decode()}
    return value
