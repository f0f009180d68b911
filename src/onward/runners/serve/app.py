"""Everything that is not an inference request on its short way: health, metadata, metrics, the page, ASGI's way in.

Plain Starlette. Inference requests come here only when the fast path leaves them (multipart bodies, escaped paths, an
unknown model).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as StarletteRoute

import onward
from onward.errors import Cancelled, MalformedBody, MethodNotAllowed, NotFound, OnwardError, TooLarge
from onward.package.examples import read_examples
from onward.prepare.profile import Features
from onward.runners.serve.asgi import AsgiExchange
from onward.runners.serve.body import limited, read_body
from onward.runners.serve.exchange import Exchange, Route, error_body, error_headers, new_request_id
from onward.runners.serve.lines import MEDIA_TYPES, Lines
from onward.runners.serve.models import AnyServed, Models
from onward.runners.serve.openai.routes import openai_routes
from onward.runners.serve.openapi import document
from onward.runners.serve.policies import Policies
from onward.runners.serve.served import ServedModel
from onward.runners.serve.staged import StagedModel
from onward.runners.serve.statistics import statistics_routes
from onward.runners.serve.voice.measures import VoiceCollector
from onward.runners.serve.voice.routes import not_a_socket, voice_endpoint
from onward.telemetry import DecisionCollector, ModelCollector, StreamCollector
from onward.types import Field, TensorSpec

_EXAMPLES = 5
_EXAMPLES_BYTES = 2 << 20
_WORDS_OF_BOOL = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}
_PAGE = Path(__file__).parent / "page"
_PAGE_FILES = {
    **dict.fromkeys(
        ("page.js", "host.js", "chat.js", "docs.js", "stream.js", "voice.js", "microphone.js"), "text/javascript"
    ),
    "page.css": "text/css", "chat.css": "text/css", "icon.svg": "image/svg+xml",
}  # fmt: skip
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Endpoints:
    """The server's routes over its models."""

    def __init__(self, models: Models, policies: Policies | None) -> None:
        self._models = models
        self._policies = policies
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(ModelCollector(models.metrics))
        self.registry.register(StreamCollector(models.stream_metrics))
        if policies is not None:
            self.registry.register(DecisionCollector(policies.metrics, policies.backlog))

    def show_metrics(self, collector: Collector) -> None:
        """Tell these counters, too."""
        self.registry.register(collector)

    async def live(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Every model that was found is served, and the server is not draining."""
        ready = self._models.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server_metadata(self, request: Request) -> Response:
        """V2 server metadata."""
        return JSONResponse({"name": "onward", "version": onward.__version__, "extensions": ["binary_tensor_data"]})

    async def model_metadata(self, request: Request) -> Response:
        """V2 model metadata: the tensors of the batched graph, and the item's fields besides."""
        return JSONResponse(metadata(self._model(request), self._models))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model is served."""
        try:
            served = self._model(request)
            if isinstance(served, StagedModel):
                served.check()
        except OnwardError as error:
            return error_response(error)
        return JSONResponse({"name": request.path_params["name"], "ready": True})

    async def list_models(self, request: Request) -> Response:
        """What the page needs: every model with its fields."""
        return JSONResponse({"models": [metadata(served, self._models) for served in self._models.all()]})

    async def example(self, request: Request) -> Response:
        """Inputs of the first golden examples, for the page to fill in; files as base64."""
        served = self._models.get(request.path_params["name"], request.query_params.get("version", ""))
        return Response(await run_in_threadpool(examples_body, served), media_type="application/json")

    async def infer(self, request: Request) -> Response:
        """V2 inference, the long way."""
        return await self._exchange(request, lambda served, exchange: served.handle_infer(exchange))

    async def plain(self, request: Request) -> Response:
        """Plain inference, the long way; multipart bodies and those of many lines always come here."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            return await self._multipart(request)
        if kind in MEDIA_TYPES:
            manifest = self._model(request).pipeline.manifest
            return Lines(request, manifest, lambda: self._model(request).handle_plain, self._models.is_accepting)
        return await self._exchange(request, lambda served, exchange: served.handle_plain(exchange))

    async def metrics(self, request: Request) -> Response:
        """Prometheus' text format."""
        if self._policies is not None:
            await self._policies.refresh_backlog()
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def decision(self, request: Request) -> Response:
        """A recorded decision and where its actions stand; `wait_s` waits until they are settled."""
        if self._policies is None:
            raise NotFound(where=request.url.path)
        return JSONResponse(
            await self._policies.decisions.told(
                request.path_params["id"], dict(request.headers.raw), request.query_params.get("wait_s", "0")
            )
        )

    def of_profiles(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of that name over the store's profiles, once there is one."""

        async def endpoint(request: Request) -> Response:
            if self._policies is None:
                raise NotFound(where=request.url.path)
            answered: Response = await getattr(self._policies.profile_endpoints(self._features), name)(request)
            return answered

        return endpoint

    def _features(self) -> dict[str, Features]:
        newest = (self._models.get(name) for name in self._models.names())
        found = {one.id.name: one.pipeline.prepare.features for one in newest if isinstance(one, ServedModel)}
        return {name: features for name, features in found.items() if features is not None}

    async def openapi(self, request: Request) -> Response:
        """The routes and what is served, as OpenAPI."""
        newest = [self._models.get(name) for name in self._models.names()]
        return JSONResponse(document(self._models.all(), newest))

    async def docs(self, request: Request) -> Response:
        """OpenAPI as a page."""
        return FileResponse(_PAGE / "docs.html", headers=_PAGE_HEADERS, media_type="text/html; charset=utf-8")

    async def page(self, request: Request) -> Response:
        """The page, and the files it needs."""
        name = request.path_params.get("file", "index.html")
        if name != "index.html" and name not in _PAGE_FILES:
            raise NotFound(where=request.url.path)
        media_type = _PAGE_FILES.get(name, "text/html; charset=utf-8")
        return FileResponse(_PAGE / name, headers=_PAGE_HEADERS, media_type=media_type)

    def _model(self, request: Request) -> AnyServed:
        return self._models.get(request.path_params["name"], request.path_params.get("version", ""))

    async def _exchange(self, request: Request, handle: Callable[[AnyServed, Exchange], None]) -> Response:
        limit = self._model(request).pipeline.manifest.limits.body_bytes
        body = await read_body(request, limit)
        # Looked up again: while the body was read, a new version may have taken the place of the old one.
        served = self._model(request)
        exchange = AsgiExchange(Route(partial(handle, served), max_body_bytes=limit), request)
        exchange.body = body
        return await exchange.answer()

    async def _multipart(self, request: Request) -> Response:
        served = self._model(request)
        limit = served.pipeline.manifest.limits.body_bytes
        length = int(request.headers.get("content-length", "0"))
        if length > limit:
            raise TooLarge(where="body", expected=f"at most {limit} bytes", found=f"{length} bytes")
        fields = {field.name: field for field in served.signature.inputs}
        try:
            async with limited(request, limit).form(max_files=16, max_fields=256, max_part_size=limit) as form:
                item = {name: await _part(name, value, fields) for name, value in form.items()}
        except HTTPException as error:
            raise MalformedBody(where="body", expected="multipart/form-data", found=str(error.detail)) from None
        served = self._model(request)
        item = {_only_file(name, fields): value for name, value in item.items()}
        exchange = AsgiExchange(Route(lambda one: served.handle_form(one, item), max_body_bytes=limit), request)
        exchange.body = max((value for value in item.values() if isinstance(value, bytes)), key=len, default=b"")
        return await exchange.answer()


def metadata(served: AnyServed, models: Models) -> dict[str, Any]:
    """V2 model metadata of a served version, with the item's fields and what the package says of itself."""
    manifest = served.pipeline.manifest
    signature = served.signature
    return {
        "name": served.id.name,
        "versions": models.versions(served.id.name),
        "platform": "onward_stages" if manifest.stages else f"onward_{manifest.execute.backend}",
        "providers": list(getattr(served.pipeline, "providers", ())),
        "inputs": [_tensor(spec) for spec in signature.tensor_inputs],
        "outputs": [_tensor(spec) for spec in signature.tensor_outputs],
        "package": {
            "version": served.id.version,
            "digest": served.id.digest,
            "task": manifest.package.task,
            "licence": manifest.package.licence,
            "description": manifest.package.description,
        },
        "decides": served.decider is not None,
        "talks": served.pipeline.dialogue is not None,
        "stages": [{"name": one.name, "package": one.package, "version": one.version} for one in manifest.stages],
        "fields": {
            "inputs": [_field(field) for field in signature.inputs],
            "outputs": [_field(field) for field in signature.outputs],
        },
    }


def examples_body(served: AnyServed) -> bytes:
    """The first few golden examples' inputs as JSON, without those too large to send a page."""
    media = {field.name for field in served.signature.inputs if field.content in ("image", "audio")}
    shown: list[bytes] = []
    size = 0
    for example in read_examples(served.pipeline.package.folder)[:_EXAMPLES]:
        item = {
            name: value.decode("utf-8", "replace") if isinstance(value, bytes) and name not in media else value
            for name, value in example.input.items()
        }
        one = msgspec.json.encode({"name": example.name, "input": item})  # bytes become base64 text
        if size + len(one) <= _EXAMPLES_BYTES:
            size += len(one)
            shown.append(one)
    return b'{"examples":[' + b",".join(shown) + b"]}"


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _field(field: Field) -> dict[str, Any]:
    optional = {
        "units": field.units, "minimum": field.minimum, "maximum": field.maximum, "default": field.default,
        "categories": list(field.categories), "description": field.description,
    }  # fmt: skip
    fixed = {"name": field.name, "datatype": field.datatype, "shape": list(field.shape), "content": field.content}
    flags = {"required": field.required, "on_request": field.on_request}
    return fixed | flags | {key: value for key, value in optional.items() if value not in (None, "", [])}


async def _part(name: str, value: UploadFile | str, fields: dict[str, Field]) -> Any:
    """A form part as a field's value: files as bytes, numbers as numbers."""
    if isinstance(value, UploadFile):
        return await value.read()
    field = fields.get(name)
    if field is None or field.datatype == "BYTES":
        return value
    if field.datatype == "BOOL" and value.lower() in _WORDS_OF_BOOL:
        return _WORDS_OF_BOOL[value.lower()]
    try:
        return float(value) if field.datatype.startswith("FP") else int(value)
    except ValueError:
        raise MalformedBody(where=name, expected=field.datatype, found=repr(value[:60])) from None


def _only_file(name: str, fields: dict[str, Field]) -> str:
    """A file under any name goes to the only media field there is: people call it `file`."""
    media = [field.name for field in fields.values() if field.content in ("image", "audio")]
    return media[0] if name not in fields and len(media) == 1 and name == "file" else name


def error_response(error: OnwardError) -> Response:
    """An error as every route tells it."""
    request_id = new_request_id()
    headers = {name.decode(): value.decode() for name, value in (error_headers(error) or {}).items()}
    body = error_body(error, request_id)
    return Response(body, error.status, headers | {"x-request-id": request_id.decode()}, "application/json")


async def on_onward_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of our errors."""
    assert isinstance(error, OnwardError)
    return error_response(error)


async def on_client_gone(request: Request, error: Exception) -> Response:
    """Starlette's handler where the client left in the middle of its request: nobody reads this."""
    return error_response(Cancelled())


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler of its own errors: told as ours are."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:  # Starlette's order is another one in each process
        allowed = headers["Allow"] = ", ".join(sorted(headers.get("Allow", "").split(", ")))
        wrong: OnwardError = MethodNotAllowed(where=request.url.path, expected=allowed, found=request.method)
    else:
        wrong = NotFound(where=request.url.path) if error.status_code == 404 else MalformedBody(str(error.detail))
    response = error_response(wrong)
    response.status_code = error.status_code
    response.headers.update(headers)
    return response


def make_app(models: Models, policies: Policies | None = None) -> Starlette:
    """The ASGI application of one server."""
    on = Endpoints(models, policies)
    get: list[tuple[str, Callable[[Request], Awaitable[Response]]]] = [
        ("/", on.page),
        ("/page/{file}", on.page),
        ("/metrics", on.metrics),
        ("/openapi.json", on.openapi),
        ("/docs", on.docs),
        ("/decisions/{id}", on.decision),
        ("/profiles/{entity}", on.of_profiles("read")),
        ("/profiles/{entity}/events", on.of_profiles("events")),
        ("/models", on.list_models),
        ("/models/{name}/example", on.example),
        ("/voice/{name}", not_a_socket),
        ("/v2", on.server_metadata),
        ("/v2/health/live", on.live),
        ("/v2/health/ready", on.ready),
    ]
    post = [("/profiles/{entity}/events", on.of_profiles("add_events"))]
    for version in ("", "/versions/{version}"):
        get.append(("/v2/models/{name}" + version, on.model_metadata))
        get.append(("/v2/models/{name}" + version + "/ready", on.model_ready))
        post.append(("/v2/models/{name}" + version + "/infer", on.infer))
        post.append(("/models/{name}" + version, on.plain))
    routes: list[BaseRoute] = [*statistics_routes(models)]  # before a model's name may be anything
    routes += [StarletteRoute(path, endpoint, methods=["GET"]) for path, endpoint in get]
    routes += [StarletteRoute(path, endpoint, methods=["POST"]) for path, endpoint in post]
    routes.append(StarletteRoute("/profiles/{entity}", on.of_profiles("erase"), methods=["DELETE"]))
    voice = voice_endpoint(models)
    if voice is not None:
        on.show_metrics(VoiceCollector(voice.measures))
        routes.append(WebSocketRoute("/voice/{name}", voice.serve))
    handlers = {OnwardError: on_onward_error, HTTPException: on_http_error, ClientDisconnect: on_client_gone}
    app = Starlette(routes=[*routes, *openai_routes(models)], exception_handlers=handlers)
    app.state.metrics = on.metrics  # the admin port shows the same
    app.state.registry = on.registry
    return app
