"""Options that several commands have, with one meaning and one default each."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import click

from onward.errors import UsageError

DEFAULT_STORE = "sqlite:///var/onward.db"

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SECONDS = click.FloatRange(0, 86_400)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

store = click.option(
    "--store",
    default=DEFAULT_STORE,
    show_default=True,
    envvar="ONWARD_STORE",
    metavar="URL",
    help="Where decisions, actions and the audit log are kept: sqlite:///PATH or postgresql://…",
)
key_file = click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    envvar="ONWARD_KEY_FILE",
    help="The installation key, which opens what is sealed; by default beside a SQLite store.",
)


def _trust_only(_context: click.Context, _option: click.Parameter, keys: tuple[Path, ...]) -> None:
    if keys:
        from onward.package.trust import trust_only

        trust_only(keys)


signed_by = click.option(
    "--signed-by", type=FILE, multiple=True, metavar="PUBLIC_KEY", envvar="ONWARD_SIGNED_BY", callback=_trust_only,
    expose_value=False, help="Take only packages signed by this key (PEM); of several, by any of them.",
)  # fmt: skip
as_json = click.option("--json", "as_json", is_flag=True, help="JSON even in a terminal.")
tenant = click.option("--tenant", default=None, help="Of this tenant only.")
by = click.option("--by", default=None, help="Who does this, for the audit log; by default the user's name.")
note = click.option("--note", default="", help="Why, for the audit log.")


def person(name: str | None) -> str:
    """Who acts: as given, or the user's name on this machine."""
    if name:
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user id without a name, as containers have
        return "unknown"


def size_bytes(option: str, text: str) -> int:
    """A size as people write it: `512M`, `2G`, `2GiB`. Raises `UsageError` naming the option."""
    found = re.fullmatch(r"([0-9]+)([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if found is None or int(found[1]) == 0:
        raise UsageError("not a size", where=option, expected="512M or 2G", found=text)
    return int(found[1]) * _UNITS[found[2].upper()]
