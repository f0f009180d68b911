"""The command that writes what a cluster needs to serve packages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from onward.cli.options import FILE, as_json, signed_by, size_bytes

_TARGETS = ("docker", "kubernetes", "kserve", "ray", "systemd")


@click.command()
@click.argument("source", metavar="PACKAGE|REPOSITORY")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--target", "targets", type=click.Choice(_TARGETS), multiple=True, required=True,
              help="What to write for; may be given several times.")  # fmt: skip
@click.option("--name", default="", help="Name of the deployment; by default made of the package's.")
@click.option("--image", default="", help="The image's full name; by default NAME:VERSION-DIGEST.")
@click.option("--base", default="", help="The image to build on, best as IMAGE@sha256:…; by default Python's slim one.")
@click.option("--namespace", default="default", show_default=True, help="The cluster's namespace.")
@click.option("--replicas", type=click.IntRange(1, 10_000), default=2, show_default=True, help="At least so many.")
@click.option("--max-replicas", type=click.IntRange(1, 10_000), default=10, show_default=True, help="At most so many.")
@click.option("--cpus", type=click.FloatRange(0.1, 1024), default=1.0, show_default=True, help="Cores of a replica.")
@click.option("--memory", default="", help="Memory of a replica: 512M, 2G; by default what it took here and half more.")
@click.option("--canary", type=click.IntRange(0, 99), default=0, show_default=True,
              help="KServe: the share of requests, in percent, for this version beside the last one.")  # fmt: skip
@click.option("--storage-uri", default="", help="KServe, Ray: load the package, the application from there.")
@click.option("--actions", type=FILE, default=None, help="What each action may do (actions.toml).")
@click.option("--no-measure", is_flag=True, help="Do not start a server to see what it takes.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@as_json
@signed_by
def cloud(source: str, out: Path, targets: tuple[str, ...], as_json: bool, **chosen: Any) -> None:
    """Write what it takes to serve PACKAGE or REPOSITORY in a cluster into OUT/TARGET."""
    from onward.runners.cloud.export import CloudOptions, export
    from onward.runners.cloud.summary import show

    options = CloudOptions(
        source=source, out=out, targets=tuple(dict.fromkeys(targets)), name=chosen["name"], image=chosen["image"],
        base=chosen["base"], namespace=chosen["namespace"], min_replicas=chosen["replicas"],
        max_replicas=chosen["max_replicas"], cpus=chosen["cpus"], canary_percent=chosen["canary"],
        memory_bytes=size_bytes("--memory", chosen["memory"]) if chosen["memory"] else 0,
        storage_uri=chosen["storage_uri"], actions=chosen["actions"], measure=not chosen["no_measure"],
        force=chosen["force"],
    )  # fmt: skip
    plain = as_json or not sys.stdout.isatty()
    progress = (lambda _: None) if plain else (lambda text: click.echo(f"{text} …", err=True))
    show(export(options, progress=progress), as_json=plain)
