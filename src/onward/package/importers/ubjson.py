"""Reads Universal Binary JSON, the format of XGBoost's `.ubj` files. It knows nothing of trees.

A count is believed only as far as the bytes go that are there, and nesting ends somewhere: the file may be hostile.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from onward.errors import PackageError

MOST_DEPTH = 64
_NUMBERS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
_PLAIN = {"Z": None, "T": True, "F": False}


def read_ubjson(data: bytes, where: str = "") -> Any:
    """The value that the bytes are. Raises `PackageError` where they are no UBJSON."""
    reader = _Reader(data)
    try:
        value = reader.value(reader.marker(), 0)
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as error:
        problem = f"not Universal Binary JSON, at byte {reader.position}: {error}"
        raise PackageError(problem, where=where, expected="a file as its library wrote it") from None
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def marker(self) -> str:
        """The next marker; N says nothing."""
        while (marker := chr(self._take(1)[0])) == "N":
            continue
        return marker

    def value(self, marker: str, depth: int) -> Any:
        if depth > MOST_DEPTH:
            raise ValueError("nested too deeply")
        if marker in _PLAIN:
            return _PLAIN[marker]
        if marker in _NUMBERS:
            return np.frombuffer(self._take(np.dtype(_NUMBERS[marker]).itemsize), _NUMBERS[marker])[0].item()
        if marker == "C":
            return chr(self._take(1)[0])
        if marker in "SH":
            return self._text()
        if marker == "[":
            return self._array(depth)
        if marker == "{":
            return self._object(depth)
        raise ValueError(f"no such marker: {marker!r}")

    def _array(self, depth: int) -> list[Any]:
        kind, count = self._counted()
        if kind in _NUMBERS:
            dtype = np.dtype(_NUMBERS[kind])
            numbers: list[Any] = np.frombuffer(self._take(count * dtype.itemsize), dtype).tolist()
            return numbers
        values: list[Any] = []
        if count >= 0:
            for _ in range(self._believed(count)):
                values.append(self.value(kind or self.marker(), depth + 1))
            return values
        while (marker := self.marker()) != "]":
            values.append(self.value(marker, depth + 1))
        return values

    def _object(self, depth: int) -> dict[str, Any]:
        kind, count = self._counted()
        values: dict[str, Any] = {}
        if count >= 0:
            for _ in range(self._believed(count)):
                name = self._text()
                values[name] = self.value(kind or self.marker(), depth + 1)
            return values
        while self._data[self.position : self.position + 1] != b"}":
            name = self._text()
            values[name] = self.value(self.marker(), depth + 1)
        self.position += 1
        return values

    def _counted(self) -> tuple[str, int]:
        """The kind of every element ("" where each tells its own) and how many there are (-1: up to the bracket)."""
        kind = ""
        if self._data[self.position : self.position + 1] == b"$":
            self.position += 1
            kind = self.marker()
        if self._data[self.position : self.position + 1] == b"#":
            self.position += 1
            return kind, self._length()
        if kind:
            raise ValueError("a kind without a count")
        return "", -1

    def _length(self) -> int:
        marker = self.marker()
        length = self.value(marker, 0) if marker in _NUMBERS else marker  # a length that nests would nest without end
        if not isinstance(length, int) or length < 0:
            raise ValueError(f"no length: {length!r}")
        return length

    def _believed(self, count: int) -> int:
        if count > len(self._data) - self.position:  # an element takes a byte at least, but for Z, T and F
            raise ValueError(f"{count} elements in {len(self._data) - self.position} bytes")
        return count

    def _text(self) -> str:
        return self._take(self._length()).decode()

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self._data):
            raise ValueError("the file ends too early")
        taken, self.position = self._data[self.position : end], end
        return taken
