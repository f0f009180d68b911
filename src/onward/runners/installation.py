"""The store and the keys of one installation, opened for one command.

Imports the extra `decide` with the first of them. A command that only looks does not make a store where there is none:
that would hide a wrong path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onward.errors import NotFound
from onward.store.store import Store

if TYPE_CHECKING:
    from onward.store.keys import Keys

KEY_FILE = "onward.key"
_SQLITE = "sqlite:///"
_MEMORY = "memory:"


def exists(url: str) -> bool:
    """Whether there may be a store: a SQLite file that is there, or a server that can be asked."""
    return not url.startswith(_SQLITE) or _sqlite_file(url).is_file()


@contextmanager
def open_store(url: str, *, make: bool = False) -> Iterator[Store]:
    """The store at a URL, closed at the end. Raises `NotFound` where there is none, unless `make`."""
    if not make and not exists(url):
        raise NotFound("there is no store yet", where=url, expected="the --store that `onward serve` was given")
    from onward.store.sql import open_store as open_sql

    store = open_sql(url)
    try:
        yield store
    finally:
        store.close()


def open_keys(url: str, key_file: Path | None = None) -> Keys:
    """The keys of a store's entities, under the installation key, which is made where there is none yet.

    The installation key is that of `key_file`, of the file that ONWARD_KEY_FILE names, the one in ONWARD_KEY, or that
    of `onward.key` beside a SQLite store (else in `var`); what is only in memory has a key of the moment.
    """
    from onward.store.keys import KEY_BYTES, VARIABLE, Keys, installation_key

    file = key_file or _named_file()
    if file is None and os.environ.get(VARIABLE):
        return Keys(installation_key())
    if file is None and url == _MEMORY:
        return Keys(os.urandom(KEY_BYTES))
    return Keys(installation_key(file or _usual_file(url)))


def find_keys(url: str, key_file: Path | None = None) -> Keys | None:
    """The same for who only reads: None where there is no installation key yet, and none is made."""
    file = key_file or _named_file()
    if file is not None and not file.is_file():
        raise NotFound("there is no such key", where=str(file), expected="the --key-file that `onward serve` was given")
    if file is None and not os.environ.get("ONWARD_KEY") and not _usual_file(url).is_file():
        return None
    return open_keys(url, key_file)


def _named_file() -> Path | None:
    named = os.environ.get("ONWARD_KEY_FILE")
    return Path(named) if named else None


def _usual_file(url: str) -> Path:
    return (_sqlite_file(url).parent if url.startswith(_SQLITE) else Path("var")) / KEY_FILE


def _sqlite_file(url: str) -> Path:
    return Path(url.removeprefix(_SQLITE).partition("?")[0])
