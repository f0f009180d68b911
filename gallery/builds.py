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
from onward.package.manifest import load_manifest
from onward.package.repository import Repository

ROOT = Path(__file__).parent.parent
# The order of building: what is quick and needs little comes first, so that something answers soon.
NAMES = ["moderation", "vision", "fraud", "intent", "embed"]
Progress = Callable[[str, str, float], None]


def build_here(name: str, repository: Path, progress: Progress) -> None:
    """Build one package in this process and put it in its place; a package that is up to date is left alone."""
    if is_built(name, repository):
        progress(name, "is up to date", 1.0)
        return
    stamp = source_stamp(name)
    builder = importlib.import_module(f"gallery.{name}.build")
    repository.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".building-{name}-", dir=repository) as folder:
        out = Path(folder) / "package"
        out.mkdir()
        builder.build(out, progress=lambda step, share: progress(name, step, min(share, 0.98)))
        manifest = assemble(out).manifest
        # Only examples under development change under one version: a published version never does.
        shutil.rmtree(repository / name / manifest.package.version, ignore_errors=True)
        Repository(repository).install(out, move=True)
    _stamp_file(name, repository).write_text(stamp)
    progress(name, "built", 1.0)


def is_built(name: str, repository: Path) -> bool:
    """Whether the package in the repository was made from the sources as they are now."""
    stamp = _stamp_file(name, repository)
    version = load_manifest(ROOT / "gallery" / name).package.version
    built = (repository / name / version / "onward.lock").is_file()
    return built and stamp.is_file() and stamp.read_text() == source_stamp(name)


def source_stamp(name: str) -> str:
    """A hash over what a package is made from: its folder, its sources' pins and the code that writes graphs."""
    gallery = ROOT / "gallery"
    folders = [gallery / name, ROOT / "src" / "onward" / "package"]
    if name == "embed":
        folders.append(gallery / "intent")
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    files += [gallery / "sources.toml", ROOT / "requirements" / "pack.lock"]
    whole = hashlib.sha256()
    for file in files:
        if "__pycache__" not in file.parts:
            whole.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
            whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def _stamp_file(name: str, repository: Path) -> Path:
    return repository / f".{name}.stamp"
