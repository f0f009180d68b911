"""Writes the graphs around an image classifier: pixels → the model's input, and logits → the best classes.

`write_image_prepare` writes crop, resize and normalise as one ONNX graph, so that every runner executes the same
operators. The resize stays in UINT8: onnxruntime then sums fixed-point weights as Pillow does, and the result
hardly depends on the processor (FP32 resizing differs in the last bits from one to the next). This module knows no
model and decodes no files. `onnx` is imported when a graph is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from onward.package.importers.graph import GraphWriter, tensor

if TYPE_CHECKING:
    import onnx

Geometry = Literal["crop-resize", "resize-crop", "stretch-crop"]
Interpolation = Literal["bicubic", "bilinear"]
Layout = Literal["NCHW", "NHWC"]
ChannelOrder = Literal["RGB", "BGR"]

#: The first opset whose Resize can antialias.
OPSET = 18
#: Numbers of `onnx.TensorProto`, which are stable.
FLOAT, INT64 = 1, 7
#: Pillow's cubic: a = -0.5 (OpenCV and PyTorch use -0.75).
CUBIC_COEFFICIENT = -0.5
#: Longest side per short side that `resize-crop` resizes; what lies beyond the centre would be cropped away anyway.
LONGEST_ASPECT = 16


def write_image_prepare(
    *,
    short_side: int,
    crop: int,
    mean: float | Sequence[float],
    scale: float | Sequence[float],
    interpolation: Interpolation = "bicubic",
    layout: Layout = "NCHW",
    channel_order: ChannelOrder = "RGB",
    antialias: bool = True,
    geometry: Geometry = "crop-resize",
    output: str = "image",
) -> onnx.ModelProto:
    """Write the graph `pixels` UINT8 [height, width, 3] RGB → `output` FP32 [1, 3, crop, crop] or [1, crop, crop, 3].

    `mean` and `scale` are in units of 0..255 and in the channel order of the output, which is (pixel - mean) * scale.

    geometry, for a photo of any size down to one pixel:
    - crop-resize: cut the centre square of side `min(height, width) * crop // short_side`, then resize it to `crop`.
      The cheapest, since only what is kept is resized; with antialias the same as Pillow's `crop` and `resize`.
    - resize-crop: resize the short side to `short_side`, then cut the centre, as torchvision does.
    - stretch-crop: resize both sides to `short_side`, whatever the aspect, then cut the centre. onnxruntime fails on
      sides beyond some ten million pixels.

    With `antialias` the filter widens with the factor of reduction, as Pillow's does; without, it is sampled between
    neighbours, as OpenCV's is. Raises ValueError for sizes that do not fit each other.
    """
    if not 0 < crop <= short_side:
        raise ValueError(f"crop must lie between 1 and short_side = {short_side}, not {crop}")
    writer = GraphWriter("image_prepare", opset=OPSET)
    writer.reserve("pixels")
    pixels = "pixels"
    if geometry == "crop-resize":
        square = _centre_square(writer, pixels, short_side=short_side, crop=crop)
        sizes = writer.ints("sizes", 1, 3, crop, crop)
        image = _resize(writer, square, sizes, interpolation, antialias=antialias)
    elif geometry == "stretch-crop":
        sizes = writer.ints("sizes", 1, 3, short_side, short_side)
        image = _resize(writer, pixels, sizes, interpolation, antialias=antialias)
        image = _cut_centre(writer, image, crop=crop)
    elif geometry == "resize-crop":
        bounded = _bound_aspect(writer, pixels)
        sizes = _sizes_by_short_side(writer, bounded, short_side=short_side)
        image = _resize(writer, bounded, sizes, interpolation, antialias=antialias)
        image = _cut_centre(writer, image, crop=crop)
    else:
        raise ValueError(f"unknown geometry {geometry!r}")
    _normalise(writer, image, mean, scale, layout=layout, channel_order=channel_order, output=output)
    shape = [1, 3, crop, crop] if layout == "NCHW" else [1, crop, crop, 3]
    return writer.model(
        [tensor("pixels", np.uint8, ["height", "width", 3])],
        [tensor(output, np.float32, shape)],
        metadata={
            "onward.prepare": f"{geometry} {short_side}/{crop}, {interpolation}, antialias={antialias}, {channel_order}"
        },
    )


def append_top_k(
    model: onnx.ModelProto,
    *,
    top_k: int = 5,
    logits: str = "logits",
    softmax: bool = True,
    probabilities: str = "probabilities",
) -> onnx.ModelProto:
    """Return the model with softmax and top-k behind its output `logits` FP32 [batch, classes].

    Adds the outputs `top_scores` FP32 [batch, top_k] (sorted, the largest first), `top_indices` INT64 [batch, top_k]
    and, with `softmax`, `probabilities` FP32 [batch, classes]; the old outputs stay. Without `softmax` the scores are
    ranked as they are. Raises ValueError when the model has no such output or an opset below 13, whose softmax
    means something else.
    """
    import onnx
    from onnx import helper, numpy_helper

    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    graph = extended.graph
    found = next((value for value in graph.output if value.name == logits), None)
    opset = next((entry.version for entry in extended.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if found is None:
        raise ValueError(f"the model has no output {logits!r}")
    if opset < 13:
        raise ValueError(f"softmax over the classes needs opset 13, the model has {opset}")
    dims = found.type.tensor_type.shape.dim
    batch, classes = dims[0].dim_param or "batch", dims[1].dim_value
    if not 0 < top_k <= classes:
        raise ValueError(f"top_k must lie between 1 and the {classes} classes, not {top_k}")
    ranked = logits
    if softmax:
        ranked = probabilities
        graph.node.append(helper.make_node("Softmax", [logits], [probabilities], name=probabilities, axis=1))
        graph.output.append(tensor(probabilities, np.float32, [batch, classes]))
    graph.initializer.append(numpy_helper.from_array(np.array([top_k], dtype=np.int64), "top_k"))
    names = ["top_scores", "top_indices"]
    graph.node.append(helper.make_node("TopK", [ranked, "top_k"], names, name="top", axis=1, largest=1, sorted=1))
    graph.output.append(tensor("top_scores", np.float32, [batch, top_k]))
    graph.output.append(tensor("top_indices", np.int64, [batch, top_k]))
    onnx.checker.check_model(extended, full_check=True)
    return extended


def _height_width(writer: GraphWriter, pixels: str) -> tuple[str, str]:
    size = writer.add("Shape", [pixels], "height_width", end=2)  # (2,)
    short = writer.add("ReduceMin", [size, writer.ints("first_axis", 0)], "short", keepdims=1)  # (1,)
    return size, short


def _cut(writer: GraphWriter, pixels: str, size: str, kept: str) -> str:
    """Cut `kept` pixels out of the middle of each of the first two axes; an odd rest leaves one more before."""
    rest = writer.add("Sub", [size, kept], "rest")
    rounded = writer.add("Add", [rest, writer.ints("one", 1)], "rest_rounded")
    start = writer.add("Div", [rounded, writer.ints("two", 2)], "start")
    end = writer.add("Add", [start, kept], "end")
    return writer.add("Slice", [pixels, start, end, writer.ints("height_width_axes", 0, 1)], "cut")


def _centre_square(writer: GraphWriter, pixels: str, *, short_side: int, crop: int) -> str:
    size, short = _height_width(writer, pixels)
    scaled = writer.add("Mul", [short, writer.ints("crop", crop)], "side_scaled")
    side = writer.add("Div", [scaled, writer.ints("short_side", short_side)], "side_floor")
    side = writer.add("Max", [side, writer.ints("at_least", 1)], "side")
    return _cut(writer, pixels, size, side)


def _bound_aspect(writer: GraphWriter, pixels: str) -> str:
    """Keep the middle of very long photos: else one of 1 x 100,000 pixels would grow to billions."""
    size, short = _height_width(writer, pixels)
    longest = writer.add("Mul", [short, writer.ints("longest_aspect", LONGEST_ASPECT)], "longest")
    return _cut(writer, pixels, size, writer.add("Min", [size, longest], "kept"))


def _sizes_by_short_side(writer: GraphWriter, pixels: str, *, short_side: int) -> str:
    size, short = _height_width(writer, pixels)
    scaled = writer.add("Mul", [size, writer.ints("short_side", short_side)], "size_scaled")
    resized = writer.add("Div", [scaled, short], "resized")
    return writer.add("Concat", [writer.ints("batch_channels", 1, 3), resized], "sizes", axis=0)


def _resize(writer: GraphWriter, pixels: str, sizes: str, interpolation: Interpolation, *, antialias: bool) -> str:
    """[height, width, 3] → UINT8-valued [1, 3, …] of the given sizes."""
    # Planes first: on large photos the antialiased cubic is about 1.5 times as fast on planes as on interleaved pixels.
    planes = writer.add("Transpose", [pixels], "planes", perm=[2, 0, 1])
    image = writer.add("Unsqueeze", [planes, writer.ints("batch_axis", 0)], "planes_batch")
    mode = {"bicubic": "cubic", "bilinear": "linear"}[interpolation]
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    if interpolation == "bicubic":
        attributes["cubic_coeff_a"] = CUBIC_COEFFICIENT
    if antialias:
        # exclude_outside: weights beyond the edge are dropped and the rest made to sum to one, as Pillow does.
        attributes |= {"antialias": 1, "exclude_outside": 1}
        return writer.add("Resize", [image, "", "", sizes], "resized_image", **attributes)
    floats = writer.add("Cast", [image], "floats", to=FLOAT)  # onnxruntime has no UINT8 cubic without antialias
    resized = writer.add("Resize", [floats, "", "", sizes], "resized_image", **attributes)
    rounded = writer.add("Round", [resized], "rounded")
    limits = [writer.constant(name, np.array(level, np.float32)) for name, level in (("black", 0), ("white", 255))]
    return writer.add("Clip", [rounded, *limits], "clipped")


def _cut_centre(writer: GraphWriter, image: str, *, crop: int) -> str:
    """[1, 3, height, width] → [1, 3, crop, crop]; an odd rest is halved to the even side, as torchvision rounds."""
    size = writer.add("Shape", [image], "resized_size", start=2)
    rest = writer.add("Sub", [size, writer.ints("crop", crop)], "crop_rest")
    rest_float = writer.add("Cast", [rest], "rest_float", to=FLOAT)
    half = writer.add("Mul", [rest_float, writer.constant("half", np.array(0.5, np.float32))], "half_rest")
    start = writer.add("Cast", [writer.add("Round", [half], "half_rounded")], "crop_start", to=INT64)
    end = writer.add("Add", [start, writer.ints("crop", crop)], "crop_end")
    return writer.add("Slice", [image, start, end, writer.ints("plane_axes", 2, 3)], "centre")


def _normalise(
    writer: GraphWriter,
    image: str,
    mean: float | Sequence[float],
    scale: float | Sequence[float],
    *,
    layout: Layout,
    channel_order: ChannelOrder,
    output: str,
) -> None:
    """UINT8-valued [1, 3, crop, crop] RGB → (pixel - mean) * scale in the wanted order and layout."""
    if channel_order == "BGR":
        image = writer.add("Gather", [image, writer.ints("bgr", 2, 1, 0)], "bgr_image", axis=1)
    if layout == "NHWC":
        image = writer.add("Transpose", [image], "interleaved", perm=[0, 2, 3, 1])
    floats = writer.add("Cast", [image], "pixel_values", to=FLOAT)
    centred = writer.add("Sub", [floats, writer.constant("mean", _per_channel(mean, layout))], "centred")
    writer.output("Mul", [centred, writer.constant("scale", _per_channel(scale, layout))], output)


def _per_channel(value: float | Sequence[float], layout: Layout) -> npt.NDArray[np.float32]:
    values = np.asarray(value, dtype=np.float32)
    if values.ndim == 0:
        return values
    if values.shape != (3,):
        raise ValueError(f"expected one value or three, found {len(values)}")
    return values.reshape(3, 1, 1) if layout == "NCHW" else values
