"""Writes the ONNX graph of EfficientNet-lite from a PyTorch state dict, without PyTorch.

Batch norms are folded into the convolutions in double precision, so that the graph is convolutions, clips and sums.
Padding is TensorFlow's SAME, as the original's: more at the end than at the start where the sum is odd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onward.package.importers.graph import Array, GraphWriter, UnsupportedModel, Weights, tensor

if TYPE_CHECKING:
    import onnx

BATCH_NORM_EPSILON = 1e-3
STEM_FILTERS = 32
HEAD_FILTERS = 1280
FILTER_DIVISOR = 8


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Scaling of one model of the family."""

    width: float
    depth: float
    side: int


VARIANTS = {
    "lite0": Variant(width=1.0, depth=1.0, side=224),
    "lite1": Variant(width=1.0, depth=1.1, side=240),
    "lite2": Variant(width=1.1, depth=1.2, side=260),
    "lite3": Variant(width=1.2, depth=1.4, side=280),
    "lite4": Variant(width=1.4, depth=1.8, side=300),
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One inverted bottleneck: expand by a 1x1, filter depthwise by a kernel, project by a 1x1."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    filters_in: int
    filters_out: int


STAGES = (
    Block(repeats=1, kernel=3, stride=1, expansion=1, filters_in=32, filters_out=16),
    Block(repeats=2, kernel=3, stride=2, expansion=6, filters_in=16, filters_out=24),
    Block(repeats=2, kernel=5, stride=2, expansion=6, filters_in=24, filters_out=40),
    Block(repeats=3, kernel=3, stride=2, expansion=6, filters_in=40, filters_out=80),
    Block(repeats=3, kernel=5, stride=1, expansion=6, filters_in=80, filters_out=112),
    Block(repeats=4, kernel=5, stride=2, expansion=6, filters_in=112, filters_out=192),
    Block(repeats=1, kernel=3, stride=1, expansion=6, filters_in=192, filters_out=320),
)


def write_efficientnet_lite(
    state_dict: Mapping[str, Array], variant: str = "lite0", num_classes: int = 1000
) -> onnx.ModelProto:
    """Write the model as ONNX: FP32 `input` [batch, 3, side, side] to FP32 `logits` [batch, num_classes].

    Pixels are scaled to (value - 127) / 128 and stand in the order red, green, blue.
    Raises UnsupportedModel when a weight is missing, of another shape, or left over.
    """
    if variant not in VARIANTS:
        raise UnsupportedModel("unknown variant", where="variant", expected=", ".join(VARIANTS), found=repr(variant))
    writer = _Writer(Weights(state_dict), side=VARIANTS[variant].side)
    return writer.write(VARIANTS[variant], variant, num_classes)


def blocks(variant: Variant) -> Iterator[Block]:
    """The blocks of a variant one by one, each with `repeats` 1; the two outer stages keep their depth."""
    for index, stage in enumerate(STAGES):
        outer = index in (0, len(STAGES) - 1)
        repeats = stage.repeats if outer else math.ceil(stage.repeats * variant.depth)
        filters_in = STEM_FILTERS if index == 0 else scaled_filters(stage.filters_in, variant.width)
        filters_out = scaled_filters(stage.filters_out, variant.width)
        first = replace(stage, repeats=1, filters_in=filters_in, filters_out=filters_out)
        yield first
        for _ in range(repeats - 1):
            yield replace(first, filters_in=filters_out, stride=1)


def scaled_filters(filters: int, width: float) -> int:
    """Filters after widening: the nearest multiple of 8, and never more than a tenth below the exact number."""
    exact = filters * width
    rounded = max(FILTER_DIVISOR, int(exact + FILTER_DIVISOR / 2) // FILTER_DIVISOR * FILTER_DIVISOR)
    return rounded + FILTER_DIVISOR if rounded < 0.9 * exact else rounded


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Padding before and after, so that `ceil(side / stride)` outputs fit."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class _Writer:
    """One pass over the architecture. Activations are [batch, channels, side, side]."""

    def __init__(self, weights: Weights, *, side: int) -> None:
        self.weights = weights
        self.side = side
        self.graph = GraphWriter("efficientnet_lite")
        self.graph.reserve("input")
        # scalars shared by every clip
        self.low = self.graph.constant("relu6.low", np.array(0, np.float32))
        self.high = self.graph.constant("relu6.high", np.array(6, np.float32))

    def write(self, variant: Variant, name: str, num_classes: int) -> onnx.ModelProto:
        graph = self.graph
        values = self.relu6(self.convolve("input", "_conv_stem", "_bn0", 3, STEM_FILTERS, kernel=3, stride=2))
        filters = STEM_FILTERS
        for index, block in enumerate(blocks(variant)):
            values = self.block(values, block, f"_blocks.{index}.")
            filters = block.filters_out
        values = self.relu6(self.convolve(values, "_conv_head", "_bn1", filters, HEAD_FILTERS, kernel=1))
        pooled = graph.add("GlobalAveragePool", [values], "pooled")
        flat = graph.add("Flatten", [pooled], "features", axis=1)  # [batch, 1280]
        weight = graph.constant("_fc.weight", self.weights.take("_fc.weight", num_classes, HEAD_FILTERS))
        offset = graph.constant("_fc.bias", self.weights.take("_fc.bias", num_classes))
        graph.output("Gemm", [flat, weight, offset], "logits", transB=1)
        left = [each for each in self.weights.unused() if not each.endswith("num_batches_tracked")]
        if left:
            raise UnsupportedModel(f"{len(left)} weights belong to no {name} layer", where=left[0])
        side = VARIANTS[name].side
        inputs = [tensor("input", np.float32, ["batch", 3, side, side])]
        outputs = [tensor("logits", np.float32, ["batch", num_classes])]
        return graph.model(inputs, outputs, metadata={"architecture": f"efficientnet-{name}"})

    def block(self, values: str, block: Block, prefix: str) -> str:
        inner = block.filters_in * block.expansion
        filtered = values
        if block.expansion != 1:
            expand = self.convolve(values, f"{prefix}_expand_conv", f"{prefix}_bn0", block.filters_in, inner, kernel=1)
            filtered = self.relu6(expand)
        deep = self.convolve(
            filtered, f"{prefix}_depthwise_conv", f"{prefix}_bn1", 1, inner,
            kernel=block.kernel, stride=block.stride, group=inner,
        )  # fmt: skip
        projected = self.convolve(
            self.relu6(deep), f"{prefix}_project_conv", f"{prefix}_bn2", inner, block.filters_out, kernel=1
        )
        if block.stride == 1 and block.filters_in == block.filters_out:
            return self.graph.add("Add", [projected, values], f"{prefix}sum")
        return projected

    def convolve(
        self, values: str, name: str, norm: str, inner: int, outer: int, *, kernel: int, stride: int = 1, group: int = 1
    ) -> str:
        """A convolution with its batch norm folded in; follows the side of the picture through the strides."""
        weight, offset = self.folded(name, norm, (outer, inner, kernel, kernel))
        before, after = same_padding(self.side, kernel, stride)
        self.side = math.ceil(self.side / stride)
        inputs = [values, self.graph.constant(f"{name}.weight", weight), self.graph.constant(f"{name}.bias", offset)]
        return self.graph.add(
            "Conv", inputs, name, kernel_shape=[kernel, kernel], strides=[stride, stride], group=group,
            pads=[before, before, after, after],
        )  # fmt: skip

    def folded(self, name: str, norm: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Weight and bias that do what the convolution and then the batch norm did."""
        weight = self.weights.take(f"{name}.weight", *shape).astype(np.float64)
        scale, offset, mean, variance = (
            self.weights.take(f"{norm}.{part}", shape[0]).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        if np.any(variance < 0):
            raise UnsupportedModel("a batch norm's variance is negative", where=f"{norm}.running_var")
        factor = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
        folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        return folded.astype(np.float32), (offset - mean * factor).astype(np.float32)

    def relu6(self, values: str) -> str:
        return self.graph.add("Clip", [values, self.low, self.high], f"{values}.relu6")
