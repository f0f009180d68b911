"""Imports the folder of a Hugging Face model: what its config.json says that it is decides how."""

from __future__ import annotations

from pathlib import Path

from onward.package.importers.classifier import draft_of_classifier
from onward.package.importers.draft import Draft
from onward.package.importers.encoder import draft_of_encoder
from onward.package.importers.encoderconfig import read_head
from onward.package.importers.reference import Reference
from onward.package.records import PackageInfo

CONFIG_FILE = "config.json"


def draft_of_folder(
    folder: Path, info: PackageInfo, *, reference: Reference | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of an encoder, or of a classifier of sequences or tokens, of the BERT, RoBERTa or DistilBERT family.

    Raises `UnsupportedModel` for other models and heads, and what the importers of these raise.
    """
    head = read_head(folder / CONFIG_FILE)
    if head.task == "encoder":
        return draft_of_encoder(folder, info, reference=reference, tolerance=tolerance)
    return draft_of_classifier(folder, info, reference=reference, tolerance=tolerance)
