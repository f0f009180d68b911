"""The store in a database: SQLite or PostgreSQL. Imports neither until one is opened."""

from __future__ import annotations

from onward.errors import MissingExtra, UsageError
from onward.store.memory import MemoryStore
from onward.store.store import Store


def open_store(url: str) -> Store:
    """The store at `memory:`, `sqlite:///relative`, `sqlite:////absolute` or `postgresql://…`; made if there is none.

    `MissingExtra` where the database's libraries are not installed, `StoreUnavailable` where it cannot be reached.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        return MemoryStore()
    if scheme not in ("sqlite", "postgresql") or not rest.startswith("//"):
        raise UsageError("this is no store", expected="memory:, sqlite:///PATH or postgresql://…", found=scheme + colon)
    try:
        from onward.store.sql.database import SqlStore, postgresql, sqlite
    except ImportError as missing:
        raise MissingExtra(f"a store in a database needs {missing.name}: pip install 'onward[decide]'") from missing
    return SqlStore(sqlite(url) if scheme == "sqlite" else postgresql(url))
