"""Open Inference Protocol V2 over REST, the way out: rows to bodies, as JSON and with the binary tensor extension.

Specification and knowledge as in `onward.runners.serve.oip`, which reads the bodies that come in.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from onward.types import Array, TensorSpec

_encode = msgspec.json.Encoder().encode


class InferEncoder:
    """Writes infer responses of one model version."""

    def __init__(self, name: str, version: str, outputs: Sequence[TensorSpec]) -> None:
        self._head = b'{"model_name":%b,"model_version":%b,' % (_encode(name), _encode(version))
        self._name = name
        self._version = version
        self._specs = {spec.name: spec for spec in outputs}
        self._parts = {spec.name: _json_parts(spec) for spec in outputs}

    def encode_rows(
        self, request_id: str, names: Sequence[str], rows: int, values: Sequence[list[Any]]
    ) -> bytes | None:
        """The short way: each output's rows as one flat list. None when an output has free dimensions."""
        body = [self._head]
        if request_id:
            body.append(b'"id":%b,' % _encode(request_id))
        separator = b'"outputs":['
        for name, value in zip(names, values, strict=True):
            parts = self._parts[name]
            if parts is None:
                return None
            body.append(b"%b%b%d%b%b}" % (separator, parts[0], rows, parts[1], _encode(value)))
            separator = b","
        body.append(b"]}")
        return b"".join(body)

    def encode(
        self, request_id: str, tensors: Mapping[str, Array], binary: frozenset[str] | bool
    ) -> tuple[bytes, int | None]:
        """The body, and the length of its JSON part when binary tensors follow."""
        outputs: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for name, array in tensors.items():
            output: dict[str, Any] = {
                "name": name, "datatype": self._specs[name].datatype, "shape": list(array.shape),
            }  # fmt: skip
            if binary is True or (binary and name in binary):
                blob = _bytes_of_array(array)
                output["parameters"] = {"binary_data_size": len(blob)}
                blobs.append(blob)
            else:
                output["data"] = json_values(array)
            outputs.append(output)
        response: dict[str, Any] = {"model_name": self._name, "model_version": self._version}
        if request_id:
            response["id"] = request_id
        header = _encode(response | {"outputs": outputs})
        if not blobs:
            return header, None
        return b"".join([header, *blobs]), len(header)


def json_values(array: Array) -> list[Any]:
    """A tensor as the flat list that V2 JSON carries; BYTES as text."""
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind == "O":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    return values


def _json_parts(spec: TensorSpec) -> tuple[bytes, bytes] | None:
    if -1 in spec.shape[1:] or spec.datatype == "BYTES":
        return None
    tail = "".join(f",{size}" for size in spec.shape[1:])
    head = b'{"name":%b,"datatype":"%b","shape":[' % (_encode(spec.name), spec.datatype.encode())
    return head, f'{tail}],"data":'.encode()


def _bytes_of_array(array: Array) -> bytes:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        data = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(data)), data]
    return b"".join(parts)
