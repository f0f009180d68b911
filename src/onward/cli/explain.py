"""The command that tells what became of a request."""

from __future__ import annotations

import click

from onward.cli.options import as_json


@click.command()
@click.argument("request_id")
@click.option("--url", default="http://127.0.0.1:8002", show_default=True, help="The server's admin port.")
@as_json
def explain(request_id: str, url: str, as_json: bool) -> None:
    """Tell what became of REQUEST_ID, the x-request-id of one of a server's last requests."""
    from onward.runners import explaining

    explaining.explain(request_id, url, as_json=as_json)
