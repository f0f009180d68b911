"""Events as people send them: checked for what they may be, before anything is written."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from onward.errors import InputError, TooLarge
from onward.package.features import KIND_PATTERN, is_kind
from onward.store.records import ProfileEvent

MAX_DATA_BYTES = 16_384
MAX_DEPTH = 8
MAX_ID_BYTES = 200
LATEST_S = 253_402_300_799.0
"""The end of the year 9999, in seconds since the epoch."""

_KEYS = ("id", "kind", "at", "data")
_encode = msgspec.json.Encoder().encode


def read_event(value: Any, *, tenant: str, entity: str, now_s: float, where: str = "") -> ProfileEvent:
    """An event as it is sent: `{"id": "o-17", "kind": "purchase", "at": 1764000000.5, "data": {"amount": 12}}`.

    `at` is seconds since the epoch or RFC 3339 text, by default now; without an `id` it gets a random one, and sent
    again it counts again. `data` is a JSON object of at most 16 KiB and 8 levels. `where` begins the place in errors.
    Raises `InputError`.
    """
    if not isinstance(value, Mapping):
        raise _refused(where, "", "not an event", 'an object with "kind"', type(value).__name__)
    for key in value:
        if key not in _KEYS:
            raise _refused(where, str(key)[:60], "unknown key of an event", f"one of {', '.join(_KEYS)}", "")
    kind = value.get("kind")
    if not isinstance(kind, str) or not is_kind(kind):
        raise _refused(where, "kind", "not a kind of event", KIND_PATTERN, ascii(kind)[:60])
    return ProfileEvent(
        event_id=_id(value.get("id"), where),
        tenant=tenant,
        entity=entity,
        kind=kind,
        at_s=now_s if value.get("at") is None else read_time(value["at"], where=f"{where}at"),
        recorded_s=now_s,
        data=_data(value.get("data"), where),
    )


def _id(value: Any, where: str) -> str:
    if value is None:
        return uuid.uuid4().hex
    try:
        fits = isinstance(value, str) and value.isprintable() and 0 < len(value.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:
        fits = False
    if not fits:
        expected = f"1 to {MAX_ID_BYTES} bytes of printable text"
        raise _refused(where, "id", "not the id of an event", expected, ascii(value)[:60])
    return str(value)


def read_time(value: Any, *, where: str) -> float:
    """A time as people write it, as seconds since the epoch: such seconds, or RFC 3339 text with an offset.

    Raises `InputError`.
    """
    at_s = math.nan
    if isinstance(value, str) and len(value) <= 40:
        try:
            at = datetime.fromisoformat(value)
            # Without an offset it would be the time of some place, and nobody knows of which.
            at_s = at.timestamp() if at.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LATEST_S:
        at_s = float(value)
    if not 0.0 <= at_s <= LATEST_S:
        expected = "seconds since the epoch, or RFC 3339 text with an offset, from 1970 to 9999"
        raise InputError("not a time", where=where, expected=expected, found=ascii(value)[:60])
    return at_s


def _data(value: Any, where: str) -> bytes:
    if value is None:
        return b"{}"
    if not isinstance(value, Mapping):
        raise _refused(where, "data", "not an object", "a JSON object", type(value).__name__)
    _check(value, f"{where}data", MAX_DEPTH)
    try:
        data = _encode(value)
    except (TypeError, ValueError, OverflowError):  # of Python callers, and lone surrogates
        raise _refused(where, "data", "cannot be written as JSON", "plain values", "") from None
    if len(data) > MAX_DATA_BYTES:
        raise TooLarge(
            "the event is too large", where=f"{where}data", expected=f"at most {MAX_DATA_BYTES} bytes",
            found=str(len(data)),
        )  # fmt: skip
    return data


def _check(value: Any, where: str, depth: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        if depth == 0:
            raise _refused("", where, "nested too deeply", f"at most {MAX_DEPTH} levels", "")
        for part in value.values() if isinstance(value, Mapping) else value:
            if not isinstance(part, str):
                _check(part, where, depth - 1)
    elif (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, int) and not -(1 << 63) <= value < 1 << 64
    ):
        raise _refused("", where, "a number that JSON does not carry exactly", "finite, within 64 bits", "")


def _refused(before: str, key: str, message: str, expected: str, found: str) -> InputError:
    return InputError(message, where=f"{before}{key}".rstrip("."), expected=expected, found=found)
