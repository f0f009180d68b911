"""Commands about the people that a package deals with: talking, and what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onward.cli import options
from onward.cli.options import FILE, as_json


@click.command()
@click.argument("package")
@click.option("--url", default="", help="A server that serves the package; without it, the package runs here.")
@click.option("--customer", default="", help="Who talks: the entity whose profile is used.")
@click.option("--conversation", default="", help="Go on with this conversation.")
@options.store
@click.option("--actions", type=FILE, default=None, help="What each action may do (actions.toml); without it, nothing.")
@options.key_file
@as_json
def chat(package: str, actions: Path | None, **where: Any) -> None:
    """Talk with a dialogue package, here or on a server; in a pipe, a line in and a JSON line out."""
    from onward.runners.chat import chat as talk

    talk(package, actions=actions, **where)
