"""Commands that run until they are told to stop: the server and the relay."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from onward.cli import options
from onward.cli.options import FILE, SECONDS
from onward.errors import Unavailable, UsageError
from onward.unpickling import unpickling_refused

_PORT = click.IntRange(1, 65_535)


@click.command()
@click.argument("repository")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8000, show_default=True, help="Port for inference.")
@click.option("--admin-port", type=_PORT, default=8002, show_default=True, help="Port for /admin, loopback only.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    envvar="ONWARD_WORKERS",
    show_default=True,
    help="Processes that share the port for inference.",
)
@click.option("--insecure", is_flag=True, help="Allow an address beyond this machine although there are no keys.")
@click.option(
    "--keep-versions",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Serve the newest N versions of each model.",
)
@click.option(
    "--watch-interval",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="Look for new versions every so many seconds; 0: never.",
)
@click.option("--drain-grace", type=SECONDS, default=0.0, show_default=True, help="Seconds to accept on after SIGTERM.")
@options.store
@click.option("--actions", type=FILE, default=None, help="What each action may do (actions.toml); without it, nothing.")
@options.key_file
@click.option("--no-relay", is_flag=True, help="Leave carrying out actions to `onward relay`.")
@options.signed_by
def serve(**chosen: Any) -> None:
    """Serve every package of REPOSITORY (or one package) over HTTP."""
    from onward.package.sources import fetch, is_source
    from onward.runners.serve.server import ServeOptions
    from onward.runners.serve.server import serve as serve_repository

    if chosen["port"] == chosen["admin_port"]:
        raise UsageError("inference and admin need a port each", where="--admin-port", found=str(chosen["admin_port"]))
    log_to_stderr()
    given = chosen.pop("repository")
    repository = fetch(given) if is_source(given) else Path(given)
    if not repository.exists():
        raise UsageError("it does not exist", where=given, expected="a repository, a package or its address")
    settings = ServeOptions(
        repository=repository, watch_interval_s=chosen.pop("watch_interval"),
        drain_grace_s=chosen.pop("drain_grace"), **chosen,
    )  # fmt: skip
    try:
        with unpickling_refused():
            serve_repository(settings)
    except SystemExit as left:  # uvicorn's way out where it cannot listen; it has said why
        sys.exit(Unavailable.exit_code if left.code else 0)


@click.command()
@options.store
@options.key_file
@click.option("--actions", type=FILE, required=True, help="What each action may do (actions.toml).")
@click.option("--dry-run", is_flag=True, help="Send nothing: every action is done without effect.")
def relay(store: str, actions: Path, key_file: Path | None, dry_run: bool) -> None:
    """Carry out the actions of the outbox until SIGTERM."""
    from onward.runners.relay import run_relay

    log_to_stderr()
    with unpickling_refused():
        run_relay(store, actions=actions, key_file=key_file, dry_run=dry_run)


def log_to_stderr() -> None:
    """One line an event, with its time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
