"""Imports an EfficientNet-lite state dict (.pth) as a package for image classification, without PyTorch.

The variant is found by the weights' shapes. Preparation is the family's own: the centre of the photo, bicubic, pixels
as (value - 127) / 128. Softmax and the best classes are part of the model's graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onward.errors import ParityError, UsageError
from onward.package.importers.draft import Draft
from onward.package.importers.efficientnet import VARIANTS, blocks, write_efficientnet_lite
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.imagegraphs import append_top_k, write_image_prepare
from onward.package.importers.reference import FEWEST_INPUTS, Reference, provenance_of, read_reference, take
from onward.package.importers.torchfile import read_state_dict
from onward.package.records import Batching, DecodeImage, Labels, Limits, Manifest, PackageInfo, PrepareGraph
from onward.types import Array, Field

if TYPE_CHECKING:
    import onnx

TENSOR = "input"
LOGITS = "logits"
TOP_K = 5
#: Logits are sums of thousands of products and some are above 10, so they are held to more than 1e-5.
TOLERANCE = 1e-4
#: The family's margin: of a photo whose short side is `side + 32`, the centre of `side` is kept.
MARGIN = 32
MEAN, SCALE = 127.0, 1 / 128
MAX_BATCH_SIZE = 16
LABELS_FILE = "labels.txt"


def draft_of_vision(
    file: Path,
    info: PackageInfo,
    *,
    labels: Path | None = None,
    reference: Reference | None = None,
    tolerance: float | None = None,
) -> Draft:
    """Make a draft of the state dict in `file`.

    `labels` is a text file with one class name a line, in the order of the logits; without it classes have numbers
    only. `reference` holds the original's `logits` FP32 [inputs, classes] for `inputs` FP32 [inputs, 3, side, side];
    with `input_sha256` beside them, inputs of another digest are left out. Raises `UnsupportedModel` or
    `RefusedTorchFile` for other files, `UsageError` for labels or a reference that do not fit.
    """
    need("onnx", "packing an image classifier")
    state_dict = read_state_dict(file)
    variant = variant_of(state_dict)
    classes = len(state_dict["_fc.bias"])
    top_k = min(TOP_K, classes)
    files: dict[str, bytes | Path] = {
        "model.onnx": write_model(state_dict, top_k=top_k).SerializeToString(),
        "prepare.onnx": write_prepare(variant).SerializeToString(),
    }
    if labels is not None:
        files[LABELS_FILE] = ("\n".join(read_labels(labels, classes)) + "\n").encode()
    draft = Draft(
        manifest=_manifest(info, variant, classes=classes, top_k=top_k, is_labelled=labels is not None),
        files=files,
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    return draft if reference is None else _with_reference(draft, reference, VARIANTS[variant].side, classes)


def variant_of(state_dict: Mapping[str, Array]) -> str:
    """The variant whose blocks have the shapes of these weights. Raises `UnsupportedModel` where there is none."""
    found: list[tuple[int, ...]] = []
    while (weight := state_dict.get(f"_blocks.{len(found)}._project_conv.weight")) is not None:
        found.append(weight.shape[:1])
    for name, variant in VARIANTS.items():
        if found == [(block.filters_out,) for block in blocks(variant)] and "_fc.bias" in state_dict:
            return name
    expected = f"the weights of an EfficientNet-lite: {', '.join(VARIANTS)}"
    names = ", ".join(list(state_dict)[:3])
    raise UnsupportedModel("no known image classifier", where="state dict", expected=expected,
                           found=f"{len(found)} blocks among {len(state_dict)} tensors: {names}, …")  # fmt: skip


def write_model(state_dict: Mapping[str, Array], *, top_k: int = TOP_K) -> onnx.ModelProto:
    """The classifier from its weights, with softmax and the best classes behind the logits."""
    graph = write_efficientnet_lite(state_dict, variant_of(state_dict), len(state_dict["_fc.bias"]))
    return append_top_k(graph, top_k=top_k)


def write_prepare(variant: str) -> onnx.ModelProto:
    """Pixels → `input` FP32 [1, 3, side, side]: centre crop, bicubic resize, (value - 127) / 128."""
    side = VARIANTS[variant].side
    return write_image_prepare(
        short_side=side + MARGIN, crop=side, mean=MEAN, scale=SCALE, interpolation="bicubic", geometry="crop-resize",
        output=TENSOR,
    )  # fmt: skip


def read_labels(file: Path, classes: int) -> list[str]:
    """The class names of a file, one a line. Raises `UsageError` where they are not as many as the classes."""
    try:
        names = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the labels cannot be read: {error}", where=str(file), expected="text in UTF-8") from None
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if len(names) != classes or not all(names):
        expected = f"{classes} lines, a name on each"
        raise UsageError("the labels do not fit the model", where=str(file), expected=expected, found=f"{len(names)}, "
                         f"of which {names.count('')} are empty")  # fmt: skip
    return names


def _manifest(info: PackageInfo, variant: str, *, classes: int, top_k: int, is_labelled: bool) -> Manifest:
    described = info.description or f"Says which of {classes} classes a photo shows: EfficientNet-{variant}."
    outputs = (
        ("top_scores", "FP32", top_k, False, f"Probabilities of the {top_k} likeliest classes, the likeliest first."),
        ("top_indices", "INT64", top_k, False, "Their numbers, from 0."),
        ("probabilities", "FP32", classes, True, "Probabilities of all classes; they sum to one."),
        (LOGITS, "FP32", classes, True, "The model's own output, before softmax."),
    )
    return Manifest(
        package=replace(info, task="image-classification", description=described),
        inputs=(
            Field(
                name="image", datatype="BYTES", content="image",
                description="A photo: JPEG, PNG, WebP or GIF. Its centre is looked at.",
            ),
        ),
        outputs=tuple(
            Field(name=name, datatype=datatype, shape=(size,), on_request=on_request, description=description)
            for name, datatype, size, on_request, description in outputs
        ),
        prepare=(DecodeImage(input="image"), PrepareGraph()),
        generate=(
            (Labels(scores="top_scores", indices="top_indices", file=LABELS_FILE, top_k=top_k),) if is_labelled else ()
        ),
        batching=Batching(max_batch_size=MAX_BATCH_SIZE),
        limits=Limits(body_bytes=16 << 20),
    )  # fmt: skip


def _with_reference(draft: Draft, reference: Reference, side: int, classes: int) -> Draft:
    arrays = read_reference(reference, outputs=LOGITS)
    logits = arrays[LOGITS].astype(np.float32)
    inputs = take(arrays, "inputs", rows=len(logits))
    if logits.shape[1] != classes or inputs.shape[1:] != (3, side, side) or inputs.dtype != np.float32:
        expected = f"logits [inputs, {classes}] for inputs FP32 [inputs, 3, {side}, {side}]"
        found = f"logits {list(logits.shape)}, inputs {inputs.dtype} {list(inputs.shape)}"
        raise UsageError("the reference is not of this model", expected=expected, found=found)
    if "input_sha256" in arrays:
        digests = take(arrays, "input_sha256", rows=len(logits))
        same = [row for row in range(len(logits)) if _digest(inputs[row]) == str(digests[row])]
        if len(same) < FEWEST_INPUTS:
            raise ParityError("too few inputs are those of the reference", expected=f"at least {FEWEST_INPUTS} of "
                              f"{len(logits)}", found=str(len(same)))  # fmt: skip
        inputs, logits = inputs[same], logits[same]
    return replace(draft, feeds={TENSOR: inputs}, reference={LOGITS: logits}, provenance=provenance_of(arrays))


def _digest(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
