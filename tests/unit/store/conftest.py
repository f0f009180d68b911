"""The stores that the contract is tested on: in memory, in a file of SQLite, in a database of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onward.store.sql import open_store
from onward.store.store import Store
from tests.postgres import Postgres, postgres, postgres_url, server  # noqa: F401

KINDS = ("memory", "sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty store of each kind can be opened."""
    if request.param == "memory":
        yield "memory:"
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store.db'}"
    else:
        address = server().new_database()
        yield address
        server().drop_database(address)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store of each kind."""
    opened = open_store(url)
    yield opened
    opened.close()
