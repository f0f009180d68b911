"""Which models are served: loads versions from a repository, routes to them, swaps and drains them.

A version goes load → verify → warm → swap → drain the old one. One that fails is named with its reason, leaves what is
served as it is, and is tried again when its folder changes. Lives on the event loop; the loading runs on threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from onward.errors import ModelNotFound, OnwardError, PackageError, Unavailable
from onward.package.digest import LOCK_FILE
from onward.package.examples import read_examples
from onward.package.package import Package, open_package, verified_manifest
from onward.package.repository import Repository, version_key
from onward.package.trust import read_trusted_lock
from onward.pipeline import Pipeline
from onward.runners.serve.exchange import Headers, Route
from onward.runners.serve.lines import MEDIA_TYPES
from onward.runners.serve.policies import Policies
from onward.runners.serve.sent_events import is_asked_for
from onward.runners.serve.served import ServedModel, Speed
from onward.runners.serve.staged import StagedModel
from onward.runners.serve.streams import StreamedModel
from onward.streaming import STREAMING_BACKENDS, StreamingPipeline
from onward.telemetry import ModelMetrics, StreamMetrics

_log = logging.getLogger("onward.serve")
_MEASURED_ITEMS = 4
# Bodies in parts, or of many lines.
_IN_PARTS = (b"multipart/", *(name.encode() for name in MEDIA_TYPES))
T = TypeVar("T")
AnyServed: TypeAlias = ServedModel | StreamedModel | StagedModel
Stamp: TypeAlias = tuple[int, ...]
"""When a file last changed, as the file system tells it; empty where it tells nothing."""


class Models:
    """The models of one server. `routes` is the live table of the fast path.

    Requests are prepared on `pool`, versions are loaded on `loader`, so that loading keeps nobody waiting. `policies`
    gives packages with a policy their deciders; without it they are not served.
    """

    def __init__(
        self,
        repository: Repository,
        pool: Executor,
        *,
        loader: Executor | None = None,
        keep_versions: int = 1,
        policies: Policies | None = None,
    ) -> None:
        self._repository = repository
        self._pool = pool
        self._loader = loader or pool
        self._keep_versions = keep_versions
        self._policies = policies
        self.routes: dict[bytes, Route] = {}
        self._served: dict[str, dict[str, AnyServed]] = {}
        self.failed: dict[tuple[str, str], OnwardError] = {}
        # Of those that failed, the packages of stages that are whole but whose stages are not served (yet).
        self._waiting: dict[tuple[str, str], Package] = {}
        # The files of each version as they were just before it was loaded, or failed to.
        self._stamps: dict[tuple[str, str], dict[str, Stamp]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._accepting = True
        self._scanned = False
        self._expected: set[str] | None = None
        self._scanning = asyncio.Lock()
        # Not ready whatever is served: other workers of the same server are not.
        self.held = False
        # Models that are not to be served whatever is on the disk; versions that did not load in another worker, and
        # the code of their error.
        self.unloaded: set[str] = set()
        self.avoided: dict[tuple[str, str], str] = {}

    @property
    def ready(self) -> bool:
        """Every model found at the start, and not removed since, is served. Those that came later do not count."""
        return self.complete and not self.held

    @property
    def looked(self) -> bool:
        """The repository has been looked through once."""
        return self._scanned

    @property
    def complete(self) -> bool:
        """The same of this process alone, where several serve together."""
        return self._accepting and self._scanned and all(name in self._served for name in self._expected or ())

    def names(self) -> list[str]:
        """The names of the served models."""
        return sorted(self._served)

    def get(self, name: str, version: str = "") -> AnyServed:
        """A served model, by default its newest version. Raises `ModelNotFound` or `Unavailable`."""
        versions = self._served.get(name)
        if not versions:
            codes = {key: error.code for key, error in self.failed.items()} | self.avoided
            code = next((code for (failed, _), code in codes.items() if failed == name), "")
            if code:
                raise Unavailable(f"model {name!r} did not load ({code})")
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

    def all(self) -> list[AnyServed]:
        """Every served version."""
        return [served for versions in self._served.values() for served in versions.values()]

    def metrics(self) -> Iterable[ModelMetrics]:
        """The counters of every served version."""
        return [served.metrics for served in self.all()]

    def stream_metrics(self) -> Iterable[StreamMetrics]:
        """The counters of every served version that streams."""
        return [served.stream_metrics for served in self.all() if isinstance(served, StreamedModel)]

    async def load(self, name: str) -> None:
        """Look for a model's versions now, and serve it again if it was unloaded.

        Raises `ModelNotFound`, or `Unavailable` where a version did not load, although an older one may be served.
        """
        async with self._scanning:
            self.unloaded.discard(name)
            await self._scan_model(name)
            await self._load_waiting()
        self.get(name)
        for (failed, version), error in self.failed.items():
            if failed == name:
                raise Unavailable(f"{name} {version} did not load: {error.code}: {error}")

    async def unload(self, name: str) -> None:
        """Serve none of a model's versions, whatever is on the disk, until it is loaded; what is queued is answered.

        Raises `ModelNotFound`, or `PackageError` where a package of stages needs it.
        """
        async with self._scanning:
            self.get(name)
            if self._pinned(name):
                raise PackageError("a package of stages that is served needs this model", where=name)
            self.unloaded.add(name)
            await self._scan_model(name)

    async def scan(self) -> None:
        """Serve the newest versions of each model that load, and no longer what is gone. What goes wrong is logged."""
        async with self._scanning:
            await self._scan()

    async def _scan(self) -> None:
        try:
            on_disk = await self._in_loader(self._names_on_disk)
        except Exception as error:  # the next scan finds it better, perhaps; the one after that should still come
            _log.error("the repository cannot be read: %s: %s", type(error).__name__, error)
            return
        if self._expected is None:
            self._expected = set(on_disk)
        known = {*on_disk, *self._served, *(name for name, _ in self.failed)}
        await asyncio.gather(*(self._scan_model(name) for name in sorted(known)))
        await self._load_waiting()
        self._scanned = True

    async def _scan_model(self, name: str) -> None:
        try:
            on_disk = await self._in_loader(self._versions_on_disk, name)
            kept: list[str] = []
            walked: set[str] = set()
            for version in reversed(on_disk):
                if len(kept) == self._keep_versions:
                    break
                if (name, version) in self.avoided:
                    continue
                walked.add(version)
                if await self._is_up(name, version):
                    kept.append(version)
            for version in sorted(self._pinned(name) & {*on_disk} - walked):
                walked.add(version)
                if await self._is_up(name, version):
                    kept.append(version)
        except Exception:
            _log.exception("model %s could not be looked at", name)
            return
        for key in [key for key in self.failed if key[0] == name and key[1] not in walked]:
            del self.failed[key]
            self._waiting.pop(key, None)
            self._stamps.pop(key, None)
        if not on_disk and self._expected is not None:
            self._expected.discard(name)
        if kept or not on_disk:  # a version that is gone serves on until another one can
            self._keep_only(name, kept)

    async def _load_waiting(self) -> None:
        """Serve the packages of stages whose stages are served by now; also those that are stages themselves."""
        progress = True
        while progress:
            progress = False
            for (name, version), package in list(self._waiting.items()):
                for stage in package.manifest.stages:
                    if stage.version not in self._served.get(stage.package, {}):
                        on_disk = await self._in_loader(self._versions_on_disk, stage.package)
                        if stage.version in on_disk and (stage.package, stage.version) not in self.failed:
                            await self._is_up(stage.package, stage.version)
                progress = self._stage(package) or progress
                if version in self._served.get(name, {}):
                    self._waiting.pop((name, version), None)

    def _stage(self, package: Package) -> bool:
        """Serve a package of stages, if its stages are; else it waits for them, and the error names one."""
        key = (package.id.name, package.id.version)
        try:
            served = StagedModel(package, self)
        except OnwardError as error:
            self._waiting[key] = package
            if str(self.failed.get(key)) != str(error):
                self._fail(*key, error)
            return False
        self.failed.pop(key, None)
        self._waiting.pop(key, None)
        self._swap_in(served)
        _log.info("%s %s is ready: %s", *key, " → ".join(stage.name for stage in package.manifest.stages))
        return True

    def _pinned(self, name: str) -> set[str]:
        """The versions of a model that packages of stages were packed with: they are served besides the newest."""
        packages = [served.pipeline.package for served in self.all() if isinstance(served, StagedModel)]
        stages = [stage for package in (*packages, *self._waiting.values()) for stage in package.manifest.stages]
        return {stage.version for stage in stages if stage.package == name}

    def _names_on_disk(self) -> tuple[str, ...]:
        if self._served and not self._repository.root.exists():
            # A disk that went away is no order to unload everything.
            raise PackageError("the repository is gone", where=str(self._repository.root))
        return self._repository.names()

    def _versions_on_disk(self, name: str) -> tuple[str, ...]:
        if name in self.unloaded:
            return ()
        try:
            return self._repository.versions(name)
        except ModelNotFound:
            return ()

    async def _is_up(self, name: str, version: str) -> bool:
        """Whether a version is served, once it has been loaded where it is new or has changed."""
        served = self._served.get(name, {}).get(version)
        if await self._in_loader(self._has_changed, name, version, served.id.digest if served else ""):
            await self._load(name, version)
        return version in self._served.get(name, {})

    def _has_changed(self, name: str, version: str, served_digest: str) -> bool:
        """Whether to load a version: it is new, it failed and is not the same any more, or its lock has another digest.

        Of what is served, and that is nearly everything, one file is looked at.
        """
        key = (name, version)
        folder = self._repository.path(name, version)
        stamps = self._stamps.get(key, {})
        if key in self.failed:
            return _stamps_of(folder) != stamps
        stamp = _stamp_of(folder / LOCK_FILE)
        if served_digest and stamp == stamps.get(LOCK_FILE):
            return False
        try:
            if read_trusted_lock(folder).digest != served_digest:
                return True
        except OnwardError:
            return True  # loading it says what is wrong
        stamps[LOCK_FILE] = stamp
        return False

    async def watch(self, interval_s: float) -> None:
        """Scan, again and again; new versions are served as they appear."""
        while self._accepting:
            await asyncio.sleep(interval_s)
            await self.scan()

    def is_accepting(self) -> bool:
        """Whether the server means to stay."""
        return self._accepting

    def stop_accepting(self) -> None:
        """Say "not ready" from now on; what comes in is still answered."""
        self._accepting = False

    async def close(self) -> None:
        """Drain every model."""
        self._accepting = False
        # What is on its way through stages needs them until its end.
        await asyncio.gather(*(served.close() for served in self.all() if isinstance(served, StagedModel)))
        await asyncio.gather(*(served.close() for served in self.all()), *self._draining)

    async def _in_loader(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loader, call, *arguments)

    async def _load(self, name: str, version: str) -> None:
        try:
            opened = await self._in_loader(self._open, name, version)
            if isinstance(opened, Package):
                self._waiting[name, version] = opened  # at the end of the scan its stages are served
                return
            if isinstance(opened, StreamingPipeline):
                self.failed.pop((name, version), None)
                self._swap_in(StreamedModel(opened, self._pool))
                _log.info("%s %s is ready: %d streams at a time", name, version, opened.manifest.execute.slots)
                return
            pipeline, speed = opened
            try:
                served = ServedModel(pipeline, speed, self._pool)
                if self._policies is not None:
                    self._policies.equip(served)
            except BaseException:
                pipeline.close()
                raise
        except OnwardError as error:
            self._fail(name, version, error)
            return
        except Exception as error:  # files that change while they are read, for one
            _log.debug("%s %s did not load", name, version, exc_info=True)
            self._fail(name, version, PackageError(f"{type(error).__name__}: {error}"))
            return
        self.failed.pop((name, version), None)
        self._swap_in(served)
        way = "inline" if served.lane.inline else f"{pipeline.manifest.execute.instances} thread(s)"
        _log.info("%s %s is ready (a forward pass takes %.2f ms: %s)", name, version, speed.batch_s * 1e3, way)

    def _fail(self, name: str, version: str, error: OnwardError) -> None:
        _log.error("%s %s did not load: %s: %s", name, version, error.code, error)
        # The frames of a traceback hold the model that failed, and its memory.
        error.__cause__ = error.__context__ = None
        self.failed[name, version] = error.with_traceback(None)

    def _open(self, name: str, version: str) -> tuple[Pipeline, Speed] | StreamingPipeline | Package:
        """The pipeline of a version, warm, and how fast it is, unless it streams; a package of stages as it is."""
        folder = self._repository.path(name, version)
        self._stamps[name, version] = _stamps_of(folder)  # first: what changes while it loads is seen by the next scan
        manifest = verified_manifest(folder)
        if manifest.stages:
            package = open_package(folder)
            _check_named(package, name, version)
            return package
        if manifest.execute.backend in STREAMING_BACKENDS:
            streaming = StreamingPipeline.open(folder)
            try:
                _check_named(streaming.package, name, version)
            except BaseException:
                streaming.close()
                raise
            return streaming
        pipeline = Pipeline.open(folder)
        try:
            _check_named(pipeline.package, name, version)
            if pipeline.policy is not None or pipeline.prepare.features is not None:
                if self._policies is None:
                    raise PackageError("the package has a policy or a profile, and there is no store here")
                self._policies.open()
            examples = read_examples(pipeline.package.folder)[:_MEASURED_ITEMS]
            return pipeline, Speed(pipeline, [example.input for example in examples])
        except BaseException:
            pipeline.close()
            raise

    def _swap_in(self, served: AnyServed) -> None:
        name = served.id.name
        versions = self._served.setdefault(name, {})
        replaced = versions.get(served.id.version)
        versions[served.id.version] = served
        self._route(served, served.id.version)
        if self.get(name) is served:
            self._route(served, "")
        if replaced is not None:
            self._retire(replaced)

    def _keep_only(self, name: str, kept: Collection[str]) -> None:
        versions = self._served.get(name, {})
        retired = [versions.pop(version) for version in self.versions(name) if version not in kept]
        if not versions:
            self._served.pop(name, None)
        elif retired:
            self._route(self.get(name), "")  # before the routes of the old ones go, so that the name has always one
        for old in retired:
            _log.info("%s %s is not served any more", name, old.id.version)
            self._stamps.pop((name, old.id.version), None)
            self._retire(old)

    def _route(self, served: AnyServed, version: str) -> None:
        limit = served.pipeline.manifest.limits.body_bytes
        name = served.id.name
        suffix = f"/versions/{version}" if version else ""
        infer = Route(served.handle_infer, max_body_bytes=limit, wants=_is_not_encoded)
        wants = _is_bare if isinstance(served, ServedModel) else _is_whole
        plain = Route(served.handle_plain, max_body_bytes=limit, wants=wants)
        for path, route in ((f"/v2/models/{name}{suffix}/infer", infer), (f"/models/{name}{suffix}", plain)):
            # A request whose body is still being read holds its route: it follows the route to the new version.
            self.routes.setdefault(path.encode(), route).become(route)

    def _retire(self, served: AnyServed) -> None:
        for path in [path for path, route in self.routes.items() if _belongs_to(route, served)]:
            del self.routes[path]
        task = asyncio.get_running_loop().create_task(served.close())
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


def _check_named(package: Package, name: str, version: str) -> None:
    if (package.id.name, package.id.version) != (name, version):
        raise PackageError(
            "the manifest names another package than the repository's folders",
            expected=f"{name} {version}", found=f"{package.id.name} {package.id.version}",
        )  # fmt: skip


def _stamps_of(folder: Path) -> dict[str, Stamp]:
    """The stamp of every file in a folder, by its path."""
    return {
        os.path.relpath(file, folder): _stamp_of(file)
        for inner, _, names in os.walk(folder)
        for file in (Path(inner, name) for name in names)
    }


def _stamp_of(file: Path) -> Stamp:
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return ()
    # The time of the change, not only of the contents: becoming readable may be what a package needed.
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _belongs_to(route: Route, served: AnyServed) -> bool:
    return getattr(route.handler, "__self__", None) is served


def _is_not_encoded(headers: Headers) -> bool:
    return b"content-encoding" not in headers


def _is_whole(headers: Headers) -> bool:
    """Neither in parts nor to be answered piece by piece: ASGI does both."""
    return _is_bare(headers) and not is_asked_for(headers)


def _is_bare(headers: Headers) -> bool:
    return _is_not_encoded(headers) and not headers.get(b"content-type", b"").lower().startswith(_IN_PARTS)
