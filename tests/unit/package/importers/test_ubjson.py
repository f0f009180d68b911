"""ubjson.py: values as written, and an error, not a crash, for whatever else a file may hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from onward.errors import PackageError
from onward.package.importers.ubjson import read_ubjson


def text(value: str) -> bytes:
    data = value.encode()
    return b"L" + struct.pack(">q", len(data)) + data


def typed(kind: bytes, code: str, values: list[Any]) -> bytes:
    return b"[$" + kind + b"#L" + struct.pack(">q", len(values)) + struct.pack(f">{len(values)}{code}", *values)


DOCUMENT = (
    b"{" + text("a") + typed(b"d", "f", [1.5, -2.0]) + text("b") + b"S" + text("zé") + text("c")
    + b"[#L" + struct.pack(">q", 2) + b"Z" + b"T" + text("d") + b"[NU\xffI\xff\xfel\0\0\0\x07]"
    + text("e") + typed(b"i", "b", [-3, 4]) + text("f") + b"D" + struct.pack(">d", 0.1) + b"}"
)  # fmt: skip


def test_values_are_read_as_they_were_written() -> None:
    expected = {"a": [1.5, -2.0], "b": "zé", "c": [None, True], "d": [255, -2, 7], "e": [-3, 4], "f": 0.1}
    assert read_ubjson(DOCUMENT) == expected


def test_a_file_that_ends_anywhere_is_refused() -> None:
    for end in range(len(DOCUMENT)):
        with pytest.raises(PackageError):
            read_ubjson(DOCUMENT[:end])


@pytest.mark.parametrize(
    "data",
    [
        b"[$d#L" + struct.pack(">q", 1 << 62),
        b"[#L" + struct.pack(">q", 1 << 40) + b"Z" * 9,
        b"[$Z#L" + struct.pack(">q", 1 << 40),
        b"[#i\xff",
        b"[" * 5000,
        b"{" * 5000,
        b"[#" * 5000,
        b"?",
        b"[$d]",
        b"SL" + struct.pack(">q", 2) + b"\xff\xfe",
    ],
    ids=[
        "counted numbers", "counted values", "values of no bytes", "negative", "nested", "names of names",
        "counts of counts", "marker", "no count", "text",
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_without_its_memory(data: bytes) -> None:
    with pytest.raises(PackageError, match="not Universal Binary JSON"):
        read_ubjson(data, "hostile.ubj")
