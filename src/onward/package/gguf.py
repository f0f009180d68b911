"""What a GGUF file says of itself, without loading it: its name, licence, chat template and context length.

The format is that of ggml's `docs/gguf.md`, versions 2 and 3: a header, then keys with typed values, little-endian.
Arrays (the vocabulary) are passed over. `check_gguf` looks at the list of tensors, too: llama.cpp is native code, and
believes it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward.errors import PackageError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_KEYS = 4096
_MOST_TEXT_BYTES = 1 << 24
_MOST_TEXTS_BYTES = 1 << 26
_MOST_ELEMENTS = 1 << 22
"""Of all arrays together; a vocabulary has three of a quarter of a million."""
_MOST_TENSORS = 1 << 16
_MOST_NAME_BYTES = 256
_MOST_DIMS = 4
_MOST_TYPES = 64
# Values in a block and bytes of a block, by ggml's type; of types that are newer, only the place is checked.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip
_ALIGNMENT = "general.alignment"
_STRING, _ARRAY = 8, 9
_FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """The metadata of a GGUF file that a package is made from; `values` has every key that is no array."""

    values: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """Which network it is: "llama", "qwen2", …"""
        return str(self.values.get("general.architecture", ""))

    @property
    def name(self) -> str:
        """What its makers call it."""
        return str(self.values.get("general.name", ""))

    @property
    def licence(self) -> str:
        """Its licence as it says, mostly an SPDX identifier in small letters."""
        return str(self.values.get("general.license", ""))

    @property
    def chat_template(self) -> str:
        """The Jinja template of its chats; "" for a model that only goes on with a text."""
        return str(self.values.get("tokenizer.chat_template", ""))

    @property
    def context_tokens(self) -> int:
        """How many tokens it was trained to see at once; 0 where it does not say."""
        told = self.values.get(f"{self.architecture}.context_length", 0)
        return int(told) if isinstance(told, int) else 0


def read_gguf(file: Path) -> GgufFacts:
    """Read the metadata of a GGUF file. Raises `PackageError` where it is not one, or is cut off."""
    return _read(file, tensors=False)


def check_gguf(file: Path) -> GgufFacts:
    """Read the metadata, and compare the list of tensors with the file: sizes, places, no more than it holds.

    Raises `PackageError`.
    """
    return _read(file, tensors=True)


def _read(file: Path, *, tensors: bool) -> GgufFacts:
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            values = reader.metadata()
            if tensors:
                reader.check_tensors(values.get(_ALIGNMENT, 32))
            return GgufFacts(values=values)
    except (struct.error, UnicodeDecodeError, ValueError, IndexError, OverflowError) as error:
        expected = "a GGUF file of version 2 or 3, little-endian"
        raise PackageError(f"not a GGUF file that can be read: {error}", where=file.name, expected=expected) from None


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._tensors = 0
        self._elements_left = _MOST_ELEMENTS
        self._text_bytes_left = _MOST_TEXTS_BYTES

    def metadata(self) -> dict[str, Any]:
        magic = self._data[:4]
        self._at = 4
        version = self._number("<I")
        if magic != MAGIC or version not in _VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}")
        self._tensors = self._number("<Q")
        keys = self._number("<Q")
        if keys > _MOST_KEYS or self._tensors > _MOST_TENSORS:
            raise ValueError(f"{keys} keys and {self._tensors} tensors")
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            kind = self._number("<I")
            if kind == _ARRAY:
                self._pass_array()
            else:
                values[name] = self._text() if kind == _STRING else self._number(_format(kind))
        return values

    def check_tensors(self, alignment: Any) -> None:
        """Go through the list of tensors, which stands behind the metadata."""
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16 or alignment & (alignment - 1):
            raise ValueError(f"an alignment of {alignment}")
        ends = []
        for _ in range(self._tensors):
            name = self._bytes(_MOST_NAME_BYTES)[:40]
            dims = self._number("<I")
            if dims > _MOST_DIMS:
                raise ValueError(f"tensor {name!r} of {dims} dimensions")
            elements = 1
            for _ in range(dims):
                elements *= self._number("<Q")
            kind, offset = self._number("<I"), self._number("<Q")
            values, size = _BLOCKS.get(kind, (256, 1))
            if kind >= _MOST_TYPES or elements <= 0 or offset % alignment:
                raise ValueError(f"tensor {name!r} of {elements} elements of type {kind} at {offset}")
            ends.append((offset + elements // values * size, name))
        start = -(-self._at // alignment) * alignment
        for end, name in ends:
            if start + end > len(self._data):
                raise ValueError(f"tensor {name!r} goes beyond the file's end")

    def _number(self, form: str) -> Any:
        size = struct.calcsize(form)
        value = struct.unpack_from(form, self._data, self._at)[0]
        self._at += size
        return value

    def _text(self) -> str:
        return self._bytes(_MOST_TEXT_BYTES).decode("utf-8")

    def _bytes(self, most: int) -> bytes:
        size = self._number("<Q")
        self._text_bytes_left -= size
        if size > most or self._text_bytes_left < 0 or self._at + size > len(self._data):
            raise ValueError(f"a text of {size} bytes at byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _pass_array(self) -> None:
        kind = self._number("<I")
        count = self._number("<Q")
        self._elements_left -= count
        if self._elements_left < 0:
            raise ValueError(f"an array of {count} elements")
        if kind == _STRING:
            for _ in range(count):
                size = self._number("<Q")
                self._at += size
        else:
            self._at += count * struct.calcsize(_format(kind))
        if self._at > len(self._data):
            raise ValueError("an array goes beyond its end")


def _format(kind: int) -> str:
    if kind not in _FORMATS:
        raise ValueError(f"a value of the unknown type {kind}")
    return _FORMATS[kind]
