"""Which records every database takes: checked before anything is written, so that all stores refuse the same.

PostgreSQL takes no NUL in a text, no database half a surrogate pair, an index no long text; SQLite knows no NaN and no
minus zero. One such row, found out only when many are written together, would cost the others their commit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from onward.store.store import InvalidRecord

MAX_TEXT_BYTES = 512
"""The longest text of a record, in UTF-8. Notes and errors may be longer: no index holds them."""
_FREE = frozenset({"note", "error"})

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True)
class _Fields:
    texts: tuple[str, ...]
    numbers: tuple[str, ...]


def _fields(record: type[Any]) -> _Fields:
    declared = {field.name: str(field.type) for field in fields(record)}
    return _Fields(
        texts=tuple(name for name, kind in declared.items() if kind == "str" and name not in _FREE),
        numbers=tuple(name for name, kind in declared.items() if kind.startswith("float")),
    )


_known: dict[type[Any], _Fields] = {}


def valid(record: RecordT) -> RecordT:
    """The record itself; an `InvalidRecord` that names the field if a database could not keep it as it is."""
    names = _known.get(type(record)) or _known.setdefault(type(record), _fields(type(record)))
    for name in names.texts:
        text = getattr(record, name)
        if len(text) > MAX_TEXT_BYTES or not text.isascii() or "\0" in text:
            valid_text(name, text)
    for name in names.numbers:
        number = getattr(record, name)
        if number is not None and not (number - number == 0.0 and (number or math.copysign(1.0, number) > 0.0)):
            raise InvalidRecord(where=name, expected="a finite number of seconds", found=repr(number))
    return record


def valid_text(name: str, text: str) -> str:
    """The text itself; an `InvalidRecord` if an index could not keep it."""
    if "\0" in text:
        raise InvalidRecord(where=name, expected="a text without NUL", found=ascii(text[:80]))
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRecord(where=name, expected="Unicode text", found=ascii(text[:80])) from None
    if length > MAX_TEXT_BYTES:
        raise InvalidRecord(where=name, expected=f"at most {MAX_TEXT_BYTES} bytes of UTF-8", found=f"{length} bytes")
    return text


def valid_time(name: str, at_s: float) -> float:
    """The time itself; an `InvalidRecord` if it is no finite number."""
    if not math.isfinite(at_s):
        raise InvalidRecord(where=name, expected="a finite number of seconds", found=repr(at_s))
    return at_s


def legible(text: str) -> str:
    """A note or an error as any database takes it: what it cannot hold becomes U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").replace("\0", "\ufffd")
