"""ONNX graphs on onnxruntime, as a `Batched` backend.

Knows nothing of packages: it is given a file. onnxruntime frees the GIL while it runs and keeps no state between runs,
so one session may serve several threads.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from onward.errors import ExecutionError, MissingProvider, RefusedGraph, WrongDatatype
from onward.execute.cores import cores as cores
from onward.execute.shared_weights import as_it_is, hold
from onward.package.tensors import DATATYPE_OF_ONNX
from onward.types import Array, TensorSpec

_SWITCH = ".wanted"
_TRUE = np.array(True)
_log = logging.getLogger("onward.execute")
_PROVIDER = "ExecutionProvider"
_CPU = "CPUExecutionProvider"
_REMOTE = "azure"  # onnxruntime's way to models elsewhere, which are not the package's


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
    `providers` are execution providers by preference; those that this machine lacks are passed over. Raises
    `MissingProvider` where it has none of them.
    """

    def __init__(self, file: Path, *, threads: int = 0, providers: Sequence[str] = ("cpu",)) -> None:
        names = _provider_names(providers)
        options = partial(_options, threads or cores())
        self._weights = hold(file, options) if names == [_CPU] else None
        try:
            if self._weights is None:
                self._session = ort.InferenceSession(str(file), options(), providers=names)
            else:
                self._session = ort.InferenceSession(str(self._weights.file), as_it_is(options()), providers=names)
        except Exception as error:  # onnxruntime raises its own classes, derived from Exception
            self.close()
            raise RefusedGraph(f"{file.name} could not be loaded: {_first_line(error)}") from error
        self._providers = _in_use(providers, self._session.get_providers())
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
        """The execution providers in use by the manifest's names, first choice first."""
        return self._providers

    def following(self, names: Collection[str]) -> frozenset[str]:
        """The outputs whose second dimension is, by its name in the graph, that of one of the inputs `names`."""
        lengths = {node.shape[1] for node in self._session.get_inputs() if node.name in names and len(node.shape) > 1}
        outputs = (node for node in self._session.get_outputs() if len(node.shape or ()) > 1)
        return frozenset(node.name for node in outputs if isinstance(node.shape[1], str) and node.shape[1] in lengths)

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
        """The session is freed with the object; weights that it shares are not held any more."""
        if self._weights is not None:
            self._weights.close()


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what fails is raised, and said once by us
    # A pool that spins between runs takes the core that the HTTP loop needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


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


def available_providers() -> tuple[str, ...]:
    """The execution providers that this machine's onnxruntime was built with, by the manifest's names."""
    return tuple(name for name in map(_short, ort.get_available_providers()) if name != _REMOTE)


def _provider_names(providers: Sequence[str]) -> list[str]:
    available = available_providers()
    chosen = [name for name in map(_short, providers) if name in available]
    if not chosen:
        raise MissingProvider(
            where="execute.providers", expected=f"one of {', '.join(available)}", found=", ".join(providers)
        )
    if "cuda" in chosen:
        ort.preload_dlls()  # CUDA's libraries may have come as packages of Python, where no loader looks
    names = {_short(name): name for name in ort.get_available_providers()}
    return [names[name] for name in chosen]


def _in_use(wanted: Sequence[str], got: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted providers that the session has: one that is built in may still find no device.

    onnxruntime then goes on with the processor, which is right only where the manifest says so.
    """
    running = list(map(_short, got))
    used = tuple(name for name in map(_short, wanted) if name in running)
    if not used:
        raise MissingProvider(
            "the execution provider found no device, or not its libraries", where="execute.providers",
            expected=", ".join(wanted), found=", ".join(running),
        )  # fmt: skip
    passed_over = [name for name in map(_short, wanted) if name not in used]
    if passed_over:
        _log.info("execution providers not on this machine: %s; in use: %s", ", ".join(passed_over), ", ".join(used))
    return used


def _short(name: str) -> str:
    """A provider by the manifest's name: `cuda` for onnxruntime's `CUDAExecutionProvider`."""
    return name.removesuffix(_PROVIDER).lower()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
