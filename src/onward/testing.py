"""Small real models for tests and examples: they compute, they count what they were asked, they fail when told to.

    backend = ScaleBackend(scale=2.0, offset=1.0)
    backend.run({"x": np.float32([[1.0], [2.0]])}, ["y"])     # [[3.0], [5.0]]
    pipeline = onward.open(tiny_package(folder))              # the same model, as a package

Needs nothing but what Onward needs: the ONNX file of `tiny_package` is encoded here.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onward.errors import ExecutionError, MissingInput, TooLarge, WrongDatatype
from onward.execute.backend import Admission
from onward.store.memory import MemoryStore
from onward.types import Array, CancelToken, Event, Item, TensorSpec

__all__ = ["EchoBackend", "MemoryStore", "ScaleBackend", "scale_graph", "tiny_package"]


class ScaleBackend:
    """`Batched`: y = scale·x + offset, FP32, for rows of shape `shape` (-1: free).

    Each run takes `delay_s`. A batch with a row for which `fails(row)` is true is an `ExecutionError`. `runs`, `rows`
    and `largest_batch` count what was asked, failures too; `run` may be called from several threads.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        offset: float = 0.0,
        shape: tuple[int, ...] = (-1,),
        delay_s: float = 0.0,
        fails: Callable[[Array], bool] | None = None,
    ) -> None:
        self.scale = scale
        self.offset = offset
        self.delay_s = delay_s
        self.fails = fails
        self.runs = 0
        self.rows = 0
        self.largest_batch = 0
        self.closed = False
        self._counting = threading.Lock()
        self._inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, *shape)),)
        self._outputs = (TensorSpec(name="y", datatype="FP32", shape=(-1, *shape)),)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensor `x`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensor `y`."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """One batch. Raises `ExecutionError` for a row it was told to fail on, or a name it does not know."""
        if self.closed:
            raise ExecutionError("the backend is closed")
        if feeds.keys() != {"x"} or set(fetches) - {"y"}:
            raise ExecutionError("takes x and gives y", found=f"{sorted(feeds)} and {list(fetches)}")
        x = feeds["x"]
        with self._counting:
            self.runs += 1
            self.rows += len(x)
            self.largest_batch = max(self.largest_batch, len(x))
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.fails is not None:
            for index, row in enumerate(x):
                if self.fails(row):
                    raise ExecutionError(f"told to fail on row {index} of this batch")
        y = (x * np.float32(self.scale) + np.float32(self.offset)).astype(np.float32)
        return [y for _ in fetches]

    def close(self) -> None:
        """Later runs are an `ExecutionError`."""
        self.closed = True


class EchoBackend:
    """`Streaming`: gives the words of `item["text"]` back, one delta event a word, each after `delay_s`.

    A token is a word. The end event's attributes say how many there were (`prompt_tokens`, `tokens`) and why it ended
    (`finish`: stop or cancel). `admitted`, `streamed` and `cancelled` count requests, tokens and cancelled requests.
    """

    def __init__(self, *, delay_s: float = 0.0, max_tokens: int = 8192) -> None:
        self.delay_s = delay_s
        self.max_tokens = max_tokens
        self.admitted = 0
        self.streamed = 0
        self.cancelled = 0
        self.closed = False
        self._counting = threading.Lock()

    def admit(self, item: Item) -> Admission:
        """The item's cost. Raises `MissingInput`, `WrongDatatype` or `TooLarge`."""
        tokens = len(self._words(item))
        if tokens > self.max_tokens:
            raise TooLarge(where="text", expected=f"at most {self.max_tokens} tokens", found=f"{tokens} tokens")
        with self._counting:
            self.admitted += 1
        return Admission(prompt_tokens=tokens, max_new_tokens=tokens)

    def stream(self, item: Item, cancel: CancelToken) -> Iterator[Event]:
        """The words, then the end; after `cancel` no further word."""
        if self.closed:
            raise ExecutionError("the backend is closed")
        words = self._words(item)
        given = 0
        for word in words:
            if self.delay_s and not cancel.cancelled:
                time.sleep(self.delay_s)
            if cancel.cancelled:
                break
            given += 1
            with self._counting:
                self.streamed += 1
            yield Event(kind="delta", text=word if given == len(words) else f"{word} ")
        finish = "stop" if given == len(words) else "cancel"
        if finish == "cancel":
            with self._counting:
                self.cancelled += 1
        yield Event(kind="end", attributes={"prompt_tokens": len(words), "tokens": given, "finish": finish})

    def close(self) -> None:
        """Later streams are an `ExecutionError`."""
        self.closed = True

    def _words(self, item: Item) -> list[str]:
        if "text" not in item:
            raise MissingInput(where="text", expected="a text")
        text = item["text"]
        if not isinstance(text, str):
            raise WrongDatatype(where="text", expected="a text", found=type(text).__name__)
        return text.split()


