"""Moving in: models that other servers serve become packages, and a person is told what does not carry over."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from onward.errors import UsageError
from onward.package.digest import read_lock
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.moved import Moved, package_name
from onward.package.manifest import is_name, is_version
from onward.package.pack import pack
from onward.package.records import PackageInfo
from onward.runners import terminal
from onward.runners.local import run_package


def from_triton(source: Path, out: Path, *, models: tuple[str, ...], licence: str, as_json: bool) -> None:
    """Import a Triton model repository into the repository `out`.

    Raises `UnsupportedModel` at the end, after everything else has moved, where a model was refused.
    """
    from onward.package.importers.triton import import_triton

    tell(import_triton(source, out, models=models, licence=licence, run_package=run_package), as_json=as_json)


def from_mlflow(
    folder: Path,
    out: Path,
    *,
    name: str,
    version: str,
    licence: str,
    description: str,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Import an MLflow model as the package `out`, and show what became of it."""
    from onward.package.importers.mlflow import draft_of_mlflow

    name = name or package_name(folder.resolve().name)
    if not is_name(name) or not is_version(version):
        raise UsageError("not a package's name or version", expected="NAME in small letters, and dotted numbers",
                         found=f"{name} {version}")  # fmt: skip
    info = PackageInfo(name=name, version=version, licence=licence, description=description)
    draft, notes = draft_of_mlflow(folder, info, tolerance=tolerance)
    package = pack(draft, out, run_package=run_package)
    moved = Moved(source=folder.name, name=package.id.name, version=package.id.version, digest=package.id.digest,
                  path=out, rows=read_lock(package.folder).parity.get("rows", 0), notes=notes)  # fmt: skip
    tell([moved], as_json=as_json)


def tell(moved: Iterable[Moved], *, as_json: bool) -> None:
    """Show each model as it comes. Raises `UnsupportedModel` at the end where one was refused."""
    pretty = sys.stdout.isatty() and not as_json
    refused: list[str] = []
    for each in moved:
        if each.refused:
            refused.append(each.source)
        if pretty:
            terminal.show_moved(each.as_record())
        else:
            print(msgspec.json.encode(each.as_record()).decode(), flush=True)  # noqa: T201
    if refused:
        raise UnsupportedModel("not everything could be imported", expected="models that were not refused",
                               found=", ".join(dict.fromkeys(refused)))  # fmt: skip
