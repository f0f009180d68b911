"""`GET /v1/models` and `/v1/models/{model}`: what can be used through this API, and what it is."""

from __future__ import annotations

from typing import Any

from onward.errors import ModelNotFound
from onward.package.digest import LOCK_FILE
from onward.runners.serve.models import AnyServed
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.forms import encode
from onward.runners.serve.openai.serving import Serving, ability


async def models(call: Call, serving: Serving) -> None:
    """List them."""
    listed = [_model(served, served.id.name) for served in serving.all()]
    await call.respond(encode({"object": "list", "data": listed}))


async def model(call: Call, serving: Serving) -> None:
    """Tell of one."""
    name: str = call.request.path_params["model"]
    served = serving.get(name)
    if ability(served) is None:
        raise ModelNotFound("there is no such model in this API", where=name[:80])
    await call.respond(encode(_model(served, name)))


def _model(served: AnyServed, name: str) -> dict[str, Any]:
    package = served.pipeline.manifest.package
    return {
        "id": name,
        "object": "model",
        "created": int((served.pipeline.package.folder / LOCK_FILE).stat().st_mtime),
        "owned_by": "onward",
        "version": served.id.version,
        "digest": served.id.digest,
        "task": package.task,
        "licence": package.licence,
        "description": package.description,
    }
