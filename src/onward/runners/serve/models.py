"""Which models are served: loads versions from a repository, routes to them, swaps and drains them.

A version goes load → verify → warm → swap → drain the old one. One that fails is named with its reason and leaves what
is served as it is. Lives on the event loop; the loading itself runs on a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

from onward.errors import ModelNotFound, OnwardError, PackageError, Unavailable
from onward.package.examples import read_examples
from onward.package.repository import Repository, version_key
from onward.pipeline import Pipeline
from onward.runners.serve.exchange import Headers, Route
from onward.runners.serve.served import ServedModel, Speed
from onward.telemetry import ModelMetrics

_log = logging.getLogger("onward.serve")
_MEASURED_ITEMS = 4
T = TypeVar("T")


class Models:
    """The models of one server. `routes` is the live table of the fast path."""

    def __init__(self, repository: Repository, pool: Executor, *, keep_versions: int = 1) -> None:
        self._repository = repository
        self._pool = pool
        self._keep_versions = keep_versions
        self.routes: dict[bytes, Route] = {}
        self._served: dict[str, dict[str, ServedModel]] = {}
        self.failed: dict[tuple[str, str], OnwardError] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._accepting = True
        self._scanned = False

    @property
    def ready(self) -> bool:
        """Everything found at the start is served, and no model is without a version because it failed."""
        return self._accepting and self._scanned and all(name in self._served for name, _ in self.failed)

    def names(self) -> list[str]:
        """The names of the served models."""
        return sorted(self._served)

    def get(self, name: str, version: str = "") -> ServedModel:
        """A served model, by default its newest version. Raises `ModelNotFound` or `Unavailable`."""
        versions = self._served.get(name)
        if not versions:
            error = next((error for (failed, _), error in self.failed.items() if failed == name), None)
            if error is not None:
                raise Unavailable(f"model {name!r} did not load ({error.code})")
            raise ModelNotFound(
                "no such model", where=name[:80], expected=f"one of {', '.join(self.names()) or 'none yet'}"
            )
        if version and version not in versions:
            raise ModelNotFound(
                f"no such version of model {name!r}", where=version[:80], expected=f"one of {', '.join(versions)}"
            )
        return versions[version or max(versions, key=version_key)]

    def versions(self, name: str) -> list[str]:
        """The served versions of a model, oldest first."""
        return sorted(self._served.get(name, {}), key=version_key)

    def all(self) -> list[ServedModel]:
        """Every served version."""
        return [served for versions in self._served.values() for served in versions.values()]

    def metrics(self) -> Iterable[ModelMetrics]:
        """The counters of every served version."""
        return [served.metrics for served in self.all()]

    async def scan(self) -> None:
        """Load what is new in the repository, the newest versions of each model."""
        names = await self._in_pool(self._repository.names)
        await asyncio.gather(*(self._scan_model(name) for name in names))
        self._scanned = True

    async def _scan_model(self, name: str) -> None:
        for version in (await self._in_pool(self._repository.versions, name))[-self._keep_versions :]:
            if version not in self._served.get(name, {}) and (name, version) not in self.failed:
                await self._load(name, version)

    async def watch(self, interval_s: float) -> None:
        """Scan, again and again; new versions are served as they appear."""
        while self._accepting:
            await asyncio.sleep(interval_s)
            try:
                await self.scan()
            except OnwardError as error:
                _log.error("repository: %s", error)

    def stop_accepting(self) -> None:
        """Say "not ready" from now on; what comes in is still answered."""
        self._accepting = False

    async def close(self) -> None:
        """Drain every model."""
        self._accepting = False
        await asyncio.gather(*(served.close() for served in self.all()), *self._draining)

    async def _in_pool(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    async def _load(self, name: str, version: str) -> None:
        try:
            pipeline, speed = await self._in_pool(self._open, name, version)
            served = ServedModel(pipeline, speed, self._pool)
        except OnwardError as error:
            self.failed[name, version] = error
            _log.error("%s %s did not load: %s: %s", name, version, error.code, error)
            return
        self._swap_in(served)
        way = "inline" if served.lane.inline else f"{pipeline.manifest.execute.instances} thread(s)"
        _log.info("%s %s is ready (a forward pass takes %.2f ms: %s)", name, version, speed.batch_s * 1e3, way)

    def _open(self, name: str, version: str) -> tuple[Pipeline, Speed]:
        pipeline = Pipeline.open(self._repository.path(name, version))
        if (pipeline.package.id.name, pipeline.package.id.version) != (name, version):
            raise PackageError(
                "the manifest names another package than the repository's folders",
                expected=f"{name} {version}", found=f"{pipeline.package.id.name} {pipeline.package.id.version}",
            )  # fmt: skip
        examples = read_examples(pipeline.package.folder)[:_MEASURED_ITEMS]
        return pipeline, Speed(pipeline, [example.input for example in examples])

    def _swap_in(self, served: ServedModel) -> None:
        name = served.id.name
        versions = self._served.setdefault(name, {})
        versions[served.id.version] = served
        self._route(served, served.id.version)
        if self.get(name) is served:
            self._route(served, "")
        for old in self.versions(name)[: -self._keep_versions]:
            self._retire(versions.pop(old))

    def _route(self, served: ServedModel, version: str) -> None:
        limit = served.pipeline.manifest.limits.body_bytes
        name = served.id.name
        suffix = f"/versions/{version}" if version else ""
        infer = Route(served.handle_infer, max_body_bytes=limit, wants=_is_not_encoded)
        plain = Route(served.handle_plain, max_body_bytes=limit, wants=_is_bare)
        for path, route in ((f"/v2/models/{name}{suffix}/infer", infer), (f"/models/{name}{suffix}", plain)):
            # A request whose body is still being read holds its route: it follows the route to the new version.
            self.routes.setdefault(path.encode(), route).become(route)

    def _retire(self, served: ServedModel) -> None:
        for path in [path for path, route in self.routes.items() if _belongs_to(route, served)]:
            del self.routes[path]
        task = asyncio.get_running_loop().create_task(served.close())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


def _belongs_to(route: Route, served: ServedModel) -> bool:
    return getattr(route.handler, "__self__", None) is served


def _is_not_encoded(headers: Headers) -> bool:
    return b"content-encoding" not in headers


def _is_bare(headers: Headers) -> bool:
    return _is_not_encoded(headers) and not headers.get(b"content-type", b"").lower().startswith(b"multipart/")
