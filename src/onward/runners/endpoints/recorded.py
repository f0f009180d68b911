"""The requests of a file, one JSON value a line: a V2 body, a plain item, or a whole request as it was recorded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from onward.errors import MalformedBody, TooLarge

_MOST_BYTES = 1 << 30
_METHODS = frozenset({"GET", "POST", "PUT"})
_WHOLE = frozenset({"method", "path", "headers", "body", "body_base64"})
# Those of the connection that the request came by, those that say who sent it, and the key that makes it be done once.
_LEFT_OUT = frozenset({
    "accept-encoding", "authorization", "connection", "content-encoding", "content-length", "cookie", "expect", "host",
    "idempotency-key", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request of the file. `value` is its body as JSON holds it, `raw` the bytes of a body that is something else.

    `path` is empty where the line is a body only.
    """

    line: int
    value: Any = None
    raw: bytes | None = None
    path: str = ""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_v2(self) -> bool:
        """Whether the body is one of the Open Inference Protocol V2."""
        value = self.value
        inputs = value.get("inputs") if isinstance(value, dict) else None
        if not isinstance(inputs, list) or not inputs or not all(_is_tensor(one) for one in inputs):
            return False
        outputs = value.get("outputs", [])
        asked = isinstance(outputs, list) and all(
            isinstance(one, dict) and isinstance(one.get("name"), str) for one in outputs
        )
        return asked and isinstance(value.get("parameters", {}), dict)


def read_requests(file: Path) -> list[Recorded]:
    """The requests of a JSONL file, in order; empty lines are none. Raises `MalformedBody` naming file and line."""
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise TooLarge(where=str(file), expected=f"at most {_MOST_BYTES} bytes", found=f"{size} bytes")
    found = []
    for number, text in enumerate(file.read_bytes().splitlines(), 1):
        if text.strip():
            where = f"{file}:{number}"
            try:
                value = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise MalformedBody(where=where, expected="one JSON value a line", found=str(error)[:80]) from None
            found.append(_request(number, value, where))
    if not found:
        raise MalformedBody(where=str(file), expected="at least one request", found="none")
    return found


def _request(number: int, value: Any, where: str) -> Recorded:
    whole = isinstance(value, dict) and "path" in value and value.keys() <= _WHOLE
    if not whole:
        return Recorded(line=number, value=value)
    method, path, headers = value.get("method", "POST"), value["path"], value.get("headers", {})
    if method not in _METHODS:
        raise MalformedBody(where=where, expected=f"a method: {', '.join(sorted(_METHODS))}", found=str(method)[:40])
    if not isinstance(path, str) or not path.startswith("/") or not path.isascii() or not path.isprintable():
        raise MalformedBody(where=where, expected="a path that begins with /", found=str(path)[:80])
    if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
        raise MalformedBody(where=where, expected="headers: an object of texts", found=str(headers)[:80])
    kept = {name.lower(): one for name, one in headers.items() if name.lower() not in _LEFT_OUT}
    raw = _raw(value, where)
    return Recorded(
        line=number, value=value.get("body") if raw is None else None, raw=raw, path=path, method=method, headers=kept
    )


def _raw(value: Mapping[str, Any], where: str) -> bytes | None:
    """The bytes of a body that is not JSON: in base64, or a text whose content type says so."""
    if "body_base64" in value:
        try:
            return base64.b64decode(value["body_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise MalformedBody(where=where, expected="body_base64: base64", found="something else") from None
    body = value.get("body")
    if isinstance(body, str):
        try:  # recorders write bodies as texts, JSON ones, too
            value["body"] = msgspec.json.decode(body)  # type: ignore[index]
        except msgspec.DecodeError:
            return body.encode()
        return body.encode() if isinstance(value["body"], str | int | float | bool | None) else None
    return b"" if body is None and value.get("method") == "GET" else None


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("parameters", {}), dict):
        return False
    shape = value.get("shape")
    texts = isinstance(value.get("name"), str) and isinstance(value.get("datatype"), str)
    return texts and isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
