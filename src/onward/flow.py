"""How values go from a package's inputs through its stages to its answer: what every runner of stages follows.

Pure: knows manifests and values; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onward.errors import InputError, OnwardError, UnknownOutput
from onward.package.manifest import Manifest
from onward.package.records import Stage
from onward.package.stages import StageFields, check_types
from onward.prepare.fields import ItemNames, describe, field_array, shown, value_of
from onward.types import Blob, Field, Item, Signature

STAGES_MS = "stages_ms"
"""The output, on request, that tells how long each stage took, in milliseconds, by its name."""
Values: TypeAlias = dict[str, Any]
"""What is known of one item: its inputs by name, and outputs as `STAGE.OUTPUT`. What is missing is not in it."""


class Flow:
    """How values go from a package's inputs through its stages to its answer. Pure; `fields` are those of each stage.

    Raises `ManifestError` where what a stage gives is not what is taken from it.
    """

    def __init__(self, manifest: Manifest, fields: Mapping[str, StageFields]) -> None:
        check_types(manifest, fields)
        self.stages = manifest.stages
        self._inputs = manifest.inputs
        self._outputs = manifest.outputs
        self._answer = manifest.answer
        self._fields = fields
        self._names = ItemNames(manifest.inputs)
        taken = {source for stage in manifest.stages for found in stage.inputs.values() for source in found}
        taken |= {stage.when for stage in manifest.stages} | {
            one for found in manifest.answer.values() for one in found
        }
        self.asked: Mapping[str, tuple[str, ...]] = {
            name: tuple(output for output in stage.asked if f"{name}.{output}" in taken)
            for name, stage in fields.items()
        }
        """The outputs to ask of each stage that it computes only on request."""

    def begin(self, item: Item) -> Values:
        """The values that an item brings. Raises `InputError`."""
        self._names.check(item)
        values: Values = {}
        for field in self._inputs:
            value = value_of(field, item)
            if value is not None:
                values[field.name] = _checked(field, value)
        return values

    def runs(self, stage: Stage, values: Values) -> bool:
        """Whether a stage is to run, by what is known before it."""
        if not stage.when:
            return True
        value = values.get(stage.when)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not stage.values:
            return value is not None and (bool(value) if not isinstance(value, np.ndarray) else value.size > 0)
        return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in stage.values)

    def feed(self, stage: Stage, values: Values) -> dict[str, Any]:
        """The item for a stage."""
        item: dict[str, Any] = {}
        for name, sources in stage.inputs.items():
            source = next((source for source in sources if source in values), None)
            if source is None:
                continue
            value, field = values[source], self._fields[stage.name].inputs[name]
            if field.default is not None and isinstance(value, str | bool | int | float) and value == field.default:
                continue  # as good as left out: a name that is empty is no name
            item[name] = _given(value, field)
        return item

    def take(self, stage: Stage, values: Values, answer: Mapping[str, Any]) -> None:
        """Note what a stage gave."""
        for name in self._fields[stage.name].outputs:
            if answer.get(name) is not None:
                values[f"{stage.name}.{name}"] = answer[name]

    def check_outputs(self, outputs: Sequence[str]) -> None:
        """Raise `UnknownOutput` for a name that no output has."""
        names = [*(field.name for field in self._outputs), STAGES_MS]
        for output in outputs:
            if output not in names:
                raise UnknownOutput(where=output, expected=f"one of {', '.join(names)}", found=repr(output))

    def answer(self, values: Values, outputs: Sequence[str], stages_ms: Mapping[str, float]) -> dict[str, Any]:
        """The answer: outputs of stages that did not run are not in it."""
        answer: dict[str, Any] = {}
        for field in self._outputs:
            if field.on_request and field.name not in outputs:
                continue
            source = next((source for source in self._answer[field.name] if source in values), None)
            if source is not None:
                answer[field.name] = values[source]
        if STAGES_MS in outputs:
            answer.setdefault(STAGES_MS, {name: round(duration, 3) for name, duration in stages_ms.items()})
        return answer

    def told(self, stage: Stage, error: OnwardError) -> OnwardError:
        """A stage's error, as the caller of the whole is told it: with the input that it is about, or the stage."""
        sources = stage.inputs.get(error.where, ())
        direct = [source for source in sources if "." not in source]
        error.where = direct[0] if direct else f"{stage.name}.{error.where}".rstrip(".")
        return error


def signature_of_stages(manifest: Manifest) -> Signature:
    """What a package of stages takes and gives; it has no tensors of its own."""
    return Signature(inputs=manifest.inputs, outputs=manifest.outputs, tensor_inputs=(), tensor_outputs=())


def spoken_ms(stages_ms: Mapping[str, float]) -> str:
    """Durations for a log: `hear 120.1 ms, understand 3.4 ms`."""
    return ", ".join(f"{name} {duration:.1f} ms" for name, duration in stages_ms.items()) or "no stage ran"


def _checked(field: Field, value: Any) -> Any:
    """A value that fits the field. Raises `InputError`."""
    if isinstance(value, Blob):
        value = value.data
    if field.content in ("image", "audio"):
        if not isinstance(value, bytes | bytearray):
            raise InputError(where=field.name, expected=describe(field), found=shown(value))
        return bytes(value)
    if field.content != "chat":  # what takes a chat looks at it
        field_array(field, value)
        if field.categories and value not in field.categories:
            raise InputError(where=field.name, expected=describe(field), found=shown(value))
    return value


def _given(value: Any, field: Field) -> Any:
    """A value in the form in which a stage takes it: sound and pictures as bytes, a text for a chat as its message."""
    if isinstance(value, Blob):
        return value.data
    if field.content == "chat" and isinstance(value, str):
        return [{"role": "user", "content": value}]
    return value
