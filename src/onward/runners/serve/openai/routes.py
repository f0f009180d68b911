"""The routes under `/v1`, and what becomes of errors there: every answer, also of a path that is not there, has
OpenAI's form.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from onward.errors import MethodNotAllowed, NotFound, OnwardError
from onward.runners.serve.models import Models
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.chat import chat
from onward.runners.serve.openai.completions import completions
from onward.runners.serve.openai.embeddings import embeddings
from onward.runners.serve.openai.forms import failure
from onward.runners.serve.openai.models import model, models
from onward.runners.serve.openai.serving import Serving
from onward.runners.serve.openai.speech import speech
from onward.runners.serve.openai.transcriptions import transcriptions

_log = logging.getLogger("onward.serve")
Endpoint: TypeAlias = Callable[[Call, Serving], Awaitable[None]]

_ENDPOINTS: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/chat/completions", chat),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/embeddings", embeddings),
    ("POST", "/v1/audio/speech", speech),
    ("POST", "/v1/audio/transcriptions", transcriptions),
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{model}", model),
)


def openai_routes(served: Models) -> list[BaseRoute]:
    """The routes of the OpenAI API over a server's models."""
    serving = Serving(served)
    routes = [Route(path, _Asgi(endpoint, serving), methods=[method]) for method, path, endpoint in _ENDPOINTS]
    return [*routes, Mount("/v1", app=_Asgi(partial(_refuse, routes), serving))]


async def _refuse(routes: Sequence[Route], call: Call, serving: Serving) -> None:
    """What is left: paths that are not there, and methods that a path does not take."""
    scope = call.request.scope
    path = scope["path"][:200]
    whole = {**scope, "root_path": ""}  # as it was before it came to the mount
    for route in routes:
        if route.matches(whole)[0] == Match.PARTIAL:
            taken = ", ".join(sorted(route.methods or ()))
            raise MethodNotAllowed(where=path, expected=taken, found=scope["method"])
    raise NotFound(f"there is no {scope['method']} {path}")


class _Asgi:
    """An endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, serving: Serving) -> None:
        self._endpoint = endpoint
        self._serving = serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send)
        try:
            await self._endpoint(call, self._serving)
        except OnwardError as error:
            await _fail(call, error)
        except asyncio.CancelledError:
            if not call.gone:
                raise
        except Exception as error:
            _log.error("request %s failed", call.request_id, exc_info=error)
            await _fail(call, OnwardError("internal error; the server's log has the details under this request id"))


async def _fail(call: Call, error: OnwardError) -> None:
    """Tell of an error: as the answer, or at the end of what has been told already."""
    if not call.begun:
        await call.fail(error)
    elif not call.ended:
        await call.end(failure(error))
