"""Who asks, by the headers of a request. There are no keys yet: a caller is believed."""

from __future__ import annotations

import re
from typing import NamedTuple

from onward.errors import MalformedBody
from onward.runners.serve.exchange import Headers

_TENANT = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IDEMPOTENCY_KEY = re.compile(rb"[\x21-\x7e]{1,255}")


class Caller(NamedTuple):
    """Whose request it is, and the key by which the caller knows it again ("": none)."""

    tenant: str
    idempotency_key: str


def caller_of(headers: Headers) -> Caller:
    """Who asks, by the headers. Raises `MalformedBody`."""
    tenant = headers.get(b"x-onward-tenant", b"default")
    if not _TENANT.fullmatch(tenant):
        expected = "1 to 64 letters, digits, dots, hyphens and underscores"
        raise MalformedBody(where="x-onward-tenant", expected=expected, found=repr(tenant[:80].decode("latin-1")))
    key = headers.get(b"idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        expected = "1 to 255 visible ASCII characters"
        raise MalformedBody(where="idempotency-key", expected=expected, found=repr(key[:80].decode("latin-1")))
    return Caller(tenant.decode(), "" if key is None else key.decode())
