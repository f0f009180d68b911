"""Commands that bring models here from where they are served now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


@import_group.command()
@click.argument("folder", type=_FOLDER)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Name of the package; by default the folder's.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the package.")
@click.option("--licence", default="", help="Licence of the weights.")
@click.option("--description", default="", help="What the model does, in a sentence.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1e6), default=None, help="How far answers may differ from the original's."
)
@as_json
def mlflow(folder: Path, out: Path, **options: Any) -> None:
    """Import an MLflow model, the FOLDER of an MLmodel file, as the package OUT. OUT may end in .onward.

    Its ONNX flavour is taken, the file of an XGBoost, LightGBM or CatBoost model, or the folder of a transformers or
    sentence-transformers one. A pickle is never opened.
    """
    from onward.runners import migration

    migration.from_mlflow(folder, out, **options)
