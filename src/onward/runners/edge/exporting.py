"""`onward edge`: from a package to a folder for a device; whole, or not there."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from onward.errors import NotForEdge, UsageError
from onward.package.assembly import DIALOGUE_FILE
from onward.package.package import Package, open_package
from onward.runners.edge.python_folder import FolderFacts, write_folder
from onward.runners.local import find


def export(package: str, out: Path) -> tuple[Package, FolderFacts]:
    """Export a package as a Python folder. Raises `NotForEdge`, `UsageError`, and `ExecutionError` where it fails."""
    opened = open_package(find(package))
    _check(opened)
    if out.exists():
        raise UsageError("there is something already", where=str(out), expected="a folder to make")
    out.parent.mkdir(parents=True, exist_ok=True)
    making = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    making.mkdir()
    try:
        facts = write_folder(opened, making)
        making.rename(out)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return opened, facts


def _check(package: Package) -> None:
    manifest = package.manifest
    if manifest.stages:
        raise NotForEdge("a package of packages needs all of them", where=package.id.name, expected="one model")
    if manifest.execute.backend != "onnx":
        expected = "an ONNX model; language models, speech and Python code need a server"
        raise NotForEdge(where=package.id.name, expected=expected, found=f'backend = "{manifest.execute.backend}"')
    if (package.folder / DIALOGUE_FILE).is_file():
        raise NotForEdge("conversations are kept in a store", where=package.id.name, expected="answers alone")
