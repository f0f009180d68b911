"""One open database transaction: statements in, rows out, and every failure of the database as `StoreUnavailable`.

What the two databases do differently is in `Backend`; no other module asks which one it talks to.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from onward.store.store import StoreUnavailable

BUSY_TIMEOUT_S = 10.0
"""How long a transaction waits for those of others before it gives up."""
Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A database: how it is reached, and the few statements that are its own.

    `begin` starts a transaction that writes, in its turn; `snapshot` one that reads a state that stays. What `is_busy`
    says of an error that they end with decides whether they are tried again, for `BUSY_TIMEOUT_S`.
    `insert` writes many rows of a table at once. `errors` are what it raises when it fails.
    """

    engine: sa.Engine
    begin: Sequence[str]
    snapshot: Sequence[str]
    is_busy: Callable[[BaseException], bool]
    insert: Callable[[sa.Connection, sa.Table, Sequence[tuple[Any, ...]]], None]
    errors: tuple[type[BaseException], ...]
    after_erasure: str = ""
    settings: Mapping[str, str]


class Lookup:
    """A statement compiled once for each database. Its only values are named ones."""

    __slots__ = ("constants", "texts")

    def __init__(self, *query: sa.Select[Any] | sa.Update | sa.Insert) -> None:
        """`query`: one for both databases, or one for SQLite and one for PostgreSQL."""
        # The drivers' styles for values by name. SQLAlchemy declares no types for making a dialect.
        dialects: tuple[Any, ...] = (sqlite.dialect(paramstyle="named"), postgresql.dialect(paramstyle="pyformat"))  # type: ignore[no-untyped-call]
        queries = query * 2 if len(query) == 1 else query
        compiled = [one.compile(dialect=dialect) for one, dialect in zip(queries, dialects, strict=True)]
        self.texts = {each.dialect.name: str(each) for each in compiled}
        self.constants = {name: value for each in compiled for name, value in each.params.items() if value is not None}


class Session:
    """The transaction; `broken` once the database failed, so that nobody commits half of it."""

    __slots__ = ("_backend", "_driver", "_ended", "broken", "connection")

    def __init__(self, backend: Backend, opening: Sequence[str]) -> None:
        self._backend = backend
        self._ended = False
        self.broken = False
        try:
            self.connection = self._opened(opening)
            self._driver: Any = self.connection.connection.dbapi_connection
        except backend.errors as failed:
            raise unavailable(failed) from failed

    def _opened(self, opening: Sequence[str]) -> sa.Connection:
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        stale_left = 1
        while True:
            connection = self._backend.engine.connect()
            try:
                for statement in opening:
                    connection.exec_driver_sql(statement)
                return connection
            except sa.exc.DBAPIError as failed:
                connection.close()
                if self._backend.is_busy(failed) and time.monotonic() < deadline_s:
                    time.sleep(random.uniform(0.0002, 0.002))
                elif failed.connection_invalidated and stale_left:
                    # A connection from before the database went away and came back: nothing was done on it yet.
                    stale_left -= 1
                else:
                    raise

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.connection.dialect.name

    def rows(self, statement: sa.Executable, values: Values) -> Sequence[Any]:
        """The rows of a query; none where a text is looked for that no record can have."""
        if not _storable(values):
            return ()
        try:
            return self.connection.execute(statement, values).all()
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def seek(self, lookup: Lookup, values: Values) -> Sequence[Any]:
        """The rows of a lookup, as the driver gives them; none where a text is looked for that no record can have.

        For what every request looks up: past SQLAlchemy's execution, which costs five times what SQLite takes.
        """
        if not _storable(values):
            return ()
        text = lookup.texts[self.dialect]
        try:
            rows: Sequence[Any] = self._driver.execute(text, {**lookup.constants, **values}).fetchall()
            return rows
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def write(self, statement: sa.Executable, values: Values | Sequence[Values]) -> int:
        """Run a statement, once or with many values; how many rows it changed."""
        if isinstance(values, Mapping) and not _storable(values):
            return 0
        try:
            return self.connection.execute(statement, values).rowcount
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def repeat(self, statement: Lookup, many: Sequence[Values]) -> None:
        """Run a statement with each of the values, past SQLAlchemy's execution."""
        try:
            self._driver.cursor().executemany(statement.texts[self.dialect], many)
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def insert(self, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Write rows of `columns_of(table)`, of which none is there yet."""
        try:
            self._backend.insert(self.connection, table, rows)
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def command(self, text: str) -> None:
        """Run a statement without values."""
        try:
            self.connection.exec_driver_sql(text)
        except self._backend.errors as failed:
            raise self._failure(failed) from failed

    def commit(self) -> None:
        """Make the changes durable; returns when they are."""
        if self.broken:
            raise StoreUnavailable("the database failed during the transaction")
        self.command("COMMIT")
        self._ended = True

    def close(self) -> None:
        """Roll back what was not committed, and give the connection back."""
        if not self._ended and not self.broken:
            with suppress(StoreUnavailable):
                self.command("ROLLBACK")
        if self.broken:
            # Whatever state it is in, the next transaction shall not begin in it.
            self.connection.invalidate()
        self.connection.close()

    def _failure(self, failed: BaseException) -> StoreUnavailable:
        self.broken = True
        return unavailable(failed)


def unavailable(failed: BaseException) -> StoreUnavailable:
    """The database's error in one line; without the statement, whose values may be private."""
    cause = getattr(failed, "orig", None) or failed
    return StoreUnavailable(found=(str(cause).strip().splitlines() or [type(cause).__name__])[0])


def columns_of(table: sa.Table) -> list[sa.Column[Any]]:
    """The columns that a row to be inserted has: all that the database does not number itself."""
    return [column for column in table.columns if column is not table.autoincrement_column]


def _storable(values: Values) -> bool:
    for value in values.values():
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return False
        if isinstance(value, str) and "\0" in value:
            return False
    return True
