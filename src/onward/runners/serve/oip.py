"""Open Inference Protocol V2 over REST: bodies to rows, from JSON and the binary tensor extension.

Specification: kserve.github.io "Open Inference Protocol"; the binary extension is the one of Triton's HTTP API
(`binary_data_size`, `Inference-Header-Content-Length`; BYTES as 4-byte little-endian lengths with their bytes).
Knows nothing of sockets or queues. A request for the model's own tensors with plain lists takes the short way through
one typed decoder; everything else, and every error, goes through the general one.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from onward.errors import (
    MalformedBody,
    MissingInput,
    OutOfRange,
    TooLarge,
    UnknownInput,
    UnknownOutput,
    WrongDatatype,
    WrongShape,
)
from onward.execute.batch import Column, of_lists
from onward.execute.scheduler import HIGH, LOW, PRIORITIES
from onward.types import Array, TensorSpec

# From so many numbers on they are packed while they are in the cache; fewer are packed for a whole batch together.
_PACKED_FROM = 128
_MAX_LAYOUTS = 64
_MAX_LAYOUT_BYTES = 4096
_JSON_TYPE = {"f": float, "i": int, "u": int, "b": bool, "O": str}


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class _Input(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None


class _Request(msgspec.Struct, gc=False):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] | None = None
    parameters: dict[str, Any] | None = None


_general = msgspec.json.Decoder(_Request)


class InferRequest(msgspec.Struct, gc=False):
    """One decoded request: columns of rows for the tensors or, with `of_fields`, for the item's fields."""

    id: str
    columns: Mapping[str, Column]
    rows: int
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] | bool = False
    of_fields: bool = False
    priority: int | None = None


class _Layout(msgspec.Struct, gc=False):
    """What a JSON part says of the binary tensors that follow: {name: (dtype, shape, elements, offset)}."""

    request: InferRequest
    tensors: dict[str, tuple[np.dtype[Any], list[int], int, int]]
    size: int


