"""The image graphs are held against Pillow and numpy, on photos made from seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from PIL import Image, ImageFilter

from onward.package.importers.imagegraphs import LONGEST_ASPECT, append_top_k, write_image_prepare

Pixels = npt.NDArray[np.uint8]
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
SIZES = [(512, 512), (300, 451), (427, 640), (1080, 720), (224, 224), (90, 61), (3, 2), (1, 1), (1, 300)]


def run(model: onnx.ModelProto, feeds: dict[str, npt.NDArray[Any]], *outputs: str) -> list[npt.NDArray[Any]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs) or None, feeds))


def photo(height: int, width: int) -> Pixels:
    """Blurred noise with hard edges: smooth parts, and values that a cubic overshoots on."""
    noise = np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(2)))
    image[height // 3 : height // 2] = 255
    image[:, width // 3 : width // 2] = 0
    return image


def levels(**settings: Any) -> onnx.ModelProto:
    """A preparation that leaves values in 0..255."""
    return write_image_prepare(**{"short_side": 256, "crop": 224, "mean": 0.0, "scale": 1.0} | settings)


def crop_then_resize(image: Image.Image, filter_: Image.Resampling) -> Pixels:
    side = max(1, min(image.size) * 224 // 256)
    left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((224, 224), filter_))


def resize_then_crop(image: Image.Image, filter_: Image.Resampling) -> Pixels:
    short = min(image.size)
    resized = image.resize((256 * image.width // short, 256 * image.height // short), filter_)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    return np.asarray(resized.crop((left, top, left + 224, top + 224)))


def stretch_then_crop(image: Image.Image, filter_: Image.Resampling) -> Pixels:
    return np.asarray(image.resize((256, 256), filter_).crop((16, 16, 240, 240)))


PILLOW = {"crop-resize": crop_then_resize, "resize-crop": resize_then_crop, "stretch-crop": stretch_then_crop}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("geometry", sorted(PILLOW))
def test_antialiased_preparation_is_pillows_to_the_level_but_for_rounding(geometry: str, interpolation: str) -> None:
    model = levels(geometry=geometry, interpolation=interpolation, layout="NHWC")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in SIZES:
        if geometry == "resize-crop" and max(height, width) > LONGEST_ASPECT * min(height, width):
            continue
        pixels = photo(height, width)
        wanted = PILLOW[geometry](Image.fromarray(pixels), {"bicubic": BICUBIC, "bilinear": BILINEAR}[interpolation])
        found = session.run(None, {"pixels": pixels})[0][0]
        difference = np.abs(found - wanted.astype(np.float32))
        assert difference.max() <= 2, (height, width)
        assert np.count_nonzero(difference) <= 0.03 * difference.size, (height, width)
        assert difference.mean() <= 0.03, (height, width)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_any_photo_size_gives_the_models_shape(height: int, width: int) -> None:
    pixels = np.full((height, width, 3), 77, dtype=np.uint8)
    found = PREPARE_32.run(None, {"pixels": pixels})[0]
    assert found.shape == (1, 3, 32, 32)
    assert np.all(found == 77)  # a uniform photo stays uniform: the weights sum to one at every edge


PREPARE_32 = ort.InferenceSession(
    write_image_prepare(short_side=36, crop=32, mean=0.0, scale=1.0).SerializeToString(),
    providers=["CPUExecutionProvider"],
)


def test_very_long_photos_do_not_grow_beyond_the_bounded_aspect() -> None:
    pixels = photo(1, 20_000)
    found = run(levels(geometry="resize-crop"), {"pixels": pixels})[0]
    middle = Image.fromarray(np.ascontiguousarray(pixels[:, 10_000 - 8 : 10_000 + 8]))
    assert np.abs(found[0].transpose(1, 2, 0) - resize_then_crop(middle, BICUBIC).astype(np.float32)).max() <= 1


def test_means_and_scales_follow_the_output_channel_order() -> None:
    pixels = np.empty((64, 64, 3), dtype=np.uint8)
    pixels[:] = (200, 100, 50)
    settings = {"mean": [10.0, 20.0, 30.0], "scale": [1.0, 0.5, 0.25]}
    rgb = run(levels(layout="NCHW", channel_order="RGB", **settings), {"pixels": pixels})[0]
    bgr = run(levels(layout="NHWC", channel_order="BGR", **settings), {"pixels": pixels})[0]
    assert rgb.shape == (1, 3, 224, 224)
    assert bgr.shape == (1, 224, 224, 3)
    assert np.unique(rgb[0].reshape(3, -1), axis=1).ravel().tolist() == [190.0, 40.0, 5.0]
    assert np.unique(bgr[0].reshape(-1, 3), axis=0).ravel().tolist() == [40.0, 40.0, 42.5]


def test_without_antialias_values_stay_whole_levels_within_range() -> None:
    found = run(levels(antialias=False, interpolation="bicubic"), {"pixels": photo(90, 120)})[0]
    assert found.min() >= 0
    assert found.max() <= 255
    assert np.array_equal(found, np.rint(found))


def test_antialias_keeps_fine_stripes_from_turning_into_false_ones() -> None:
    pixels = np.zeros((896, 896, 3), dtype=np.uint8)
    pixels[::2] = 255
    smooth = run(levels(antialias=True), {"pixels": pixels})[0]
    assert np.abs(smooth[0, :, 8:-8] - 127.5).max() <= 2


@pytest.mark.parametrize(("short_side", "crop"), [(200, 224), (256, 0)])
def test_a_crop_that_does_not_fit_is_refused(short_side: int, crop: int) -> None:
    with pytest.raises(ValueError, match="crop"):
        levels(short_side=short_side, crop=crop)


def test_two_means_are_refused() -> None:
    with pytest.raises(ValueError, match="three"):
        levels(mean=[1.0, 2.0])


def linear_model(classes: int, *, opset: int = 17) -> onnx.ModelProto:
    """logits = features, so that a test chooses the logits."""
    value = helper.make_tensor_value_info
    features = value("features", onnx.TensorProto.FLOAT, ["batch", classes])
    logits = value("logits", onnx.TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph([helper.make_node("Identity", ["features"], ["logits"])], "g", [features], [logits])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_top_k_ranks_as_numpy_does_and_keeps_the_logits() -> None:
    logits = np.random.default_rng(1).normal(size=(7, 40)).astype(np.float32) * 5
    model = append_top_k(linear_model(40), top_k=5)
    scores, indices, probabilities, kept = run(
        model, {"features": logits}, "top_scores", "top_indices", "probabilities", "logits"
    )
    wanted = np.exp(logits.astype(np.float64))
    wanted /= wanted.sum(axis=1, keepdims=True)
    assert np.array_equal(kept, logits)
    assert np.abs(probabilities - wanted).max() <= 1e-6
    assert indices.dtype == np.int64
    assert np.array_equal(indices, np.argsort(-logits, axis=1, kind="stable")[:, :5])
    assert np.array_equal(scores, np.take_along_axis(probabilities, indices, axis=1))


def test_top_k_leaves_the_given_model_alone() -> None:
    model = linear_model(8)
    before = model.SerializeToString()
    append_top_k(model, top_k=3)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (linear_model(8), {"logits": "scores"}, "no output"),
        (linear_model(8), {"top_k": 9}, "top_k"),
        (linear_model(8, opset=12), {}, "opset 13"),
    ],
)
def test_top_k_refuses_what_does_not_fit(model: onnx.ModelProto, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        append_top_k(model, **{"top_k": 3} | settings)
