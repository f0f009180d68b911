"""What flows through a graph on a package's golden inputs, and how a model is rounded by that. Needs `onnx`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from onward.runners.edge.quantized_graph import QuantizedGraph, Weights
from onward.types import Array

CLOSE = 0.09
"""How far outputs may be off on the golden inputs, as a share of their size: 0.09 is a cosine of .996."""
POWERS = (0.0, 0.5, 0.6, 0.65, 0.7, 0.8)
"""How much of the difference in size between a matrix's inputs is moved to its weights; 0: none."""
_SMALLEST = 1e-5
_MOST_TWICE = 0.5
_WORTH_IT = 0.995
_LEAST_SIZE = 0.5

Feeds = Sequence[Mapping[str, Array]]


class Golden:
    """The golden inputs of a package as its model takes them, one call each, and what the model makes of them."""

    def __init__(self, file: Path, feeds: Feeds) -> None:
        self.file = file
        self.feeds = feeds
        session = _session(str(file))
        self._outputs = [one.name for one in session.get_outputs() if one.type == "tensor(float)"]
        self._expected = [session.run(self._outputs, dict(feed)) for feed in feeds]

    def sizes(self, names: Sequence[str]) -> dict[str, Array]:
        """The largest size of each place in the last dimension of the tensors of these names."""
        model = onnx.load(str(self.file))
        graph = model.graph
        known = {value.name for value in graph.output} | {value.name for value in graph.input}
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
        session = _session(model.SerializeToString())
        largest: dict[str, Array] = {}
        for feed in self.feeds:
            asked = [name for name in names if name not in feed]
            for name, tensor in (dict(feed) | dict(zip(asked, session.run(asked, dict(feed)), strict=True))).items():
                if name in names:
                    sizes = np.abs(tensor.reshape(-1, tensor.shape[-1])).max(axis=0)
                    largest[name] = np.maximum(sizes, largest.get(name, _SMALLEST))
        return largest

    def distance(self, model: bytes) -> float:
        """How far another model's outputs are off, as a share of their size: of the output that is off most."""
        session = _session(model)
        found = [session.run(self._outputs, dict(feed)) for feed in self.feeds]
        off = [
            [_off(exact, tensor) for exact, tensor in zip(*pair, strict=True)]
            for pair in zip(self._expected, found, strict=True)
        ]
        return float(np.sqrt(np.square(off).mean(axis=0)).max())


def in_integers(graph: QuantizedGraph, golden: Golden, rest: Callable[[], None], told: Callable[[str], None]) -> bytes:
    """The model with its matrices in whole numbers, as close to the original on the golden inputs as that gets.

    How far inputs are evened out is tried. Where that is not close enough, the inputs of those matrices that gain most
    by it are rounded twice, up to half of them. `rest` rewrites what else there is.
    """
    matrices = tuple(graph.of("matrix"))
    tried = bool(golden.feeds and matrices)
    sizes = golden.sizes(sorted({one.input for one in matrices})) if tried else {}

    def written(power: float, twice: Set[str] = frozenset()) -> bytes:
        graph.clear()
        rest()
        for one in matrices:
            spread = _spread(one.input, matrices, sizes, power) if power else None
            graph.as_integers(one, spread, twice=one.output in twice)
        return graph.written()

    if not tried:
        return written(0.0)
    off = {}
    for power in POWERS:
        off[power] = golden.distance(written(power))
        told(f"inputs evened out by {power:g}: off by {off[power]:.3f}")
    power = min(off, key=lambda one: off[one])
    twice: set[str] = set()
    distance = off[power]
    if distance > CLOSE:
        alone = {one.output: golden.distance(written(power, {one.output})) for one in matrices}
        for name in sorted(alone, key=lambda one: alone[one])[: int(len(alone) * _MOST_TWICE)]:
            before, distance = distance, golden.distance(written(power, twice | {name}))
            if distance > before * _WORTH_IT:
                break
            twice.add(name)
            told(f"input of {name} rounded twice: off by {distance:.3f}")
            if distance <= CLOSE:
                break
    return written(power, twice)


def calibrated(file: Path, golden: Golden, weights: Sequence[Weights]) -> bytes:
    """The model with the ranges of all tensors fixed by the golden inputs, by onnxruntime's own tools."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(golden.feeds)

        def get_next(self) -> dict[str, Array] | None:
            feed = next(self._feeds, None)
            return None if feed is None else dict(feed)

    with tempfile.TemporaryDirectory(prefix="onward-quantize-") as place, _silence():
        model = onnx.load(str(file))
        nodes = {node.output[0]: node for node in model.graph.node}
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"node{index}"
        # Between convolutions numbers stay whole; in other models only the products themselves gain by it.
        chosen = [nodes[one.output].name for one in weights if one.kind == "matrix"]
        chosen = [] if any(one.kind == "filter" for one in weights) else chosen
        made = Path(place) / "model.onnx"
        quantize_static(
            model, str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=chosen or None,
        )  # fmt: skip
        graph = QuantizedGraph(made)
        for one in graph.of("table"):
            graph.as_rows(one)
        return graph.written()


def _spread(name: str, matrices: Sequence[Weights], sizes: Mapping[str, Array], power: float) -> Array:
    """What an input's places are divided by, about 1: more where they are large and their weights are small.

    None counts as smaller than half of the usual: what no golden input used may be large in others.
    """
    usual = float(np.median(sizes[name][sizes[name] > _SMALLEST])) if (sizes[name] > _SMALLEST).any() else 1.0
    largest = np.maximum(sizes[name], usual * _LEAST_SIZE)
    weights = np.max([np.abs(one.values).max(axis=0) for one in matrices if one.input == name], axis=0)
    spread = largest**power / np.maximum(weights, _SMALLEST) ** (1 - power)
    even: Array = (spread / np.exp(np.log(spread).mean())).astype(np.float32)
    return even


def _off(exact: Array, found: Array) -> float:
    return float(np.linalg.norm(exact - found)) / max(float(np.linalg.norm(exact)), _SMALLEST)


def _session(model: str | bytes) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def _silence() -> Iterator[None]:
    """onnxruntime's tools give advice through the root logger, which would become lines of our output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
