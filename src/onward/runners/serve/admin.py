"""The admin port, loopback only: what is served, what failed and why."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onward.runners.serve.models import Models


def make_admin_app(models: Models) -> Starlette:
    """The ASGI application of the admin port."""

    async def index(request: Request) -> Response:
        """Every version with its state; the reason of a failure is told here and in the log only."""
        served = [
            {
                "name": model.id.name, "version": model.id.version, "digest": model.id.digest, "state": "ready",
                "inline": model.lane.inline, "batch_s": model.speed.batch_s, "prepare_s": model.speed.prepare_s,
                "queued_rows": model.lane.scheduler.queued_rows,
            }
            for model in models.all()
        ]  # fmt: skip
        failed = [
            {"name": name, "version": version, "state": "failed", "code": error.code, "reason": str(error)}
            for (name, version), error in models.failed.items()
        ]
        return JSONResponse({"ready": models.ready, "models": [*served, *failed]})

    return Starlette(routes=[Route("/admin/models", index, methods=["GET"])])
