"""The command that finds a package's batch size, instances and threads for this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onward.cli.options import FILE, as_json, signed_by
from onward.errors import BeyondBounds, UsageError


@click.command()
@click.argument("package")
@click.option("--p99-ms", type=click.FloatRange(0, min_open=True), required=True,
              help="How long the slowest hundredth of answers may take.")  # fmt: skip
@click.option("--budget-s", type=click.FloatRange(30, 36_000), default=120.0, show_default=True,
              help="How long to measure, about.")  # fmt: skip
@click.option("--requests", type=FILE, default=None,
              help="JSONL of requests to send, instead of golden inputs and others made of them.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=None,
              help="Write the package with what was found there; may end in .onward.")  # fmt: skip
@click.option("--version", "new_version", default="", help="With --out: its version; by default the next one.")
@click.option("--apply", "in_place", is_flag=True, help="Write what was found into PACKAGE itself.")
@signed_by
@as_json
def tune(
    package: str, p99_ms: float, budget_s: float, requests: Path | None, out: Path | None, new_version: str,
    in_place: bool, as_json: bool,
) -> None:  # fmt: skip
    """Find the batch size, instances and threads with which PACKAGE holds a p99 at the highest rate on this machine."""
    import msgspec

    from onward.package.package import open_package
    from onward.package.sources import is_source
    from onward.runners.local import find
    from onward.runners.tuning import tuned
    from onward.runners.tuning.table import show_found

    if out is not None and in_place:
        raise UsageError("one of both", where="--apply", expected="--out OUT or --apply")
    if new_version and out is None:
        raise UsageError("a new version needs a place", where="--version", expected="--out OUT")
    if out is not None and out.exists():
        raise UsageError("there is something already", where=str(out), expected="a new path")
    path = find(package)
    if in_place and (is_source(package) or path.is_file()):
        raise UsageError("an archive is not changed", where="--apply", expected="--out OUT", found=package)
    opened = open_package(path)
    pretty = sys.stdout.isatty() and not as_json
    progress = (lambda text: click.echo(f"{text} …", err=True)) if pretty else (lambda _: None)
    found = tuned.tune(opened, bound_ms=p99_ms, budget_s=budget_s, requests=requests, progress=progress)
    report = tuned.report(opened, found)
    if found.best is not None and (out is not None or in_place):
        made = tuned.apply(opened, found) if out is None else tuned.write(opened, found, out, version=new_version)
        written = {"path": str(out or opened.folder), "version": made.version, "digest": made.digest}
        report["written"] = written
    if pretty:
        show_found(found)
        if "written" in report:
            click.echo(f"written: {report['written']['path']} (version {report['written']['version']})")
    else:
        click.echo(msgspec.json.encode(report).decode())
    if found.best is None:
        raise BeyondBounds(
            "no setting surely holds the bound at any rate that was tried", where=opened.id.name,
            expected=f"p99 of {p99_ms:g} ms or less",
        )  # fmt: skip
