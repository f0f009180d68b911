"""The command that makes a folder for a device."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onward.cli.options import as_json


@click.command()
@click.argument("package")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["python", "web"]), default="python", show_default=True,
              help="What it runs on: Python with onnxruntime, or any browser.")  # fmt: skip
@click.option("--inputs", type=click.IntRange(0), default=100, show_default=True,
              help="Compare so many answers with the package's own before the folder is there; 0: none.")  # fmt: skip
@click.option("--no-webgpu", is_flag=True,
              help="With --target web: leave out what graphics processors need (17 MB).")  # fmt: skip
@as_json
def edge(package: str, out: Path, target: str, inputs: int, no_webgpu: bool, as_json: bool) -> None:
    """Write PACKAGE as a folder that answers on a device with Python or in a browser, and no server."""
    import msgspec

    from onward.runners import terminal
    from onward.runners.edge.certificate import as_record
    from onward.runners.edge.exporting import export

    pretty = sys.stdout.isatty() and not as_json
    progress = (lambda text: click.echo(f"{text} …", err=True)) if pretty else (lambda _: None)
    made = export(package, out, target, inputs=inputs, webgpu=not no_webgpu, progress=progress)
    report = {"name": made.package.id.name, "version": made.package.id.version, "path": str(out), "target": target}
    report |= made.facts | {"certificate": as_record(made.certificate)}
    if pretty:
        terminal.show_exported(report)
    else:
        click.echo(msgspec.json.encode(report).decode())
