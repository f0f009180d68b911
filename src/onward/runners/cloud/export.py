"""`onward cloud`: facts first, then one folder for each target, and all of it under its name in one rename."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onward.errors import UsageError
from onward.runners.cloud import docker, kserve, kubernetes, ray_application, systemd
from onward.runners.cloud.deployment import Deployment, Sizing
from onward.runners.cloud.distributions import pins
from onward.runners.cloud.measurement import estimate, measure
from onward.runners.cloud.packages import Packaged, collect
from onward.runners.cloud.wheel import write_wheel

# KServe and Knative make longer names of it, which still have to be labels of at most 63 characters.
_LABEL = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[^\s]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_MEASURED_S = 1.5

Writer = Callable[[Deployment, Path], tuple[str, ...]]
WRITERS: dict[str, Writer] = {
    "docker": docker.write, "kubernetes": kubernetes.write, "kserve": kserve.write, "systemd": systemd.write,
    "ray": ray_application.write,
}  # fmt: skip
TARGETS = tuple(WRITERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudOptions:
    """What a person may say about a deployment; what is left empty is chosen by the packages."""

    source: str
    out: Path
    targets: tuple[str, ...]
    name: str = ""
    image: str = ""
    base: str = ""
    namespace: str = "default"
    min_replicas: int = 2
    max_replicas: int = 10
    cpus: float = 1.0
    memory_bytes: int = 0
    canary_percent: int = 0
    storage_uri: str = ""
    actions: Path | None = None
    measure: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written: the deployment, and what a person should know about each target."""

    out: Path
    deployment: Deployment
    notes: dict[str, tuple[str, ...]]


def export(options: CloudOptions, *, progress: Callable[[str], None] = lambda _: None) -> Export:
    """Write the targets into OUT; nothing of it is there until all of it is.

    Raises `UsageError` for a name that no cluster takes and where OUT exists, and what packages and servers raise.
    """
    check(options)
    packages = collect(options.source)
    if options.actions and not any(one.decides for one in packages):
        raise UsageError("none of these packages decides", where="--actions", expected="a package with a policy")
    progress(f"{len(packages)} package(s): {', '.join(f'{one.name} {one.version}' for one in packages)}")
    sizing = measure(packages, seconds=_MEASURED_S, progress=progress) if options.measure else estimate(packages)
    deployment = describe(options, packages, sizing)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{options.out.name}-", dir=options.out.parent))
    try:
        made.chmod(0o755)
        notes = {}
        for target in options.targets:
            progress(f"writing {target}")
            folder = made / target
            folder.mkdir()
            written = WRITERS[target](deployment, folder)
            notes[target] = tuple(note.replace("FOLDER", str(options.out / target)) for note in written)
        _publish(made, options.out, force=options.force)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return Export(out=options.out, deployment=deployment, notes=notes)


def check(options: CloudOptions) -> None:
    """Raise `UsageError` for what can be told before anything is read."""
    unknown = [target for target in options.targets if target not in TARGETS]
    if unknown or not options.targets:
        raise UsageError("no such target", where="--target", expected=f"one of {', '.join(TARGETS)}",
                         found=", ".join(unknown) or "none")  # fmt: skip
    if options.out.exists() and not options.force:
        raise UsageError("it exists", where=str(options.out), expected="a path without anything, or --force")
    if options.out.exists() and not _is_ours(options.out):  # --force must not cost anybody another folder
        raise UsageError("it holds something else", where=str(options.out), expected="nothing but targets' folders")
    if "ray" in options.targets and options.storage_uri and not options.storage_uri.endswith(".zip"):
        raise UsageError("Ray fetches an archive", where="--storage-uri", expected="…/NAME.zip",
                         found=options.storage_uri[:80])  # fmt: skip
    if options.min_replicas > options.max_replicas:
        raise UsageError("more than the most", where="--replicas", expected=f"at most {options.max_replicas}",
                         found=str(options.min_replicas))  # fmt: skip
    if "systemd" in options.targets and options.min_replicas > 99:
        raise UsageError("more than systemd's units have ports for", where="--replicas", expected="at most 99",
                         found=str(options.min_replicas))  # fmt: skip
    for where, value, pattern in (("--name", options.name, _LABEL), ("--namespace", options.namespace, _LABEL),
                                  ("--image", options.image, _IMAGE), ("--base", options.base, _IMAGE),
                                  ("--storage-uri", options.storage_uri, _URI)):  # fmt: skip
        if value and pattern.fullmatch(value) is None:
            expected = (
                "a lower-case letter, then letters, digits and hyphens, at most 40"
                if pattern is _LABEL
                else "a reference"
            )
            raise UsageError("not a name that the target takes", where=where, expected=expected, found=value[:80])


def describe(options: CloudOptions, packages: tuple[Packaged, ...], sizing: Sizing) -> Deployment:
    """The facts of a deployment. The image's tag says what is in it: with other contents it is another one."""
    digest = _digest(options, packages)
    asked = [one for one in packages if one.asked]
    only = asked[0] if len(asked) == 1 else None
    name = options.name or (f"onward-{only.name.replace('_', '-').strip('-')}"[:40].strip("-") if only else "onward")
    version = f"{only.version}-{digest[:12]}" if only else digest[:12]
    python = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
    return Deployment(
        name=name, packages=packages, sizing=sizing, image=options.image or f"{name}:{version}",
        base=options.base or python, namespace=options.namespace, min_replicas=options.min_replicas,
        max_replicas=options.max_replicas, cpus=options.cpus, memory_bytes=options.memory_bytes,
        canary_percent=options.canary_percent, storage_uri=options.storage_uri, actions=options.actions,
        secrets=secrets_of(options.actions) if options.actions else (),
    )  # fmt: skip


def _digest(options: CloudOptions, packages: tuple[Packaged, ...]) -> str:
    """Of all that goes into the image: packages, distributions, this Onward, the actions and the base."""
    extras = {extra for one in packages for extra in one.extras}
    lines = [f"{one.name} {one.version} {one.digest}" for one in packages]
    lines += [pin.line() for pin in pins(extras)] + [options.base]
    made = hashlib.sha256("\n".join(lines).encode())
    with tempfile.TemporaryDirectory(prefix="onward-cloud-") as folder:
        made.update(hashlib.sha256(write_wheel(Path(folder)).read_bytes()).digest())
    if options.actions:
        made.update(options.actions.read_bytes())
    return made.hexdigest()


def secrets_of(actions: Path) -> tuple[str, ...]:
    """The variables that actions.toml takes secrets from, which it is read without. Raises what is wrong with it."""
    from onward.act.targets import load_targets

    asked = _Asked()
    load_targets(actions, environment=asked)
    for name in asked.names:
        if _VARIABLE.fullmatch(name) is None:
            raise UsageError("not a variable that every target can set", where=actions.name, found=name[:80])
    return tuple(sorted(asked.names))


class _Asked(dict[str, str]):
    """An environment that has every variable, and knows which were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __missing__(self, name: str) -> str:
        self.names.add(name)
        return "unknown-here"

    def __contains__(self, name: object) -> bool:
        return True

    def get(self, name: str, default: object = None) -> str:
        return self[name]


def _is_ours(out: Path) -> bool:
    return out.is_dir() and not out.is_symlink() and all(one.name in TARGETS for one in out.iterdir())


def _publish(made: Path, out: Path, *, force: bool) -> None:
    """Give the finished folder its name; what was there before is moved aside first, then removed."""
    if out.exists() and force:
        aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
        out.rename(aside / out.name)
        made.rename(out)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        made.rename(out)