_TINY_MANIFEST = """\
format = 1

[package]
name = "{name}"
version = "{version}"
task = "tensor"
licence = "Apache-2.0"
description = "Scales and shifts: y = {scale:g}·x + {offset:g}."

[[input]]
name = "x"
datatype = "FP32"
shape = [{features}]

[[output]]
name = "y"
datatype = "FP32"
shape = [{features}]

[execute]
backend = "onnx"
file = "model.onnx"

[batching]
max_batch_size = {max_batch_size}
"""


def tiny_package(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    scale: float = 2.0,
    offset: float = 1.0,
    features: int = 3,
    max_batch_size: int = 32,
    lock: bool = True,
) -> Path:
    """Write a small whole package into `folder` (made if missing): y = scale·x + offset over `features` numbers.

    With `lock`, `onward.lock` too, so that it can be opened. Returns the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _TINY_MANIFEST.format(
        name=name, version=version, scale=scale, offset=offset, features=features, max_batch_size=max_batch_size
    )
    (folder / "onward.toml").write_text(manifest, encoding="utf-8")
    (folder / "model.onnx").write_bytes(scale_graph(scale=scale, offset=offset, features=features))
    x = [float(index) for index in range(features)]
    example = {"name": "counting", "input": {"x": x}, "tensors": {"y": [[scale * value + offset for value in x]]}}
    (folder / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    if lock:
        from onward.package.assembly import assemble

        assemble(folder)
    return folder


def scale_graph(*, scale: float, offset: float, features: int) -> bytes:
    """An ONNX model file (IR 8, opset 17): y = scale·x + offset, FP32, x and y of shape (batch, features)."""
    graph = b"".join(
        (
            _bytes(1, _node("Mul", ("x", "scale"), "scaled")),
            _bytes(1, _node("Add", ("scaled", "offset"), "y")),
            _bytes(2, b"scale"),  # the graph's name
            _bytes(5, _constant("scale", scale)),
            _bytes(5, _constant("offset", offset)),
            _bytes(11, _value("x", features)),
            _bytes(12, _value("y", features)),
        )
    )
    return _varint_field(1, 8) + _bytes(2, b"onward") + _bytes(7, graph) + _bytes(8, _varint_field(2, 17))


# What follows writes protocol buffers by hand; the field numbers are those of onnx.proto.


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    names = b"".join(_bytes(1, name.encode()) for name in inputs)
    return names + _bytes(2, output.encode()) + _bytes(4, operator.encode())


def _constant(name: str, value: float) -> bytes:
    return _varint_field(2, 1) + _bytes(8, name.encode()) + _bytes(9, struct.pack("<f", value))


def _value(name: str, features: int) -> bytes:
    shape = _bytes(1, _bytes(2, b"batch")) + _bytes(1, _varint_field(1, features))
    tensor_type = _varint_field(1, 1) + _bytes(2, shape)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor_type))


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint_field(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
