"""Whether there are WebSockets here, and the voice endpoint where there are.

The package `websockets` is part of the extra `speech`: without it the server is as it was, and says what is missing.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from onward.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from onward.runners.serve.models import Models
    from onward.runners.serve.voice.endpoint import VoiceEndpoint


def is_installed() -> bool:
    """Whether WebSockets can be served."""
    return find_spec("websockets") is not None


def socket_protocol() -> Any:
    """What uvicorn takes as `ws`."""
    if not is_installed():
        return "none"
    from onward.runners.serve.voice.websocket import SocketProtocol

    return SocketProtocol


def voice_endpoint(models: Models) -> VoiceEndpoint | None:
    """The endpoint; None where WebSockets cannot be served."""
    if not is_installed():
        return None
    from onward.runners.serve.voice.endpoint import VoiceEndpoint

    return VoiceEndpoint(models)


async def not_a_socket(request: Request) -> Response:
    """Answer a plain request for the path of a WebSocket."""
    if not is_installed():
        raise MissingExtra("the voice loop needs WebSockets", expected="pip install 'onward[speech]'")
    raise UsageError("this path takes WebSockets", where=request.url.path, expected="a WebSocket handshake")
