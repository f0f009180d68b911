"""Folders of images, sound or texts: one row a file, `_file` its path below the folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onward.errors import TooLarge
from onward.runners.batch.records import Chunk, Reject
from onward.runners.batch.source import Files, chunk_of_columns

SUFFIXES = {
    "image": frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}),
    "audio": frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus"}),
    "text": frozenset({".txt"}),
}
FILE = "_file"
CONTENT = "content"


class MediaFiles:
    """Files whose bytes are the value. A file that cannot be read, or is larger than `limit_bytes`, is a reject."""

    live = False

    def __init__(self, paths: Sequence[Path], root: Path, *, text: bool, limit_bytes: int) -> None:
        self._files = Files(paths, root)
        self._root = root
        self._text = text
        self._limit_bytes = limit_bytes
        self.rows: int | None = len(paths)

    @property
    def schema(self) -> pa.Schema:
        """See `Source`."""
        return pa.schema([(FILE, pa.string()), (CONTENT, pa.string() if self._text else pa.binary())])

    def facts(self) -> Sequence[Any]:
        """See `Source`."""
        return self._files.facts()

    def digest(self) -> str:
        """See `Source`."""
        return self._files.digest()

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """See `Source`."""
        for first in range(start, len(self._files.paths), size):
            yield self._chunk(self._files.paths[first : first + size], columns, first)

    def _chunk(self, paths: Sequence[Path], columns: Sequence[str], first: int) -> Chunk:
        rows: list[int] = []
        names: list[str] = []
        contents: list[str | bytes | None] = []
        raw: dict[int, bytes] = {}
        broken: list[Reject] = []
        for row, path in enumerate(paths, first):
            name = path.relative_to(self._root).as_posix()
            data: str | bytes | None = None
            try:
                if CONTENT in columns:
                    data = self._content(path)
            except OSError as error:
                broken.append(Reject(row=row, column=FILE, reason=f"{name}: {error.strerror}", code="UNREADABLE_FILE"))
                continue
            except TooLarge as error:
                broken.append(Reject(row=row, column=FILE, reason=f"{name}: {error}", code=error.code))
                continue
            if self._text and isinstance(data, bytes):  # not UTF-8: its row says so
                raw[len(rows)] = data
                data = None
            rows.append(row)
            names.append(name)
            contents.append(data)
        typed: dict[str, Any] = {FILE: (pa.array(names, pa.string()), {})} if FILE in columns else {}
        if CONTENT in columns:
            typed[CONTENT] = (pa.array(contents, self.schema.field(CONTENT).type), raw)
        return chunk_of_columns(typed, np.array(rows, np.int64), broken)

    def _content(self, path: Path) -> str | bytes:
        with path.open("rb") as stream:
            data = stream.read(self._limit_bytes + 1)
        if len(data) > self._limit_bytes:
            raise TooLarge(expected=f"at most {self._limit_bytes} bytes")
        if not self._text:
            return data
        try:
            return data.decode().rstrip("\n")
        except UnicodeDecodeError:
            return data
