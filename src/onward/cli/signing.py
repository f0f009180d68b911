"""The command that signs a package."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from onward.cli.options import FILE, as_json


@click.command()
@click.argument("package")
@click.option("--key", type=FILE, required=True, metavar="PRIVATE_KEY",
              help="The key to sign with: PEM, on the curve P-256, P-384 or P-521.")  # fmt: skip
@click.option("--key-password", envvar="ONWARD_KEY_PASSWORD", default="", show_envvar=True, metavar="PASSWORD",
              help="What the key is encrypted with; in a terminal, it is asked for.")  # fmt: skip
@as_json
def sign(package: str, key: Path, key_password: str, as_json: bool) -> None:
    """Sign PACKAGE, a folder or an archive, so that `--signed-by` accepts it; its digest stays what it is."""
    import msgspec

    from onward.runners import signing

    if not key_password and sys.stdin.isatty() and b"ENCRYPTED" in key.read_bytes():
        key_password = click.prompt("Password of the key", hide_input=True, err=True)
    report = signing.sign(package, key, password=key_password)
    if as_json or not sys.stdout.isatty():
        click.echo(msgspec.json.encode(report).decode())
    else:
        click.echo(f"signed {report['digest'][:12]} by key {report['key'][:12]}: {report['path']}")
