"""Errors as the OpenAI API tells them: `{"error": {"message", "type", "param", "code"}}`, with the right status.

Everything that goes wrong under `/v1` leaves through here, so that the official client raises the exception it would
raise anywhere else. Knows nothing of requests or models.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from onward.errors import (
    DeadlineExceeded,
    InputError,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    OnwardError,
    Overloaded,
)
from onward.runners.serve.exchange import error_headers

_encode = msgspec.json.Encoder().encode
_STATUS_OF_CODE = {"model_not_found": 404}


class Refused(InputError):
    """The request asks for what this API, or the model, does not do.

    `param` is the path of the parameter, as in `messages[0].content`; `kind` the API's own word for what is wrong.
    """

    def __init__(self, message: str, *, param: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.param = param
        self.kind = kind


class Told(NamedTuple):
    """An error as it leaves: status, body, and the headers that go with it."""

    status: int
    body: bytes
    headers: dict[str, str]


def tell(error: OnwardError) -> Told:
    """The error's answer."""
    headers = {name.decode(): value.decode() for name, value in (error_headers(error) or {}).items()}
    if "x-onward-retry-after-ms" in headers:  # the official client looks for this one first
        headers["retry-after-ms"] = headers["x-onward-retry-after-ms"]
    if isinstance(error, DeadlineExceeded):
        headers["x-should-retry"] = "false"  # the client would ask twice more, and wait as long in vain
    elif isinstance(error, MethodNotAllowed):
        headers["allow"] = error.expected
    return Told(_status(error), _encode(error_object(error)), headers)


def error_object(error: OnwardError) -> dict[str, Any]:
    """The error's body, also sent as an event where a stream has begun."""
    param, code = error.where or None, error.code.lower()
    if isinstance(error, Refused):
        param, code = error.param or None, error.kind or "invalid_value"
    elif isinstance(error, ModelNotFound):
        param = "model"
    elif isinstance(error, Overloaded):
        code = "rate_limit_exceeded"
    elif isinstance(error, MethodNotAllowed | NotFound):
        param = None
    return {"error": {"message": str(error), "type": _type(error), "param": param, "code": code}}


def _status(error: OnwardError) -> int:
    if isinstance(error, Refused):
        return _STATUS_OF_CODE.get(error.kind, error.status)
    return error.status


def _type(error: OnwardError) -> str:
    if isinstance(error, Overloaded):
        return "rate_limit_error"
    if isinstance(error, DeadlineExceeded):
        return "timeout_error"
    return "invalid_request_error" if error.status < 500 else "server_error"
