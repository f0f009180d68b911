"""Ids become what they stand for: records of a file in the package, with their scores and why they are there.

Which ids, in which order and for which reason, the graph has decided.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from onward.errors import ExecutionError, PackageError
from onward.package.records import Catalogue
from onward.types import Array

MAX_FILE_BYTES = 256 << 20

Record: TypeAlias = dict[str, Any]
_WHOLE = 1e15
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class CatalogueReading:
    """One catalogue step, ready: answers `{output: [record, …]}` from the outputs of one item."""

    def __init__(self, step: Catalogue, folder: Path) -> None:
        self._step = step
        self._records = read_catalogue(folder / step.file)
        self.tensors = step.tensors

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, list[Record]]:
        """Of {output: (1, n)} the records of the first `top_k` ids that the catalogue has."""
        step = self._step
        ids = tensors[step.ids][0].tolist()
        scores = tensors[step.scores][0].tolist() if step.scores else None
        reasons = tensors[step.reason][0].tolist() if step.reason else None
        because = tensors[step.because][0].tolist() if step.because else None
        found: list[Record] = []
        for place, number in enumerate(ids):
            record = self._records.get(number)
            if record is None:
                continue
            entry = dict(record)
            if scores is not None:
                entry["score"] = scores[place]
            if reasons is not None:
                entry["reason"] = self._reason(reasons[place], None if because is None else because[place])
            found.append(entry)
            if len(found) == step.top_k:
                break
        return {step.output: found}

    def _reason(self, number: int, because: int | None) -> str:
        texts = self._step.reasons
        if not 0 <= number < len(texts):
            expected = f"0 to {len(texts) - 1}, as there are reasons"
            raise ExecutionError("the model gave a reason without a text", expected=expected, found=str(number))
        about = {} if because is None else self._records.get(because, {})
        # A key that the record lacks stays as it is written: a person sees what is missing.
        return _PLACE.sub(lambda place: _word(about[place[1]]) if place[1] in about else place[0], texts[number])


def _word(value: Any) -> str:
    """A record's value inside a text: text as it is, all else as JSON, and 4.0 as 4, as a browser writes it, too."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        value = int(value)
    return msgspec.json.encode(value).decode()


def read_catalogue(file: Path) -> dict[int, Record]:
    """The records of a catalogue by id. Raises `PackageError` naming the line."""
    if file.stat().st_size > MAX_FILE_BYTES:
        raise PackageError("the catalogue is too large", where=file.name, expected=f"at most {MAX_FILE_BYTES} bytes")
    records: dict[int, Record] = {}
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file.name}:{number}"
            try:
                record = decode(line)
            except msgspec.DecodeError as error:  # what is not valid against the type is one too
                raise PackageError(f"not a record: {error}", where=where, expected="one JSON object a line") from None
            identity = record.get("id")
            if isinstance(identity, bool) or not isinstance(identity, int):
                expected = '"id": an integer'
                raise PackageError("a record without an id", where=where, expected=expected, found=repr(identity))
            if identity in records:
                raise PackageError("an id given twice", where=where, expected="different ids", found=str(identity))
            records[identity] = record
    return records
