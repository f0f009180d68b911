"""Typed frames between the python backend and its process: a small msgpack header, then the raw bytes of the tensors.

Knows nothing of processes or models; never unpickles. A frame on the wire:

    header bytes: u32 │ body bytes: u64 │ header (msgpack of a `Message`) │ body (tensors, each from a multiple of 64)

A tensor's elements travel as they lie in memory, little-endian, C order; BYTES elements each with a u32 length before.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from onward.types import DATATYPE_OF_NUMPY, NUMPY_OF_DATATYPE, Array

_PREFIX = struct.Struct("<IQ")
_LENGTH = struct.Struct("<I")
_ALIGNMENT = 64
_MAX_HEADER_BYTES = 16 * 2**20
_PADDING = bytes(_ALIGNMENT)


class TensorHeader(msgspec.Struct, frozen=True, array_like=True):
    """Where a tensor lies in the body and how to read it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    start: int
    size: int


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Parent to child: the class to construct, from `module`.py in the package folder."""

    folder: str
    module: str
    class_name: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Child to parent: the model is constructed."""


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Parent to child: run these tensors and answer the named outputs."""

    fetches: tuple[str, ...]
    tensors: tuple[TensorHeader, ...]


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """Child to parent: the outputs asked for, in that order."""

    tensors: tuple[TensorHeader, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """Child to parent: the model's code raised. `details` is its traceback, for the log."""

    message: str
    details: str = ""


Message: TypeAlias = Start | Ready | Run | Answer | Failed
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class BrokenFrame(Exception):
    """What came over the channel is not a frame of ours."""


class Disconnected(Exception):
    """The other side closed the channel or died."""


def lay_out(tensors: Mapping[str, Array]) -> tuple[tuple[TensorHeader, ...], list[memoryview]]:
    """The headers of the tensors and the pieces of the body. Raises `ValueError` for a type without a datatype."""
    headers: list[TensorHeader] = []
    pieces: list[memoryview] = []
    start = 0
    for name, tensor in tensors.items():
        datatype, piece = _encode(name, tensor)
        headers.append(TensorHeader(name=name, datatype=datatype, shape=tensor.shape, start=start, size=piece.nbytes))
        gap = -piece.nbytes % _ALIGNMENT
        pieces.append(piece)
        if gap:
            pieces.append(memoryview(_PADDING)[:gap])
        start += piece.nbytes + gap
    return tuple(headers), pieces


def tensors_of(headers: Sequence[TensorHeader], body: Array) -> dict[str, Array]:
    """The tensors of a frame, as views of its body (BYTES: as `bytes` objects). Raises `BrokenFrame`."""
    tensors: dict[str, Array] = {}
    for header in headers:
        dtype = NUMPY_OF_DATATYPE.get(header.datatype)
        piece = body[header.start : header.start + header.size]
        count = _count(header.shape)
        if dtype is None or header.start < 0 or len(piece) != header.size:
            raise BrokenFrame(f"tensor {header.name!r} does not lie in the body")
        if header.datatype == "BYTES":
            tensors[header.name] = _decode_bytes(piece.tobytes(), count).reshape(header.shape)
        elif count * dtype.itemsize != header.size:
            raise BrokenFrame(f"tensor {header.name!r} has {header.size} bytes for shape {header.shape}")
        else:
            tensors[header.name] = piece.view(dtype).reshape(header.shape)
    return tensors


def send(
    channel: socket.socket, message: Message, pieces: Sequence[memoryview] = (), *, timeout_s: float | None = None
) -> None:
    """Write one frame. Raises `Disconnected`, or `TimeoutError` when the other side does not read for `timeout_s`."""
    header = _encoder.encode(message)
    prefix = _PREFIX.pack(len(header), sum(piece.nbytes for piece in pieces))
    channel.settimeout(timeout_s)
    try:
        channel.sendall(prefix + header)
        for piece in pieces:
            channel.sendall(piece)
    except TimeoutError:
        raise
    except OSError as error:
        raise Disconnected(str(error)) from error


def receive(channel: socket.socket, *, timeout_s: float | None = None) -> tuple[Message, Array]:
    """Read one frame: the message and its body (uint8, writable). Raises `Disconnected`, `BrokenFrame`, `TimeoutError`.

    `timeout_s` bounds the whole frame; None waits as long as the other side lives.
    """
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    channel.settimeout(None)
    prefix = bytearray(_PREFIX.size)
    _fill(channel, memoryview(prefix), until_s)
    header_bytes, body_bytes = _PREFIX.unpack(prefix)
    if header_bytes > _MAX_HEADER_BYTES:
        raise BrokenFrame(f"a header of {header_bytes} bytes")
    header = bytearray(header_bytes)
    _fill(channel, memoryview(header), until_s)
    try:
        message = _decoder.decode(header)
    except msgspec.DecodeError as error:
        raise BrokenFrame(str(error)) from error
    try:
        body = np.empty(body_bytes, np.uint8)
    except (MemoryError, ValueError) as error:
        raise BrokenFrame(f"a body of {body_bytes} bytes") from error
    _fill(channel, body.data, until_s)
    return message, body


def _fill(channel: socket.socket, buffer: memoryview, until_s: float | None) -> None:
    position = 0
    while position < len(buffer):
        if until_s is not None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            channel.settimeout(left_s)
        try:
            count = channel.recv_into(buffer[position:])
        except TimeoutError:
            raise
        except OSError as error:
            raise Disconnected(str(error)) from error
        if not count:
            raise Disconnected("the other side closed the channel")
        position += count


def _encode(name: str, tensor: Array) -> tuple[str, memoryview]:
    if tensor.dtype.kind in "SU":
        tensor = tensor.astype(object)
    datatype = DATATYPE_OF_NUMPY.get(tensor.dtype.newbyteorder("="))
    if datatype is None:
        raise ValueError(f"tensor {name!r} has numpy type {tensor.dtype}, which has no datatype")
    if datatype == "BYTES":
        return datatype, memoryview(_encode_bytes(name, tensor))
    native = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
    return datatype, native.reshape(-1).view(np.uint8).data


def _encode_bytes(name: str, tensor: Array) -> bytes:
    pieces: list[bytes] = []
    for element in tensor.ravel():
        data = element.encode() if isinstance(element, str) else element
        if not isinstance(data, bytes):
            raise ValueError(f"tensor {name!r} holds a {type(element).__name__} where BYTES holds bytes or str")
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def _decode_bytes(data: bytes, count: int) -> Array:
    if count * _LENGTH.size > len(data):
        raise BrokenFrame(f"{count} BYTES elements do not fit in {len(data)} bytes")
    elements: Array = np.empty(count, object)
    position = 0
    for index in range(count):
        if position + _LENGTH.size > len(data):
            raise BrokenFrame("a BYTES element is cut short")
        (size,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if position + size > len(data):
            raise BrokenFrame("a BYTES element is cut short")
        elements[index] = data[position : position + size]
        position += size
    if position != len(data):
        raise BrokenFrame("there is data after the last BYTES element")
    return elements


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        if size < 0:
            raise BrokenFrame(f"a shape of {tuple(shape)}")
        count *= size
    return count
