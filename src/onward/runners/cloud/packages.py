"""Which packages a deployment serves: the newest version of each, and those that packages of stages are made of.

Every one is verified by its digest where it is found, and again where it was copied to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onward.errors import ModelNotFound
from onward.package.manifest import DIALOGUE_FILE, POLICY_FILE
from onward.package.package import Package, open_package
from onward.package.repository import Repository
from onward.package.stages import locate, pin_of, read_pins
from onward.runners.local import DEFAULT_REPOSITORY, find
from onward.streaming import STREAMING_BACKENDS

_EXTRAS = {"llama": ("llm",), "whisper": ("speech",), "piper": ("speech", "phonemes")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """One package version to serve: where it lies, who it is, what it needs, how much its queue holds.

    `asked` is False for what is there only as a stage of another one. `queue_tokens` is 0 where it does not stream;
    otherwise rows do not count. `runs_python` says that it imports who knows what.
    """

    folder: Path
    name: str
    version: str
    digest: str
    licence: str
    task: str
    size_bytes: int
    asked: bool
    decides: bool
    runs_python: bool
    extras: tuple[str, ...]
    providers: tuple[str, ...]
    queue_rows: int
    queue_tokens: int


def collect(source: str) -> tuple[Packaged, ...]:
    """What a package (path, archive or name) or a repository has to serve. Raises `ModelNotFound` for nothing."""
    path = Path(source)
    repository = Repository(path) if path.exists() else Repository(find(source))
    roots = [repository.root.resolve()]
    found: dict[tuple[str, str], Packaged] = {}
    for name in repository.names():
        folder = repository.path(name)
        _add(open_package(folder), [*roots, folder.resolve().parent.parent, DEFAULT_REPOSITORY], found, asked=True)
    if not found:
        raise ModelNotFound("no packages to deploy", where=source, expected="a package or a repository of packages")
    return tuple(found[key] for key in sorted(found))


def copy(packages: tuple[Packaged, ...], to: Path) -> None:
    """Copy packages into a new repository; raises `DigestMismatch` where a copy is not what was verified."""
    to.mkdir(parents=True)
    repository = Repository(to)
    for one in packages:
        repository.install(one.folder)


def _add(package: Package, roots: list[Path], found: dict[tuple[str, str], Packaged], *, asked: bool) -> None:
    key = (package.id.name, package.id.version)
    if key in found:
        found[key] = replace(found[key], asked=asked or found[key].asked)
        return
    found[key] = _described(package, asked)
    pins = read_pins(package.folder, package.manifest) if package.manifest.stages else {}
    for stage in package.manifest.stages:
        _add(open_package(locate(stage, roots, pins.get(pin_of(stage), ""))), roots, found, asked=False)


def _described(package: Package, asked: bool) -> Packaged:
    folder, manifest = package.folder, package.manifest
    backend = manifest.execute.backend
    decides = any((folder / file).is_file() for file in (POLICY_FILE, DIALOGUE_FILE))
    spoken = manifest.package.task == "voice-assistant"
    needs = {*_EXTRAS.get(backend, ()), *(("decide",) if decides else ()), *(("speech",) if spoken else ())}
    return Packaged(
        folder=folder, name=package.id.name, version=package.id.version, digest=package.id.digest,
        licence=manifest.package.licence, task=manifest.package.task,
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        asked=asked, decides=decides, runs_python=backend == "python" and not manifest.stages,
        extras=tuple(sorted(needs)),
        providers=manifest.execute.providers if backend == "onnx" and not manifest.stages else (),
        queue_rows=manifest.limits.queue_rows,
        queue_tokens=manifest.limits.queue_tokens if backend in STREAMING_BACKENDS and not manifest.stages else 0,
    )  # fmt: skip
