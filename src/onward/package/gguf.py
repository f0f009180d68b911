"""What a GGUF file says of itself, without loading it: its name, licence, chat template and context length.

The format is that of ggml's `docs/gguf.md`, versions 2 and 3: a header, then keys with typed values, little-endian.
Arrays (the vocabulary) are passed over.
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
_MOST_ELEMENTS = 1 << 26
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
        return int(self.values.get(f"{self.architecture}.context_length", 0))


def read_gguf(file: Path) -> GgufFacts:
    """Read the metadata of a GGUF file. Raises `PackageError` where it is not one, or is cut off."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return GgufFacts(values=_Reader(data).metadata())
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        expected = "a GGUF file of version 2 or 3, little-endian"
        raise PackageError(f"not a GGUF file that can be read: {error}", where=file.name, expected=expected) from None


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def metadata(self) -> dict[str, Any]:
        magic = self._data[:4]
        self._at = 4
        version = self._number("<I")
        if magic != MAGIC or version not in _VERSIONS:
            raise ValueError(f"it begins with {magic!r}, version {version}")
        self._number("<Q")  # how many tensors
        keys = self._number("<Q")
        if keys > _MOST_KEYS:
            raise ValueError(f"{keys} keys")
        values: dict[str, Any] = {}
        for _ in range(keys):
            name = self._text()
            kind = self._number("<I")
            if kind == _ARRAY:
                self._pass_array()
            else:
                values[name] = self._text() if kind == _STRING else self._number(_format(kind))
        return values

    def _number(self, form: str) -> Any:
        size = struct.calcsize(form)
        value = struct.unpack_from(form, self._data, self._at)[0]
        self._at += size
        return value

    def _text(self) -> str:
        return self._bytes().decode("utf-8")

    def _bytes(self) -> bytes:
        size = self._number("<Q")
        if size > _MOST_TEXT_BYTES or self._at + size > len(self._data):
            raise ValueError(f"a text of {size} bytes at byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def _pass_array(self) -> None:
        kind = self._number("<I")
        count = self._number("<Q")
        if count > _MOST_ELEMENTS:
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
