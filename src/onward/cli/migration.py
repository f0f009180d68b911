"""Commands that bring models here from where they are served now."""

from __future__ import annotations

from pathlib import Path

import click

from onward.cli.options import as_json

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group("import")
def import_group() -> None:
    """Make packages of what other servers serve."""


@import_group.command()
@click.argument("repository", type=_FOLDER)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only this model; may be given several times.")
@click.option("--licence", default="", help="Licence of the weights.")
@as_json
def triton(repository: Path, out: Path, models: tuple[str, ...], licence: str, as_json: bool) -> None:
    """Import a Triton model REPOSITORY, or one model's folder of it, into the repository OUT.

    ONNX models and ensembles of them become packages with the same tensors. What does not carry over is told; what
    cannot be served is refused with the reason, and the others move all the same.
    """
    from onward.runners import migration

    migration.from_triton(repository, out, models=models, licence=licence, as_json=as_json)
