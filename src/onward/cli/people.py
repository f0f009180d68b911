"""Commands about the people that a package deals with: talking, and what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onward.cli import options
from onward.cli.options import FILE, as_json, person


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


_tenant = click.option("--tenant", default="default", show_default=True, help="Whose profiles.")


@click.group()
def profiles() -> None:
    """What is known of the entities that packages decide on."""


@profiles.command("export")
@click.argument("entity")
@options.store
@options.key_file
@_tenant
def export_profile(entity: str, store: str, key_file: Path | None, tenant: str) -> None:
    """Give out all that is kept of ENTITY, as JSON."""
    from onward.runners.profiles import export

    export(entity, store, tenant=tenant, key_file=key_file)


@profiles.command("erase")
@click.argument("entity")
@options.store
@_tenant
@options.by
@click.option("--yes", "sure", is_flag=True, help="Do not ask.")
@as_json
def erase_profile(entity: str, store: str, by: str | None, **where: Any) -> None:
    """Erase ENTITY for good: its events and conversations, and the key of all that is sealed of it."""
    from onward.runners.profiles import erase

    erase(entity, store, by=person(by), **where)


@profiles.command("import")
@click.argument("file", type=FILE)
@options.store
@_tenant
@as_json
def import_profiles(file: Path, store: str, tenant: str, as_json: bool) -> None:
    """Take in events from FILE: JSON lines with entity, id, kind, at and data."""
    from onward.runners.profiles import import_events

    import_events(file, store, tenant=tenant, as_json=as_json)
