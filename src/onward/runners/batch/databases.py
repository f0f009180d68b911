"""Databases as people name them, `sqlite:///bank.db?table=payments` or `postgresql://…`, and connections to them.

Passwords stay in here: what is shown, journaled or raised has none. SQLAlchemy is imported with the first database.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from onward.errors import MissingExtra, NotFound, OnwardError, UsageError
from onward.runners.batch.errors import DatabaseUnavailable

if TYPE_CHECKING:
    import sqlalchemy as sa

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"(?<=://)([^/@?#]*?):[^/?#]*@|(?<=[?&]password=)[^&]*", re.IGNORECASE)
_DRIVERS = {
    "sqlite": "sqlite", "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql", "postgresql+psycopg": "postgresql", "postgres": "postgresql",
}  # fmt: skip
_EXPECTED = "sqlite:///FILE?table=NAME or postgresql://…?table=NAME"
BUSY_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 10


def is_database(name: str) -> bool:
    """Whether a name is a URL: `SCHEME://…`."""
    return _SCHEME.match(name) is not None


def shown(name: str) -> str:
    """A name as it may be told: without the password of a URL."""
    if not is_database(name):
        return name
    return _PASSWORD.sub(lambda found: f"{found[1]}:***@" if found[1] is not None else "***", name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database and what of it is meant: `table` with its `schema` ("": the usual one), in the order of `order`."""

    url: sa.URL
    kind: str
    table: str
    schema: str
    order: tuple[str, ...]

    @classmethod
    def parse(cls, name: str) -> Database:
        """From a URL as SQLAlchemy takes it, with `table=` and `order=` added. Raises `UsageError`, `MissingExtra`."""
        alchemy = sqlalchemy()
        scheme = _SCHEME.match(name)
        kind = _DRIVERS.get(scheme[1].lower(), "") if scheme is not None else ""
        if not kind:
            raise UsageError("not a database that is known", where=shown(name), expected=_EXPECTED)
        try:
            url = alchemy.make_url(name)
        except (alchemy.exc.ArgumentError, ValueError):
            raise UsageError("not the URL of a database", where=shown(name), expected=_EXPECTED) from None
        table, order = (_one(url.query.get(key, "")) for key in ("table", "order"))
        schema, _, table = table.rpartition(".")
        driver = "sqlite+pysqlite" if kind == "sqlite" else "postgresql+psycopg"
        url = url.difference_update_query(["table", "order"]).set(drivername=driver)
        if kind == "sqlite" and (not url.database or url.database == ":memory:" or url.database.startswith("file:")):
            raise UsageError("not a file of SQLite", where=shown(name), expected="sqlite:///FILE?table=NAME")
        if kind == "sqlite" and url.query:
            raise UsageError(
                "not understood", where=shown(name), expected="table= and order=", found=", ".join(url.query)
            )
        columns = tuple(filter(None, map(str.strip, order.split(","))))
        return cls(url=url, kind=kind, table=table, schema=schema, order=columns)

    @property
    def file(self) -> Path:
        """The file of a SQLite database."""
        return Path(str(self.url.database))

    @property
    def name(self) -> str:
        """The database as it may be told."""
        return self.url.set(drivername=self.kind).render_as_string(hide_password=True)

    @property
    def place(self) -> str:
        """The table as it may be told."""
        return f"{self.name}, table {f'{self.schema}.' if self.schema else ''}{self.table}"

    def same_table(self, other: Database) -> bool:
        """Whether both mean the same table, as far as their names tell."""
        here, there = ((one.name, one.schema, one.table) for one in (self, other))
        if self.kind == other.kind == "sqlite":
            here, there = ((str(one.file.resolve()), one.schema, one.table.lower()) for one in (self, other))
        return here == there

    def engine(self, *, read_only: bool) -> sa.Engine:
        """Connections for several threads. Raises `NotFound` for a file to be read that is not there."""
        alchemy = sqlalchemy()
        if self.kind == "postgresql":
            _need_psycopg()
            made: sa.Engine = alchemy.create_engine(
                self.url, isolation_level="AUTOCOMMIT", execution_options={"no_parameters": True},
                connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "onward batch"},
            )  # fmt: skip
            return made
        if read_only and not self.file.is_file():
            raise NotFound("there is no such database", where=self.name)
        address = f"file:{quote(str(self.file.absolute()))}?mode={'ro' if read_only else 'rwc'}"

        def connect() -> sqlite3.Connection:
            opened = sqlite3.connect(
                address, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False, isolation_level=None
            )
            opened.text_factory = _text
            return opened

        made = alchemy.create_engine("sqlite://", creator=connect, poolclass=alchemy.pool.QueuePool)
        return made

    @contextmanager
    def errors(self, failure: type[OnwardError]) -> Iterator[None]:
        """What a database says goes wrong, as ours: `DatabaseUnavailable` where it is out of reach, else `failure`."""
        alchemy = sqlalchemy()
        try:
            yield
        except alchemy.exc.NoSuchTableError as error:
            raise NotFound("there is no such table", where=self.place) from error
        except (alchemy.exc.SQLAlchemyError, *driver_errors(self.kind)) as error:
            cause = getattr(error, "orig", None) or error
            kind: type[OnwardError] = DatabaseUnavailable if _is_unreachable(cause) else failure
            raise kind(self._told(cause), where=self.place if self.table else self.name) from None

    def _told(self, error: BaseException) -> str:
        """The first line of what a driver says, which has no values; never the password."""
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        password = self.url.password
        return text.replace(str(password), "***") if password else text


def quoted(*names: str) -> str:
    """Names in SQL, the last one in those before it; empty ones are left out."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names if name)


def sqlalchemy() -> Any:
    """SQLAlchemy. Raises `MissingExtra`."""
    try:
        import sqlalchemy
    except ImportError:
        raise MissingExtra("databases need SQLAlchemy", expected="pip install 'onward[decide]'") from None
    return sqlalchemy


def driver_errors(kind: str) -> tuple[type[Exception], ...]:
    """The errors of a driver."""
    if kind == "sqlite":
        return (sqlite3.Error,)
    import psycopg

    return (psycopg.Error,)


def _need_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise MissingExtra("PostgreSQL needs psycopg", expected="pip install 'onward[postgres]'") from None


def _is_unreachable(error: BaseException) -> bool:
    if isinstance(error, sqlite3.Error):
        return "unable to open" in str(error) or "is locked" in str(error)
    # A connection that is refused or ends has no SQLSTATE, or that of who, which, or its end.
    state = getattr(error, "sqlstate", None)
    return type(error).__name__ == "OperationalError" and (state is None or state[:2] in ("08", "28", "57", "3D"))


def _one(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else value[-1]


def _text(data: bytes) -> str | bytes:
    """Text that is none stays bytes: its row says so, and not the whole read."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