class InferDecoder:
    """Reads infer requests of one model version.

    A request names either the tensors of the batched graph or the fields of the item (which are then prepared).
    """

    def __init__(
        self, tensors: Sequence[TensorSpec], fields: Sequence[TensorSpec], outputs: Sequence[str], *, max_rows: int
    ) -> None:
        self._tensors = {spec.name: spec for spec in tensors}
        self._fields = {spec.name: spec for spec in fields}
        self._outputs = frozenset(outputs)
        self._max_rows = max_rows
        self.fixed_shapes = all(-1 not in spec.shape[1:] for spec in tensors)
        only = tensors[0] if len(tensors) == 1 else None
        short = only is not None and only.datatype != "BYTES" and -1 not in only.shape[1:]
        self._only = only if short else None
        self._size = math.prod(only.shape[1:]) if short and only else 0
        self._item_shape = list(only.shape[1:]) if short and only else []
        self._short = _short_decoder(only) if short and only else None
        # Clients repeat the JSON part in front of their binary tensors to the byte: each is read and checked once.
        self._layouts: dict[bytes, _Layout] = {}

    def decode(self, body: bytes | bytearray, header_length: int | None = None) -> InferRequest:
        """Read one body; `header_length` is the size of the JSON part in front of binary tensors."""
        if header_length is not None:
            return self._decode_laid_out(body, header_length)
        if self._short is not None:
            request = self._decode_short(body)
            if request is not None:
                return request
        return self._decode_general(body, None)

    def _decode_laid_out(self, body: bytes | bytearray, header_length: int) -> InferRequest:
        """A body whose JSON part has been seen before needs its tensors cut out only."""
        header = bytes(body[: max(header_length, 0)])
        layout = self._layouts.get(header)
        if layout is None or len(body) - header_length != layout.size:
            request = self._decode_general(body, header_length)
            if header_length <= _MAX_LAYOUT_BYTES and (layout := _layout(header, request)) is not None:
                if len(self._layouts) >= _MAX_LAYOUTS:
                    self._layouts.clear()
                self._layouts[header] = layout
            return request
        columns: dict[str, Column] = {
            name: np.frombuffer(body, dtype, count, header_length + offset).reshape(shape)
            for name, (dtype, shape, count, offset) in layout.tensors.items()
        }
        known = layout.request
        return InferRequest(known.id, columns, known.rows, known.outputs, known.binary, known.of_fields, known.priority)

    def _decode_short(self, body: bytes | bytearray) -> InferRequest | None:
        """The only tensor, as one flat list of numbers in JSON; None when it is anything else."""
        spec, decoder = self._only, self._short
        if spec is None or decoder is None:
            return None
        try:
            request = decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # the general way says what is wrong
        if len(request.inputs) != 1 or request.outputs is not None or request.parameters is not None:
            return None
        tensor = request.inputs[0]
        rows = tensor.shape[0] if tensor.shape else 0
        if (
            tensor.name != spec.name
            or tensor.datatype != spec.datatype
            or not 0 < rows <= self._max_rows
            or tensor.shape[1:] != self._item_shape
            or len(tensor.data) != rows * self._size
            or (spec.dtype.kind in "iu" and not _in_range(tensor.data, spec.dtype))
        ):
            return None
        data = tensor.data if len(tensor.data) < _PACKED_FROM else of_lists([tensor.data], spec, rows)
        return InferRequest(request.id, {spec.name: data}, rows)

    def _decode_general(self, body: bytes | bytearray, header_length: int | None) -> InferRequest:
        view = memoryview(body)
        if header_length is None:
            header_length = len(view)
        elif not 0 < header_length <= len(view):
            raise MalformedBody(
                where="Inference-Header-Content-Length", expected=f"1 to {len(view)}", found=str(header_length)
            )
        request = _parse_header(view[:header_length])
        blobs = view[header_length:]
        specs, of_fields = self._specs_for(request)
        columns: dict[str, Column] = {}
        rows: int | None = None
        offset = 0
        for tensor in request.inputs:
            spec = specs[tensor.name]
            _check_shape(tensor, spec, self._max_rows)
            if rows is not None and tensor.shape[0] != rows:
                raise WrongShape(where=tensor.name, expected=f"{rows} rows as in the other inputs",
                                 found=f"{tensor.shape[0]} rows")  # fmt: skip
            rows = tensor.shape[0]
            size = _binary_size(tensor)
            if size is None:
                columns[tensor.name] = _array_of_json(tensor, spec)
            else:
                columns[tensor.name] = _array_of_bytes(tensor, spec, blobs[offset : offset + size], size)
                offset += size
        if offset != len(blobs):
            raise MalformedBody(where="body", expected=f"{offset} bytes of binary tensors", found=f"{len(blobs)} bytes")
        outputs = tuple(output.name for output in request.outputs or ())
        for name in outputs:
            if name not in self._outputs:
                raise UnknownOutput(where=name, expected=f"one of {', '.join(sorted(self._outputs))}", found=repr(name))
        if len(outputs) != len(set(outputs)):
            raise UnknownOutput(where="outputs", expected="each output once", found=f"{len(outputs)} outputs")
        return InferRequest(
            id=request.id, columns=columns, rows=rows or 0, outputs=outputs, binary=_binary_outputs(request),
            of_fields=of_fields, priority=_priority(request.parameters),
        )  # fmt: skip

    def _specs_for(self, request: _Request) -> tuple[Mapping[str, TensorSpec], bool]:
        """Which of the two signatures the request speaks: the one that knows its first input."""
        names = [tensor.name for tensor in request.inputs]
        of_fields = bool(names) and names[0] not in self._tensors and names[0] in self._fields
        specs = self._fields if of_fields or (not names and not self._tensors) else self._tensors
        for name in names:
            if name not in specs:
                known = sorted({*self._tensors, *self._fields})
                raise UnknownInput(where=name, expected=f"one of {', '.join(known[:40])}", found=repr(name))
        for name, spec in specs.items():
            if name not in names:
                raise MissingInput(where=name, expected=f"{spec.datatype} of shape {list(spec.shape)}")
        if len(names) != len(set(names)):
            raise UnknownInput(where="inputs", expected="each input once", found=", ".join(names))
        return specs, of_fields


