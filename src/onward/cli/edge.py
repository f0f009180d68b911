"""The command that makes a folder for a device."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from onward.cli.options import as_json


@click.command()
@click.argument("package")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["python"]), default="python", show_default=True, help="What it runs on.")
@as_json
def edge(package: str, out: Path, target: str, as_json: bool) -> None:
    """Write PACKAGE as a folder that answers on a device with Python, and no server."""
    import msgspec

    from onward.runners import terminal
    from onward.runners.edge.exporting import export

    opened, facts = export(package, out)
    report = {"name": opened.id.name, "version": opened.id.version, "path": str(out)} | asdict(facts)
    if sys.stdout.isatty() and not as_json:
        terminal.show_exported(report)
    else:
        click.echo(msgspec.json.encode(report).decode())
