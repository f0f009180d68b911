"""The command that makes a folder for a device."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onward.cli.options import FILE, as_json, signed_by


@click.command()
@click.argument("package")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--target", type=click.Choice(["python", "web"]), default="python", show_default=True,
              help="What it runs on: Python with onnxruntime, or any browser.")  # fmt: skip
@click.option("--inputs", type=click.IntRange(0), default=100, show_default=True,
              help="Compare so many answers with the package's own before the folder is there; 0: none.")  # fmt: skip
@click.option("--quantize", "setting", default="", metavar="SETTING",
              help="Make the model smaller: int8, auto, …; refused where answers change too much.")  # fmt: skip
@click.option("--tolerance", type=click.FloatRange(0, 1), default=None,
              help="With --quantize: the least agreement with the original; .995 or .99.")  # fmt: skip
@click.option("--held-out", type=FILE, default=None,
              help="With --quantize: JSONL of inputs to measure that on, instead of made ones.")  # fmt: skip
@click.option("--force", is_flag=True, help="With --quantize: however much answers change.")
@click.option("--no-webgpu", is_flag=True,
              help="With --target web: leave out what graphics processors need (17 MB).")  # fmt: skip
@as_json
@signed_by
def edge(package: str, out: Path, target: str, inputs: int, no_webgpu: bool, as_json: bool, **quantizing: Any) -> None:
    """Write PACKAGE as a folder that answers on a device with Python or in a browser, and no server."""
    import msgspec

    from onward.runners import terminal
    from onward.runners.edge.certificate import as_record
    from onward.runners.edge.exporting import Quantization, export

    pretty = sys.stdout.isatty() and not as_json
    progress = (lambda text: click.echo(f"{text} …", err=True)) if pretty else (lambda _: None)
    quantization = Quantization(**quantizing) if quantizing["setting"] else None
    made = export(
        package, out, target, inputs=inputs, quantization=quantization, webgpu=not no_webgpu, progress=progress
    )
    report = {"name": made.package.id.name, "version": made.package.id.version, "path": str(out), "target": target}
    report |= made.facts | {"certificate": as_record(made.certificate)}
    if pretty:
        terminal.show_exported(report)
    else:
        click.echo(msgspec.json.encode(report).decode())
