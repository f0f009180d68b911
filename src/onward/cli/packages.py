"""Commands on one package, here and now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onward.cli.options import FILE, as_json, signed_by
from onward.unpickling import unpickling_refused


@click.command()
@click.argument("package")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--outputs", default="", help="Further outputs, by name, that are computed only on request.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines even in a terminal.")
@click.option(
    "--save", type=click.Path(dir_okay=False, path_type=Path), default=None,
    help="Where to write the sound or picture of the answer; of one INPUT only.",
)  # fmt: skip
@signed_by
def run(package: str, inputs: tuple[str, ...], outputs: str, as_json: bool, save: Path | None) -> None:
    """Answer INPUTs here: JSON, text, files (.json .jsonl .txt, images, sound), or - for standard input."""
    from onward.runners import local

    asked = tuple(filter(None, map(str.strip, outputs.split(","))))
    with unpickling_refused():
        local.run(package, inputs, outputs=asked, as_json=as_json, save=save)


@click.command()
@click.argument("package")
@as_json
@signed_by
def inspect(package: str, as_json: bool) -> None:
    """Show what a package takes, does and gives."""
    from onward.runners import local

    local.inspect(package, as_json=as_json)


@click.command()
@click.argument("package")
@click.option("--runners", default="", metavar="RUNNER,…", help="Compare the answers of these: local, serve, batch, ….")
@click.option("--inputs", type=click.IntRange(1), default=200, show_default=True,
              help="With --runners: golden inputs and others made of them, so many in all.")  # fmt: skip
@as_json
@signed_by
def verify(package: str, runners: str, inputs: int, as_json: bool) -> None:
    """Check a package: digests, graphs, and every golden example run on this machine."""
    from onward.runners import local

    if runners:  # with Ray among them, pickles are its own
        local.compare(package, tuple(filter(None, map(str.strip, runners.split(",")))), inputs, as_json=as_json)
    else:
        with unpickling_refused():
            local.verify(package, as_json=as_json)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", default="", help="Name of the package; by default the source's.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the package.")
@click.option("--licence", default="", help="Licence of the weights.")
@click.option("--description", default="", help="What the model does, in a sentence.")
@click.option(
    "--reference",
    type=FILE,
    default=None,
    help="An .npz file of what the original gave, to compare with: for encoders and state dicts.",
)
@click.option("--labels", type=FILE, default=None, help="Names of the classes of a state dict or of trees, one a line.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1e6), default=None, help="How far answers may differ from the original's."
)
@click.option(
    "--repository",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Where the packages are that the manifest names as stages.  [default: var/repository]",
)
def pack(source: Path, out: Path, **options: Any) -> None:
    """Make a package from SOURCE, a model file or folder. OUT may end in .onward.

    SOURCE is an ONNX or GGUF file, a file of XGBoost, LightGBM or CatBoost, a folder with a manifest, the folder of a
    Hugging Face model, or an EfficientNet-lite .pth.
    """
    from onward.runners import local

    local.pack(source, out, **options)
