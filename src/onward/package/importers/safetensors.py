"""Reads the safetensors format into NumPy arrays: a JSON header of names, types and offsets, then raw bytes.

Own reader and not the `safetensors` package, because that one cannot give BF16 to NumPy, and the format is small.
The header is checked before anything is mapped: offsets within the file, none overlapping, sizes as the shapes say.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from onward.errors import PackageError

#: The format's own limit on its header.
HEADER_LIMIT_BYTES = 100_000_000

DATATYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # widened to FP32 below: NumPy has no such type
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


class BrokenSafetensors(PackageError):
    """The file is not a valid safetensors file."""

    code = "BROKEN_SAFETENSORS"


def read_safetensors(file: Path) -> dict[str, npt.NDArray[Any]]:
    """All tensors by name: read-only views of the mapped file, except BF16, which becomes FP32.

    Raises BrokenSafetensors when the file is truncated, overlapping or not of this format; OSError when unreadable.
    """
    with file.open("rb") as opened:
        size = file.stat().st_size
        if size < 8:
            raise BrokenSafetensors("shorter than its length field", where=str(file))
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    (header_bytes,) = struct.unpack("<Q", mapped[:8])
    if header_bytes > min(HEADER_LIMIT_BYTES, size - 8):
        raise BrokenSafetensors("the header is longer than the file or the format's limit", where=str(file))
    try:
        header = json.loads(mapped[8 : 8 + header_bytes].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BrokenSafetensors(f"the header is not JSON: {error}", where=str(file)) from None
    if not isinstance(header, dict):
        raise BrokenSafetensors("the header is not an object", where=str(file))
    header.pop("__metadata__", None)
    data = memoryview(mapped)[8 + header_bytes :]
    spans = {name: _span(name, entry, len(data)) for name, entry in header.items()}
    end = 0
    for name, (_, _, start, stop) in sorted(spans.items(), key=lambda item: item[1][2:]):
        if start < end:
            raise BrokenSafetensors("a tensor overlaps another one", where=name)
        end = stop
    return {name: _tensor(data, *span) for name, span in spans.items()}


def _span(name: str, entry: object, size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Datatype, shape and the half-open byte range of one header entry, checked against each other."""
    if not isinstance(entry, dict):
        raise BrokenSafetensors("a header entry is not an object", where=name)
    datatype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BrokenSafetensors("unknown datatype", where=name, expected=", ".join(DATATYPES), found=repr(datatype))
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise BrokenSafetensors("shape and data_offsets must be lists of whole numbers", where=name)
    start, stop = offsets
    expected = math.prod(shape) * DATATYPES[datatype].itemsize
    if not start <= stop <= size or stop - start != expected:
        raise BrokenSafetensors(
            "the data does not lie in the file as the header says",
            where=name, expected=f"{expected} bytes within {size}", found=f"{start} to {stop}",
        )  # fmt: skip
    return datatype, tuple(shape), start, stop


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _tensor(data: memoryview, datatype: str, shape: tuple[int, ...], start: int, stop: int) -> npt.NDArray[Any]:
    values = np.frombuffer(data[start:stop], dtype=DATATYPES[datatype])
    if datatype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)  # BF16 is the upper half of an FP32
    return values.reshape(shape)
