"""The model repository extension of V2, as Triton has it, on the admin port: what there is, load, unload.

Knows the models and the extension's bodies; not how a version is loaded.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onward.errors import MalformedBody, PackageError, TooLarge, UsageError
from onward.package.repository import version_key
from onward.runners.serve.models import Models
from onward.runners.serve.staged import StagedModel

_BODY_BYTES = 1 << 20


class _Index(msgspec.Struct):
    ready: bool = False


class _Load(msgspec.Struct):
    parameters: dict[str, Any] = {}


class RepositoryEndpoints:
    """The extension's routes over one server's models."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def routes(self) -> list[Route]:
        """For the admin port."""
        return [
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/v2/repository/models/{name}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{name}/unload", self.unload, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        """Every version with its state; `{"ready": true}` asks for those only that can be used."""
        only_ready = (await _said(request, _Index)).ready
        models = self._models
        found = [
            {"name": served.id.name, "version": served.id.version, "state": "READY", "reason": ""}
            for served in models.all()
        ]
        if not only_ready:
            found += [
                {"name": name, "version": version, "state": "UNAVAILABLE", "reason": f"{error.code}: {error}"}
                for (name, version), error in models.failed.items()
            ]
            found += [
                {"name": name, "version": "", "state": "UNAVAILABLE", "reason": "unloaded"} for name in models.unloaded
            ]
        return JSONResponse(sorted(found, key=lambda one: (one["name"], version_key(one["version"] or "0"))))

    async def load(self, request: Request) -> Response:
        """Serve a model (again), and answer once it is; of one that is served already, look for a newer version."""
        said = await _said(request, _Load)
        if said.parameters:  # a configuration or files in the request: packages are immutable
            raise UsageError(
                "a package is loaded as it lies in the repository", where="parameters", expected="none",
                found=", ".join(said.parameters)[:80],
            )  # fmt: skip
        await self._models.load(request.path_params["name"])
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Serve a model no longer, until it is loaded; what is queued is answered.

        `{"parameters": {"unload_dependents": true}}` unloads the packages of stages that need it, too.
        """
        said = await _said(request, _Load)
        name = request.path_params["name"]
        if said.parameters.get("unload_dependents") is True:
            for dependent in self._dependents(name):
                await self._models.unload(dependent)
        try:
            await self._models.unload(name)
        except PackageError as error:
            raise UsageError(error.message, where=name, expected="unload_dependents: true") from None
        return JSONResponse({})

    def _dependents(self, name: str) -> list[str]:
        """The served packages of stages that need a model, those that need others of them first."""
        direct = {
            served.id.name
            for served in self._models.all()
            if isinstance(served, StagedModel) and any(stage.package == name for stage in served.manifest.stages)
        }
        above = [dependent for one in sorted(direct) for dependent in self._dependents(one)]
        return list(dict.fromkeys([*above, *sorted(direct)]))


async def _said(request: Request, kind: type[Any]) -> Any:
    """The body: JSON, or nothing, as clients of Triton send it, without saying what it is."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_BYTES:
            raise TooLarge(where="body", expected=f"at most {_BODY_BYTES} bytes", found="more")
    try:
        return msgspec.json.decode(body, type=kind) if body.strip() else kind()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(where="body", expected="JSON", found=str(error)) from None
