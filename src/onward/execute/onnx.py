"""ONNX graphs on onnxruntime, as a `Batched` backend.

Knows nothing of packages: it is given a file. onnxruntime frees the GIL while it runs and keeps no state between runs,
so one session may serve several threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onward.errors import ExecutionError, MissingExtra, RefusedGraph, WrongDatatype
from onward.package.tensors import DATATYPE_OF_ONNX
from onward.types import Array, TensorSpec

_SWITCH = ".wanted"
_TRUE = np.array(True)
_PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def tensor_spec(node: Any) -> TensorSpec:
    """The signature of one graph input or output, symbolic dimensions as -1."""
    datatype = DATATYPE_OF_ONNX.get(node.type)
    if datatype is None:
        raise RefusedGraph(
            f"tensor {node.name!r} has type {node.type}", expected="a tensor with an Open Inference Protocol datatype"
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape or ())
    return TensorSpec(name=node.name, datatype=datatype, shape=shape)


class OnnxBackend:
    """One onnxruntime session. `threads` is the size of its intra-op pool; 0 takes all cores.

    More than one is used only inside operators that are large enough to gain by it, so all cores is the right default.
    """

    def __init__(self, file: Path, *, threads: int = 0, providers: Sequence[str] = ("cpu",)) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, and said once by us
        # A pool that spins between runs takes the core that the HTTP loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(file), options, providers=_provider_names(providers))
        except Exception as error:  # onnxruntime raises its own classes, derived from Exception
            raise RefusedGraph(f"{file.name} could not be loaded: {_first_line(error)}") from error
        self.file = file
        self._run = self._session.run
        self._inputs = tuple(tensor_spec(node) for node in self._session.get_inputs())
        self._outputs = tuple(tensor_spec(node) for node in self._session.get_outputs())
        self._has_text = any(spec.datatype == "BYTES" for spec in (*self._inputs, *self._outputs))
        # An output that costs and that few ask for has a switch: an input `NAME.wanted` with the default false.
        switches = (node.name for node in self._session.get_overridable_initializers())
        self._switches = {name.removesuffix(_SWITCH): name for name in switches if name.endswith(_SWITCH)}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The graph's inputs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The graph's outputs."""
        return self._outputs

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, first choice first."""
        return tuple(self._session.get_providers())

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """One forward pass; a failure inside the graph is an `ExecutionError`.

        BYTES are `bytes` on both sides; a graph's strings are UTF-8, so others raise `WrongDatatype`.
        """
        if self._has_text:
            feeds = {
                name: _to_text(name, tensor) if tensor.dtype == object else tensor for name, tensor in feeds.items()
            }
        if self._switches:
            wanted = (self._switches[name] for name in fetches if name in self._switches)
            feeds = {**feeds, **dict.fromkeys(wanted, _TRUE)}
        try:
            outputs: list[Array] = self._run(fetches, feeds)
        except Exception as error:
            raise ExecutionError(_first_line(error)) from error
        if self._has_text:
            return [_to_bytes(output) if output.dtype == object else output for output in outputs]
        return outputs

    def close(self) -> None:
        """Nothing to do: the session is freed with the object."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _to_text(name: str, tensor: Array) -> Array:
    """onnxruntime takes `str`; of `bytes` it would take the Python source."""
    texts = np.empty(tensor.size, dtype=object)
    for index, value in enumerate(tensor.ravel().tolist()):
        try:
            texts[index] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            raise WrongDatatype(where=name, expected="text in UTF-8", found=repr(value[:40])) from None
    return texts.reshape(tensor.shape)


def _to_bytes(tensor: Array) -> Array:
    values = np.empty(tensor.size, dtype=object)
    values[:] = [value.encode() if isinstance(value, str) else value for value in tensor.ravel().tolist()]
    return values.reshape(tensor.shape)


def _provider_names(providers: Sequence[str]) -> list[str]:
    available = set(ort.get_available_providers())
    names = []
    for provider in providers:
        name = _PROVIDERS.get(provider, provider)
        if name not in available:
            raise MissingExtra(
                f"execution provider {provider!r} is not in this onnxruntime build",
                expected=", ".join(sorted(key for key, value in _PROVIDERS.items() if value in available)),
            )
        names.append(name)
    return names


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
