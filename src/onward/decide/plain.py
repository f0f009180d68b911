"""Plain values: what canonical JSON carries exactly, and nothing else. Knows no records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from onward.errors import OnwardError

_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


class NotRecordable(OnwardError):
    """A value cannot be kept in the audit log, so nothing may be decided on it."""

    code = "NOT_RECORDABLE"
    status = 400
    exit_code = 65


def canonical(value: Any) -> bytes:
    """Canonical JSON of a plain value (see `plain`)."""
    try:
        return msgspec.json.encode(value, order="deterministic")
    except (UnicodeEncodeError, TypeError, OverflowError) as error:
        raise NotRecordable(found=str(error)) from None


def plain(value: Any, where: str = "") -> Any:
    """The value as JSON carries it: numpy becomes Python, bytes (files) their SHA-256 and size.

    Raises `NotRecordable` for NaN and infinity, which JSON does not have, and for objects of other kinds.
    """
    kind = type(value)
    if kind in _AS_THEY_ARE or (kind is float and value - value == 0.0):
        return value
    if kind is float:
        raise NotRecordable(where=where, expected="a finite number", found=repr(value))
    if isinstance(value, Mapping):
        return _plain_table(value, where)
    if isinstance(value, list | tuple):
        return [plain(part, where) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), where)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"sha256": hashlib.sha256(value).hexdigest(), "size": len(value)}
    if isinstance(value, str | int | float):  # of a subclass
        return plain(next(base(value) for base in (str, int, float) if isinstance(value, base)), where)
    raise NotRecordable(where=where, expected="what JSON can carry", found=kind.__name__)


def _plain_table(table: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """A mapping made plain. Numbers and texts are looked at right here: most facts are a table of many of them."""
    made: dict[str, Any] = {}
    for name, part in table.items():
        kind = type(part)
        if not (kind in _AS_THEY_ARE or (kind is float and part - part == 0.0)):
            part = plain(part, f"{where}.{name}" if where else str(name))
        made[name if type(name) is str else str(name)] = part
    return made