def _short_decoder(spec: TensorSpec) -> msgspec.json.Decoder[Any]:
    numbers: Any = list.__class_getitem__(_JSON_TYPE[spec.dtype.kind])
    fields: list[Any] = [("name", str), ("shape", list[int]), ("datatype", str), ("data", numbers)]
    tensors: Any = list.__class_getitem__(msgspec.defstruct("Tensor", fields, gc=False))
    fields = [("inputs", tensors), ("id", str, ""), ("outputs", Any, None), ("parameters", Any, None)]
    return msgspec.json.Decoder(msgspec.defstruct("Request", fields, gc=False))


def _parse_header(header: memoryview) -> _Request:
    try:
        return _general.decode(header)
    except msgspec.ValidationError as error:
        raise MalformedBody(where="body", expected="a V2 inference request", found=str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(where="body", expected="JSON", found=str(error)) from None


def _layout(header: bytes, request: InferRequest) -> _Layout | None:
    """The layout of a request that was read; None where its tensors have to be looked at each time."""
    tensors: dict[str, tuple[np.dtype[Any], list[int], int, int]] = {}
    offset = 0
    for tensor in _parse_header(memoryview(header)).inputs:
        array = request.columns[tensor.name]
        if isinstance(array, list) or _binary_size(tensor) is None or tensor.datatype in ("BYTES", "BOOL"):
            return None
        tensors[tensor.name] = (array.dtype, tensor.shape, array.size, offset)
        offset += array.nbytes
    bare = InferRequest(
        request.id, {}, request.rows, request.outputs, request.binary, request.of_fields, request.priority
    )
    return _Layout(bare, tensors, offset)


def _check_shape(tensor: _Input, spec: TensorSpec, max_rows: int) -> None:
    if tensor.datatype != spec.datatype:
        raise WrongDatatype(where=tensor.name, expected=spec.datatype, found=repr(tensor.datatype))
    shape = tensor.shape
    fits = len(shape) == len(spec.shape) and all(
        size >= 0 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
    )
    if not fits or not shape or shape[0] < 1:
        raise WrongShape(where=tensor.name, expected=f"shape {list(spec.shape)}", found=f"shape {shape}")
    if shape[0] > max_rows:
        raise TooLarge(where=tensor.name, expected=f"at most {max_rows} rows", found=f"{shape[0]} rows")


def _binary_size(tensor: _Input) -> int | None:
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or tensor.data is not None:
        raise MalformedBody(
            where=tensor.name, expected="either data or a whole binary_data_size", found=f"binary_data_size {size!r}"
        )
    return size


def _array_of_bytes(tensor: _Input, spec: TensorSpec, blob: memoryview, size: int) -> Array:
    if len(blob) != size:
        raise MalformedBody(where=tensor.name, expected=f"{size} bytes of tensor data", found=f"{len(blob)} bytes")
    count = math.prod(tensor.shape)
    if spec.datatype == "BYTES":
        return _array_of_strings(tensor.name, blob, count).reshape(tensor.shape)
    expected = count * spec.dtype.itemsize
    if size != expected:
        raise WrongShape(
            where=tensor.name, expected=f"{expected} bytes for {spec.datatype} {tensor.shape}", found=f"{size} bytes"
        )
    if spec.datatype == "BOOL" and size and bool((np.frombuffer(blob, np.uint8) > 1).any()):
        raise OutOfRange(where=tensor.name, expected="bytes 0 and 1 for BOOL", found="another byte")
    return np.frombuffer(blob, spec.dtype).reshape(tensor.shape)


def _array_of_strings(name: str, blob: memoryview, count: int) -> Array:
    if count * 4 > len(blob):
        raise MalformedBody(where=name, expected=f"{count} elements of BYTES", found=f"{len(blob)} bytes")
    array = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        start = offset + 4
        if start > len(blob):
            raise MalformedBody(where=name, expected=f"{count} elements of BYTES", found=f"{index} elements")
        (length,) = struct.unpack_from("<I", blob, offset)
        offset = start + length
        if offset > len(blob):
            raise MalformedBody(where=name, expected=f"{length} bytes for element {index}",
                                found=f"{len(blob) - start} bytes")  # fmt: skip
        array[index] = bytes(blob[start:offset])
    if offset != len(blob):
        raise MalformedBody(where=name, expected=f"{count} elements of BYTES", found="more bytes behind them")
    return array


def _array_of_json(tensor: _Input, spec: TensorSpec) -> Array:
    data = tensor.data
    if not isinstance(data, list):
        raise MalformedBody(where=tensor.name, expected="data: a list, or a binary_data_size",
                            found="no data" if data is None else type(data).__name__)  # fmt: skip
    count = math.prod(tensor.shape)
    flat = _flatten(data)
    if len(flat) != count:
        raise WrongShape(
            where=tensor.name, expected=f"{count} elements for shape {tensor.shape}", found=f"{len(flat)} elements"
        )
    if spec.datatype == "BYTES":
        array = np.empty(count, dtype=object)
        for index, value in enumerate(flat):
            if not isinstance(value, str):
                raise WrongDatatype(where=f"{tensor.name}[{index}]", expected="text", found=type(value).__name__)
            array[index] = value.encode()
        return array.reshape(tensor.shape)
    return _numbers(tensor.name, flat, spec.dtype).reshape(tensor.shape)


def _numbers(name: str, flat: list[Any], dtype: np.dtype[Any]) -> Array:
    accepted = {"f": (int, float), "b": (bool,)}.get(dtype.kind, (int,))
    for index, value in enumerate(flat):
        if not isinstance(value, accepted) or (isinstance(value, bool) and dtype.kind != "b"):
            raise WrongDatatype(
                where=f"{name}[{index}]", expected=f"a number for {dtype.name}", found=type(value).__name__
            )
    if dtype.kind in "iu" and not _in_range(flat, dtype):
        limits = np.iinfo(dtype)
        raise OutOfRange(where=name, expected=f"{limits.min} to {limits.max}", found="a number outside")
    with np.errstate(over="ignore"):
        try:
            return np.array(flat, dtype)
        except OverflowError:
            raise OutOfRange(where=name, expected=f"numbers that fit {dtype.name}", found="a larger one") from None


def _in_range(values: list[int], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return not values or (min(values) >= limits.min and max(values) <= limits.max)


def _flatten(data: list[Any]) -> list[Any]:
    """V2 allows nested rows as well as one flat list."""
    while data and isinstance(data[0], list):
        if not all(isinstance(element, list) for element in data):
            break
        data = [value for element in data for value in element]
    return data


def _binary_outputs(request: _Request) -> frozenset[str] | bool:
    if request.outputs:
        named = frozenset(
            output.name for output in request.outputs if (output.parameters or {}).get("binary_data") is True
        )
        if named:
            return named
    return (request.parameters or {}).get("binary_data_output") is True


def _priority(parameters: Mapping[str, Any] | None) -> int | None:
    """The parameter `priority`: a name or, as Triton counts, 1 for high to 3 for low, and 0 for none."""
    value = (parameters or {}).get("priority")
    if value is None or (value == 0 and not isinstance(value, bool)):
        return None
    if isinstance(value, str) and value in PRIORITIES:
        return PRIORITIES[value]
    if isinstance(value, int) and not isinstance(value, bool) and HIGH < value <= LOW + 1:
        return value - 1
    raise MalformedBody(
        "not a priority",
        where="parameters.priority",
        expected=f"{', '.join(PRIORITIES)} or 0 to 3",
        found=repr(value)[:40],
    )


def field_specs(fields: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """The item's fields as V2 tensors: the batch dimension in front."""
    return tuple(TensorSpec(name=field.name, datatype=field.datatype, shape=(-1, *field.shape)) for field in fields)
