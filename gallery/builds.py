"""Builds example packages into a repository, and knows which are up to date.

A build is up to date while the stamp beside the repository equals the hash of everything it is made from.
"""

from __future__ import annotations

import hashlib
import importlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from onward.package.assembly import assemble
from onward.package.digest import LOCK_FILE, read_lock
from onward.package.manifest import load_manifest
from onward.package.repository import Repository

ROOT = Path(__file__).parent.parent
# The order of building: what is quick and needs little comes first, so that something answers soon.
NAMES = [
    "moderation", "vision", "fraud", "recommend", "intent", "embed", "support", "assistant-llm", "copywriter", "voice",
    "transcriber", "voice-assistant", "ocr", "vad",
]  # fmt: skip
# Whose code and data a package's build reads besides its own.
_BORROWS = {
    "embed": ("intent",),
    "transcriber": ("voice",),
    "vad": ("transcriber", "voice"),
    "moderation": ("vision",),
    "support": ("intent",),
}
# What is made of packages: its build is given the repository, in which they are.
_OF_PACKAGES = ("voice-assistant",)
# What no build runs: runners, and what only they use.
_SERVED_ONLY = (
    "runners", "cli.py", "__main__.py", "telemetry.py", "testing.py", "execute/scheduler.py", "store", "act",
    "dialogue",
)  # fmt: skip
# Of a package's own folder, what stands beside the package: changing it makes no package anew.
_BESIDE = ("fraud/payments", "fraud/stream", "fraud/actions.toml")
Progress = Callable[[str, str, float], None]


def build_here(name: str, repository: Path, progress: Progress) -> None:
    """Build one package in this process and put it in its place; a package that is up to date is left alone."""
    if is_built(name, repository):
        progress(name, "is up to date", 1.0)
        return
    stamp = source_stamp(name)
    builder = importlib.import_module(f"gallery.{_folder(name).name}.build")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".building-{name}-", dir=repository) as folder:
        out = Path(folder) / "package"
        out.mkdir()
        more = {"repository": repository} if name in _OF_PACKAGES else {}
        builder.build(out, progress=lambda step, share: progress(name, step, min(share, 0.98)), **more)
        manifest = assemble(out, repositories=[repository]).manifest
        # Only examples under development change under one version: a published version never does.
        shutil.rmtree(repository / name / manifest.package.version, ignore_errors=True)
        Repository(repository).install(out, move=True)
    _stamp_file(name, repository).write_text(stamp)
    progress(name, "built", 1.0)


def is_built(name: str, repository: Path) -> bool:
    """Whether the package in the repository was made from the sources, and of the stages, as they are now."""
    stamp = _stamp_file(name, repository)
    package = repository / name / load_manifest(_folder(name)).package.version
    if not (package / LOCK_FILE).is_file() or not stamp.is_file() or stamp.read_text() != source_stamp(name):
        return False
    stages = {repository / Path(*pin.split("==")): digest for pin, digest in read_lock(package).stages.items()}
    return all((one / LOCK_FILE).is_file() and read_lock(one).digest == digest for one, digest in stages.items())


def source_stamp(name: str) -> str:
    """A hash over what a package is made from: see `source_files`."""
    whole = hashlib.sha256()
    for file in source_files(name):
        whole.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def source_files(name: str) -> list[Path]:
    """What a package is made from: its folder and those it borrows from, the sources' pins, reference numbers, Onward.

    Of Onward, all that packing can run: an edit of the server alone makes no package anew.
    """
    gallery, onward = ROOT / "gallery", ROOT / "src" / "onward"
    borrowed = [gallery / other for other in _BORROWS.get(name, ())]
    folders = [_folder(name), gallery / "reference", *borrowed]
    served_only = {onward / part for part in _SERVED_ONLY} | {gallery / part for part in _BESIDE}
    found = [file for folder in (*folders, onward) for file in folder.rglob("*")]
    found = [file for file in found if served_only.isdisjoint((file, *file.parents))]
    found += [gallery / "fetch.py", gallery / "sources.toml", ROOT / "requirements" / "pack.lock"]
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)


def _folder(name: str) -> Path:
    """The folder of an example: a package may have hyphens in its name, a module may not."""
    return ROOT / "gallery" / name.replace("-", "_")


def _stamp_file(name: str, repository: Path) -> Path:
    return repository / f".{name}.stamp"
