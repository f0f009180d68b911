"""The draft: what an importer makes of a model before it is checked, compared and locked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from onward.package.records import Manifest
from onward.types import Array, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A package to be.

    `files` are its files by path, as bytes or as the file to copy. `items` are the sample as the package will take
    it, `feeds` the same as the model's tensors (rows first), `reference` the original's outputs on it (rows first)
    and `labels` the original's labels, where it has any. `label_scores` names the output that labels are chosen by.
    `provenance` says where a reference's numbers come from, where the original did not run here.
    """

    manifest: Manifest
    files: Mapping[str, bytes | Path]
    items: tuple[Item, ...] = ()
    feeds: Mapping[str, Array] = field(default_factory=dict)
    reference: Mapping[str, Array] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    label_scores: str = ""
    tolerance: float = 1e-5
    provenance: str = ""
