"""Rows of a database, from a table or a query, in an order that is the same whenever they are read.

Read through a cursor of the server in one snapshot, so that memory does not grow with the rows. A database has no time
of change to look at: what is told of the rows read so far is their digest, and a resumed job reads them again.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import re
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from onward.errors import UsageError
from onward.runners.batch.cells import SAMPLE_ROWS, of_values, type_of_field, type_of_values
from onward.runners.batch.databases import Database, quoted, shown, sqlalchemy
from onward.runners.batch.errors import SourceUnreadable
from onward.runners.batch.ordinary import KINDS, ordinary
from onward.runners.batch.records import Chunk
from onward.runners.batch.source import chunk_of_columns
from onward.types import Field

if TYPE_CHECKING:
    import sqlalchemy as sa

_FETCH_ROWS = 2048
_LITERALS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_BRACKETS = re.compile(r"\([^()]*\)")
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)


class DatabaseRows:
    """A table or a query. See `Source`; `live` says that only the rows themselves tell whether they are the same."""

    live = True

    def __init__(self, name: str, query: str, fields: Mapping[str, Field], limit: int | None) -> None:
        """`limit`: only so many rows are read.

        Raises `UsageError`, `NotFound`, `SourceUnreadable`, `DatabaseUnavailable`, `MissingExtra`."""
        self._database = Database.parse(name)
        self._fields = fields
        self._limit = limit
        self._query = query.strip().rstrip(";").rstrip()
        self._engine = self._database.engine(read_only=True)
        self._check(name)
        with self._database.errors(SourceUnreadable), self._reading() as connection:
            self._statement = self._query or self._of_table(connection)
            self.rows: int | None = None if self._query else self._count(connection)
            self._names, sample = self._sample(connection)
        twice = next((one for one in self._names if self._names.count(one) > 1), "")
        if twice:
            raise SourceUnreadable(f"column {twice!r} is there twice", where=self._place)
        columns = zip(*sample, strict=True) if sample else ([] for _ in self._names)
        self._types = {one: self._type(one, values) for one, values in zip(self._names, columns, strict=True)}

    @property
    def _place(self) -> str:
        return "--query" if self._query else self._database.place

    @property
    def schema(self) -> pa.Schema:
        """See `Source`."""
        return pa.schema([(name, type_ or pa.string()) for name, type_ in self._types.items()])

    def facts(self) -> Sequence[Any]:
        """The database and what is read of it."""
        return [[self._database.name, self._statement, self.rows]]

    def digest(self) -> str:
        """SHA-256 of all rows and columns. Chunks tell it of the rows and columns that are read."""
        digest = hashlib.sha256(_SEED).hexdigest()
        for chunk in self.chunks(self._names, _FETCH_ROWS):
            digest = chunk.digest
        return digest

    def chunks(self, columns: Sequence[str], size: int, *, start: int = 0) -> Iterator[Chunk]:
        """See `Source`. Reads from the first row on, whatever `start` is: the digest is that of all rows before."""
        places = [self._names.index(name) for name in columns]
        everything = list(range(len(self._names)))
        whole = hashlib.sha256(_SEED)
        encode = msgspec.msgpack.Encoder(enc_hook=str).encode
        first, before = 0, whole.hexdigest()
        with self._database.errors(SourceUnreadable), self._reading() as connection, ExitStack() as stack:
            all_rows = stack.enter_context(closing(self._rows(connection)))
            rows = islice(all_rows, self._limit)
            while found := list(islice(rows, size)):
                taken = found if places == everything else [tuple(row[place] for place in places) for row in found]
                whole.update(b"".join(map(encode, taken)))
                after = whole.hexdigest()
                if first >= start:
                    yield self._chunk(taken, columns, first, (before, after))
                first, before = first + len(found), after

    def _chunk(
        self, rows: Sequence[tuple[Any, ...]], columns: Sequence[str], first: int, digests: tuple[str, str]
    ) -> Chunk:
        numbers = np.arange(first, first + len(rows), dtype=np.int64)
        values = zip(*rows, strict=True) if columns else ()
        typed = {name: self._column(name, list(found)) for name, found in zip(columns, values, strict=True)}
        chunk = chunk_of_columns(typed, numbers)
        chunk.before, chunk.digest = digests
        return chunk

    def _column(self, name: str, values: list[Any]) -> tuple[pa.Array, dict[int, Any]]:
        type_ = self._types[name]
        kinds = set(map(type, values))
        if kinds & _FOREIGN:
            values = [_plain(value) for value in values]
        if type_ is not None and pa.types.is_boolean(type_) and self._database.kind == "sqlite":
            values = [bool(value) if value in (0, 1) else value for value in values]  # SQLite has no other
        elif type_ is not None and pa.types.is_string(type_) and kinds - _TEXTS:
            values = [_as_text(value) for value in values]
        column = ordinary(values, type_)
        if column is not None:
            return column, {}
        if type_ is not None and (pa.types.is_temporal(type_) or pa.types.is_binary(type_)):
            wanted = next(known for one, known in KINDS if one == type_)
            misfits = {at: value for at, value in enumerate(values) if value is not None and type(value) not in wanted}
            return pa.array([None if at in misfits else value for at, value in enumerate(values)], type_), misfits
        return of_values(values, type_)

    def _type(self, name: str, values: Sequence[Any]) -> pa.DataType | None:
        if name in self._fields:
            return type_of_field(self._fields[name])
        kinds = {type(value) for value in values if value is not None}
        if kinds == {bytes}:
            return pa.binary()
        if kinds == {datetime.date}:
            return pa.date32()
        if kinds == {datetime.datetime}:
            aware = any(value.tzinfo is not None for value in values if value is not None)
            return pa.timestamp("us", "UTC") if aware else pa.timestamp("us")
        return type_of_values(values)

    def _check(self, name: str) -> None:
        if bool(self._query) == bool(self._database.table):
            expected = "…?table=NAME, or --query 'select … order by …'"
            raise UsageError("what of the database is to be read", where=shown(name), expected=expected)
        if not self._query:
            return
        if self._database.order:
            raise UsageError("the order of a query is in the query", where=shown(name), expected="no order=")
        if not re.match(r"(select|with|values|table)\b", self._query, re.IGNORECASE):
            raise UsageError("not a query", where="--query", expected="select … order by …", found=self._query[:40])
        if not has_order(self._query):
            raise UsageError(
                "the rows have no fixed order, which a job needs to go on where it stopped", where="--query",
                expected="… order by columns that no two rows share",
            )  # fmt: skip

    def _of_table(self, connection: sa.Connection) -> str:
        """The query for a table: in the order asked for, that of its primary key, or that of SQLite's rows."""
        inspector = sqlalchemy().inspect(connection)
        table, schema = self._database.table, self._database.schema or None
        columns = [column["name"] for column in inspector.get_columns(table, schema)]
        for name in self._database.order:
            if name not in columns:
                expected = f"one of {', '.join(columns[:20])}"
                raise UsageError("the table has no such column", where=f"order={name}", expected=expected)
        key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
        is_table = table in inspector.get_table_names(schema)
        order = [quoted(name) for name in dict.fromkeys([*self._database.order, *key])]
        if not key and is_table and self._database.kind == "sqlite":
            order.append("rowid")
        if not order:
            raise UsageError(
                "the table has no primary key, so that its rows have no fixed order, which a job needs to go on where "
                "it stopped", where=self._database.place, expected="&order=COLUMN,… that no two rows share",
            )  # fmt: skip
        return f"SELECT {', '.join(map(quoted, columns))} FROM {self._named()} ORDER BY {', '.join(order)}"

    def _named(self) -> str:
        return quoted(self._database.schema, self._database.table)

    def _count(self, connection: sa.Connection) -> int:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {self._named()}").scalar_one())

    def _sample(self, connection: sa.Connection) -> tuple[list[str], list[tuple[Any, ...]]]:
        with closing(self._cursor(connection)) as cursor:
            cursor.execute(self._statement)
            found = [tuple(map(_plain, row)) for row in cursor.fetchmany(SAMPLE_ROWS)]
            if cursor.description is None:
                raise UsageError("not a query", where=self._place, expected="select … order by …")
            return [column[0] for column in cursor.description], found

    def _rows(self, connection: sa.Connection) -> Generator[tuple[Any, ...], None, None]:
        with closing(self._cursor(connection)) as cursor:
            cursor.execute(self._statement)
            while found := cursor.fetchmany(_FETCH_ROWS):
                yield from found

    def _cursor(self, connection: sa.Connection) -> Any:
        driver: Any = connection.connection.driver_connection
        return driver.cursor("onward_batch") if self._database.kind == "postgresql" else driver.cursor()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        """A connection in a transaction of its own, which sees one state of the database and changes nothing."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if self._database.kind == "postgresql" else "BEGIN"
        with self._engine.connect() as connection:
            connection.exec_driver_sql(begin)
            try:
                yield connection
            finally:
                connection.invalidate()  # whatever state it is in: it is not used again


_SEED = b"onward-rows-1"
_TEXTS = frozenset({str, type(None)})
_FOREIGN = frozenset({decimal.Decimal, memoryview, uuid.UUID, datetime.time, datetime.timedelta})
"""What drivers give that no column holds."""


def has_order(query: str) -> bool:
    """Whether a query says in which order its rows come; not one of its parts."""
    before, query = "", _LITERALS.sub(" ", query)
    while before != query:
        before, query = query, _BRACKETS.sub(" ", query)
    return _ORDER.search(query) is not None


def _plain(value: Any) -> Any:
    """What a driver gives as the values that columns are made of."""
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, uuid.UUID | datetime.time | datetime.timedelta):
        return str(value)
    return value


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date | datetime.datetime) else value
