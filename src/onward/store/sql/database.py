"""The databases that a store can lie in, and the store itself.

Transactions that write take turns, also between processes: SQLite has one writer anyway, and the audit log is one
chain, so PostgreSQL's writers wait for one another at a lock of their own. Reads wait for nobody.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from onward.errors import UsageError
from onward.store.sql.reader import SqlReader
from onward.store.sql.session import BUSY_TIMEOUT_S, Backend, Session, columns_of, unavailable
from onward.store.sql.transaction import SqlTransaction
from onward.store.store import StoreUnavailable
from onward.store.tables import bring_up_to_date

_TURN = 7_161_994_118_042
"""The number of PostgreSQL's advisory lock that the writers take turns by."""
_FEW = 4
"""Up to so many rows PostgreSQL takes faster as statements than as a COPY."""

_PRAGMAS = {
    "journal_mode": "WAL",  # readers and the writer do not wait for each other
    "synchronous": "FULL",  # a commit returns when it is on the disk
    "foreign_keys": "ON",
    "secure_delete": "ON",  # what is deleted is overwritten
    "cache_size": "-32768",  # KiB
    # SQLite's own waiting sleeps longer and longer, up to 0.1 s: beside a process that writes all the time it would
    # hardly ever get its turn. `Session` waits instead.
    "busy_timeout": "1",
}


def sqlite(url: str) -> Backend:
    """A file; it and its folder are made, for this user alone, where they are not there."""
    import sqlite3

    path = sa.make_url(url).database
    if not path or path == ":memory:" or path.startswith("file:"):
        raise UsageError("this is no store", expected="sqlite:///PATH of a file, or memory:", found=url)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as refused:
        raise StoreUnavailable(found=str(refused)) from refused
    engine = sa.create_engine(
        sa.URL.create("sqlite+pysqlite", database=path),
        # Transactions begin and end by statements of ours: the driver's own ways differ from version to version.
        connect_args={
            "isolation_level": None,
            "check_same_thread": False,
            "cached_statements": 512,
            "timeout": BUSY_TIMEOUT_S,
        },
        isolation_level="AUTOCOMMIT",
        pool_size=16,
        max_overflow=48,
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        for name, value in _PRAGMAS.items():
            connection.execute(f"PRAGMA {name} = {value}").fetchall()

    return Backend(
        engine=engine,
        begin=("BEGIN IMMEDIATE",),
        snapshot=("BEGIN", "SELECT 1 FROM schema_versions"),
        is_busy=lambda failed: "database is locked" in str(failed),
        insert=_insert_rows,
        errors=(sa.exc.SQLAlchemyError, sqlite3.Error),
        # The log of changes still has what was deleted, until its pages are back in the file.
        after_erasure="PRAGMA wal_checkpoint(TRUNCATE)",
        settings={name: f"PRAGMA {name}" for name in ("journal_mode", "synchronous", "foreign_keys")},
    )


def postgresql(url: str) -> Backend:
    """A database of a server; its tables are made where they are not there."""
    import psycopg

    settings = {
        "synchronous_commit": "on",
        "lock_timeout": f"{BUSY_TIMEOUT_S:.0f}s",
        # Whoever stopped in the middle of a transaction does not hold up the others for ever.
        "idle_in_transaction_session_timeout": "60s",
    }
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"),
        connect_args={
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "connect_timeout": 5,
            "application_name": "onward",
        },
        isolation_level="AUTOCOMMIT",
        pool_size=16,
        max_overflow=48,
    )
    return Backend(
        engine=engine,
        begin=(f"BEGIN; SELECT pg_advisory_xact_lock({_TURN})",),
        snapshot=("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1",),
        is_busy=lambda failed: False,  # the server itself waits, for `lock_timeout`
        insert=_copy_rows,
        errors=(sa.exc.SQLAlchemyError, psycopg.Error),
        settings={name: f"SHOW {name}" for name in ("fsync", "synchronous_commit", "full_page_writes")},
    )


@cache
def _insertion(dialect: str, table: sa.Table) -> str:
    marks = ", ".join("?" if dialect == "sqlite" else "%s" for _ in columns_of(table))
    return f"INSERT INTO {table.name} ({_names(table)}) VALUES ({marks})"


def _names(table: sa.Table) -> str:
    return ", ".join(f'"{column.name}"' for column in columns_of(table))


def _insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    connection.exec_driver_sql(_insertion(connection.dialect.name, table), list(rows))


def _copy_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
    if len(rows) <= _FEW:
        return _insert_rows(connection, table, rows)
    driver: Any = connection.connection.dbapi_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table.name} ({_names(table)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return None


class SqlStore:
    """A `Store` in a database."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._writing = threading.Lock()
        self._writer = 0
        self._untidy = False
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self._session(self._backend.begin) as session:
            try:
                bring_up_to_date(session.connection)
            except self._backend.errors as failed:
                raise unavailable(failed) from failed
            session.commit()

    def durability(self) -> Mapping[str, str]:
        """The settings that decide whether a commit is on the disk when it returns, as the database says them."""
        with self._backend.engine.connect() as connection:
            found = {
                name: str(connection.exec_driver_sql(show).scalar_one())
                for name, show in self._backend.settings.items()
            }
        if "synchronous" in found:
            found["synchronous"] = {"0": "OFF", "1": "NORMAL", "2": "FULL", "3": "EXTRA"}[found["synchronous"]]
        return found

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """See `Store`."""
        if self._writer == threading.get_ident():
            raise RuntimeError("transactions cannot be nested")
        with self._writing:
            self._writer = threading.get_ident()
            try:
                with self._session(self._backend.begin) as session:
                    transaction = SqlTransaction(session)
                    try:
                        yield transaction
                        transaction.flush()
                        session.commit()
                    finally:
                        erased = transaction.end()
                self._untidy |= erased
                if self._untidy and self._backend.after_erasure:
                    self._tidy()
            finally:
                self._writer = 0

    def _tidy(self) -> None:
        """Overwrite what an erasure left behind; where readers are in the way, after the next transaction."""
        with suppress(sa.exc.SQLAlchemyError), self._backend.engine.connect() as connection:
            self._untidy = bool(connection.exec_driver_sql(self._backend.after_erasure).scalar_one())

    @contextmanager
    def snapshot(self) -> Iterator[SqlReader]:
        """See `Store`."""
        with self._session(self._backend.snapshot) as session:
            reader = SqlReader(session)
            try:
                yield reader
            finally:
                reader.end()

    @contextmanager
    def _session(self, opening: Sequence[str]) -> Iterator[Session]:
        session = Session(self._backend, opening)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """See `Store`."""
        self._backend.engine.dispose()
