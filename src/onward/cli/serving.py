"""Commands that run until they are told to stop: the server and the relay."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from onward.cli.options import SECONDS
from onward.errors import Unavailable, UsageError

_PORT = click.IntRange(1, 65_535)


@click.command()
@click.argument("repository", type=click.Path(exists=True, path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=8000, show_default=True, help="Port for inference.")
@click.option("--admin-port", type=_PORT, default=8002, show_default=True, help="Port for /admin, loopback only.")
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
def serve(**options: Any) -> None:
    """Serve every package of REPOSITORY (or one package) over HTTP."""
    from onward.runners.serve.server import ServeOptions
    from onward.runners.serve.server import serve as serve_repository

    if options["port"] == options["admin_port"]:
        raise UsageError("inference and admin need a port each", where="--admin-port", found=str(options["admin_port"]))
    log_to_stderr()
    settings = ServeOptions(
        watch_interval_s=options.pop("watch_interval"), drain_grace_s=options.pop("drain_grace"), **options
    )
    try:
        serve_repository(settings)
    except SystemExit as left:  # uvicorn's way out where it cannot listen; it has said why
        sys.exit(Unavailable.exit_code if left.code else 0)


def log_to_stderr() -> None:
    """One line an event, with its time."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
