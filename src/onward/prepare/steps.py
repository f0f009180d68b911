"""The first step of inference: bring one item to the form the model was trained on, as the manifest says.

Host steps first (tables, tokenising, image decoding), then at most one graph that every runner shares.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from onward.errors import PackageError
from onward.package.manifest import DecodeImage, Manifest, PrepareGraph, Table, Tokenize
from onward.prepare.fields import ItemNames, field_array, value_of
from onward.prepare.profile import Features, Profile
from onward.prepare.tabular import TablePreparation
from onward.types import Array, Item, Prepared

HostStep: TypeAlias = Callable[[Item], dict[str, Array]]
Graph: TypeAlias = Callable[[dict[str, Array]], dict[str, Array]]


class Preparation:
    """Turns an item into the tensors of the batched graph, one row each."""

    def __init__(self, manifest: Manifest, folder: Path, *, graph: Graph | None) -> None:
        self.fields = manifest.inputs
        self._names = ItemNames(manifest.inputs)
        self._pad = frozenset(manifest.batching.pad)
        self._steps = [
            _host_step(step, manifest, folder) for step in manifest.prepare if not isinstance(step, PrepareGraph)
        ]
        self.features = Features.of(manifest)
        used = {name for step in manifest.prepare for name in _consumed(step)}
        if self.features is not None:
            used.add(self.features.source.entity)
        # What no step reads goes to the graph as it is.
        self._values = tuple(field for field in self.fields if field.name not in used)
        self._graph = graph
        # The whole preparation is one table: a JSON body may be decoded straight into its row.
        plain = len(self._steps) == 1 and graph is None and not self._values and self.features is None
        only = self._steps[0] if plain else None
        self.table = only if isinstance(only, TablePreparation) else None

    def __call__(self, item: Item, profile: Profile | None = None) -> Prepared:
        """Prepare one item; inputs that it leaves out come from the profile, if there is one. Raises `InputError`."""
        if self.features is not None:
            self.features.entity(item)
            item = self.features.fill(item, profile)
        self._names.check(item)
        tensors: dict[str, Array] = {}
        for field in self._values:
            tensors[field.name] = field_array(field, value_of(field, item))
        if self._graph is None:
            tensors = {name: tensor[None] for name, tensor in tensors.items()}
        for step in self._steps:
            tensors |= step(item)
        if self._graph is not None:
            tensors = self._graph(tensors)
        length = max((tensors[name].shape[1] for name in self._pad), default=0)
        return Prepared(tensors=tensors, length=length)


def _consumed(step: object) -> tuple[str, ...]:
    if isinstance(step, Table):
        return step.columns
    if isinstance(step, Tokenize | DecodeImage):
        return (step.input,)
    return ()


def _host_step(step: object, manifest: Manifest, folder: Path) -> HostStep:
    if isinstance(step, Table):
        return TablePreparation(manifest.inputs, columns=step.columns, output=step.output, unknown=step.unknown)
    fields = {field.name: field for field in manifest.inputs}
    if isinstance(step, Tokenize):
        from onward.prepare.text import TokenizePreparation

        field = fields[step.input]
        return TokenizePreparation(folder / step.file, field, max_tokens=step.max_tokens, outputs=step.outputs)
    if isinstance(step, DecodeImage):
        from onward.prepare.image import DecodeImagePreparation

        decode = DecodeImagePreparation(fields[step.input], output=step.output, max_pixels=manifest.limits.pixels)
        alone = not any(isinstance(other, PrepareGraph) for other in manifest.prepare)
        return (lambda item: {name: pixels[None] for name, pixels in decode(item).items()}) if alone else decode
    raise PackageError(f"there is no prepare step {type(step).__name__}")
