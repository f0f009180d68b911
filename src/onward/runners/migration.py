"""Moving in: models that other servers serve become packages, and a person is told what does not carry over."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.moved import Moved
from onward.runners import terminal
from onward.runners.local import run_package


def from_triton(source: Path, out: Path, *, models: tuple[str, ...], licence: str, as_json: bool) -> None:
    """Import a Triton model repository into the repository `out`.

    Raises `UnsupportedModel` at the end, after everything else has moved, where a model was refused.
    """
    from onward.package.importers.triton import import_triton

    tell(import_triton(source, out, models=models, licence=licence, run_package=run_package), as_json=as_json)


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
