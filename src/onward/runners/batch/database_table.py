"""A table of a database as the output: a shard's rows and the note that they are there are one transaction.

The rows gather in a table of another name, which gets its own when it is whole. `_onward_shards` says which shards are
in it, and which job made a finished one. The journal, the rejects and `_run.json` are files: beside a SQLite file, else
in the folder where the job runs.
"""

from __future__ import annotations

import hashlib
import io
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from onward.act import crash
from onward.errors import UsageError
from onward.runners.batch.cells import as_json_text
from onward.runners.batch.databases import Database, quoted, shown, sqlalchemy
from onward.runners.batch.errors import JobChanged, OutputBusy, OutputFailed
from onward.runners.batch.output import Assembling, Output
from onward.runners.batch.records import ROW, Reject

if TYPE_CHECKING:
    import sqlalchemy as sa

SHARDS = "_onward_shards"
_WHOLE = -1
"""The shard that says that the table is whole."""
_LONGEST_NAME = 40
_BATCH_ROWS = 4096


class DatabaseTable(Output):
    """The place of an output in a database. See `Output`."""

    is_folder = False
    form = ""

    def __init__(self, name: str) -> None:
        """Raises `UsageError`, `MissingExtra`, `DatabaseUnavailable`, `OutputFailed`."""
        self.database = Database.parse(name)
        table = self.database.table
        if not table or self.database.order:
            raise UsageError("which table is to be made", where=shown(name), expected="…?table=NAME")
        if len(table.encode()) > _LONGEST_NAME or table.startswith("_onward"):
            expected = f"a name of at most {_LONGEST_NAME} bytes that does not begin with _onward"
            raise UsageError("not a name for a table of answers", where=shown(name), expected=expected)
        file = self.database.file if self.database.kind == "sqlite" else None
        self.folder = file.parent if file is not None else Path()
        label = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in self._label())
        self.path = self.folder / (f"{file.name}.{label}" if file is not None else label)
        self._place_beside(self.path.with_name(f"{self.path.name}_"))
        self._writing = threading.Lock()
        self._columns: tuple[str, ...] = ()
        self._run_id = ""
        self._opened: sa.Engine | None = None

    def _label(self) -> str:
        return ".".join(filter(None, (self.database.schema, self.database.table)))

    @property
    def engine(self) -> sa.Engine:
        """Connections to the database, which is made where it is a file that is not there yet."""
        if self._opened is None:
            self._opened = self.database.engine(read_only=False)
        return self._opened

    @property
    def _key(self) -> str:
        return self._label()

    @property
    def staging(self) -> str:
        """The table in which the rows gather."""
        return f"_onward_{self.database.table}"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """See `Output`; jobs on other machines are excluded by the server."""
        with ExitStack() as stack:
            stack.enter_context(super().locked(name))
            stack.callback(self._close)
            if self.database.kind == "postgresql":
                with self._failing():
                    connection = stack.enter_context(self.engine.connect())
                    number = zlib.crc32(f"onward batch {self._key}".encode())
                    found = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock(7161994, {number - (1 << 31)})")
                    if not found.scalar_one():
                        raise OutputBusy(where=self.database.place)
                stack.callback(connection.invalidate)  # the lock ends with its session
            else:
                self._prepare_file(stack)
            yield

    def _prepare_file(self, stack: ExitStack) -> None:
        """Readers of the file, the job's own among them, and its writer must not wait for one another."""
        with self._failing(), self.engine.connect() as connection:
            before = str(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        if before != "wal":
            stack.callback(self._set_journal, before)

    def _set_journal(self, mode: str) -> None:
        try:
            with self.engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA journal_mode = {mode}")
        except sqlalchemy().exc.SQLAlchemyError:
            pass  # somebody else reads: it stays as it is, and works

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.dispose()
            self._opened = None

    @property
    def exists(self) -> bool:
        """Whether there is a table of that name."""
        with self._failing(), self.engine.connect() as connection:
            return self._has(connection, self.database.table)

    def clear(self) -> None:
        """Remove what a job has made here. Raises `JobChanged` for a table that no job has made."""
        super().clear()
        with self._failing(), self._transaction() as connection:
            if self._has(connection, self.database.table):
                if self.published(connection) is None:
                    raise JobChanged("the table is there, and no job made it", where=self.database.place)
                connection.exec_driver_sql(f"DROP TABLE {self._named(self.database.table)}")
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self._named(self.staging)}")
            if self._has(connection, SHARDS):
                self._forget(connection)

    def assemble(self, schema: pa.Schema, run_id: str) -> Assembling:
        """See `Output`."""
        self._columns = tuple(schema.names)
        return TableAssembly(self, schema, run_id)

    def write_shard(self, index: int, table: pa.Table, rejects: Sequence[Reject]) -> str:
        """See `Output`; a shard whose rows are in the table already is not written again."""
        digest = _digest(table)
        self._write_rejects(index, rejects)
        turn = self._writing if self.database.kind == "sqlite" else threading.Lock()
        with turn, self._failing(), self._transaction() as connection:
            found = self._shards(connection).get(index)
            if found != digest:
                self._replace(connection, index, table, digest, known=found is not None)
            crash.point("batch.shard_written")
        crash.point("batch.shard_published")
        return digest

    def _replace(self, connection: sa.Connection, index: int, table: pa.Table, digest: str, *, known: bool) -> None:
        if known:  # answers that are not the same twice: those of the last time are as good, and go
            ends = connection.exec_driver_sql(
                f"SELECT first_row, last_row FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)} "
                f"AND shard = {index}"
            ).one()
            connection.exec_driver_sql(
                f'DELETE FROM {self._named(self.staging)} WHERE "{ROW}" BETWEEN {ends[0]} AND {ends[1]}'
            )
            connection.exec_driver_sql(
                f"DELETE FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)} AND shard = {index}"
            )
        numbers = table.column(ROW)
        first, last = (numbers[0].as_py(), numbers[-1].as_py()) if len(numbers) else (0, -1)
        self._insert(connection, table)
        self._note(connection, shard=index, first_row=first, last_row=last, digest=digest)

    def _insert(self, connection: sa.Connection, table: pa.Table) -> None:
        driver: Any = connection.connection.driver_connection
        names = ", ".join(quoted(name) for name in self._columns)
        target = self._named(self.staging)
        if self.database.kind == "sqlite":
            marks = ", ".join("?" for _ in self._columns)
            for rows in _rows(table, plain=_for_sqlite):
                driver.executemany(f"INSERT INTO {target} ({names}) VALUES ({marks})", rows)
            return
        with driver.cursor() as cursor, cursor.copy(f"COPY {target} ({names}) FROM STDIN") as copy:
            for rows in _rows(table, plain=_for_postgresql):
                for row in rows:
                    copy.write_row(row)

    def published(self, connection: sa.Connection) -> tuple[str, str] | None:
        """The run that made the table, and its digest."""
        if not self._has(connection, SHARDS):
            return None
        row = connection.exec_driver_sql(
            f"SELECT run_id, digest FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)} "
            f"AND shard = {_WHOLE}"
        ).first()
        return (str(row[0]), str(row[1])) if row is not None else None

    def prepare(self, schema: pa.Schema, run_id: str) -> None:
        """Make the table in which the rows gather, or see that it is that of this run."""
        self._run_id = run_id
        with self._failing(), self._transaction() as connection:
            if not self._has(connection, SHARDS):
                self._make_shards(connection)
            done = self.published(connection)
            if done is not None and done[0] == run_id:
                return
            if self._has(connection, self.database.table):
                raise JobChanged("the table is there, and another job made it", where=self.database.place)
            owners = self._owners(connection)
            if owners != {run_id} or not self._has(connection, self.staging):
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {self._named(self.staging)}")
                self._forget(connection)
                self._make_staging(connection, schema)

    def finish(self, shards: Mapping[int, str], digest: str) -> None:
        """Give the table its name, once its shards are those of the journal."""
        with self._failing(), self._transaction() as connection:
            done = self.published(connection)
            if done is not None and done[0] == self._run_id:
                return
            if self._shards(connection) != shards:
                raise JobChanged(
                    "shards that were written are no longer in the table", where=self.database.place,
                    expected="--restart",
                )  # fmt: skip
            rename = f"ALTER TABLE {self._named(self.staging)} RENAME TO {quoted(self.database.table)}"
            connection.exec_driver_sql(rename)
            self._forget(connection)
            self._note(connection, shard=_WHOLE, first_row=0, last_row=-1, digest=digest)
            crash.point("batch.assembled")
        crash.point("batch.output_published")

    def _named(self, table: str) -> str:
        return quoted(self.database.schema, table)

    def _make_shards(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(
            f"CREATE TABLE {self._named(SHARDS)} (output TEXT NOT NULL, shard INTEGER NOT NULL, run_id TEXT NOT NULL, "
            "first_row BIGINT NOT NULL, last_row BIGINT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (output, shard))"
        )

    def _make_staging(self, connection: sa.Connection, schema: pa.Schema) -> None:
        types = [f"{quoted(field.name)} {_sql_type(field.type, self.database.kind)}" for field in schema]
        connection.exec_driver_sql(
            f'CREATE TABLE {self._named(self.staging)} ({", ".join(types)}, PRIMARY KEY ("{ROW}"))'
        )

    def _owners(self, connection: sa.Connection) -> set[str]:
        rows = connection.exec_driver_sql(
            f"SELECT DISTINCT run_id FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)}"
        )
        return {str(row[0]) for row in rows}

    def _shards(self, connection: sa.Connection) -> dict[int, str]:
        rows = connection.exec_driver_sql(
            f"SELECT shard, digest FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)} "
            f"AND run_id = {self._text(self._run_id)} AND shard >= 0"
        )
        return {int(row[0]): str(row[1]) for row in rows}

    def _note(self, connection: sa.Connection, *, shard: int, first_row: int, last_row: int, digest: str) -> None:
        values = (self._text(self._key), shard, self._text(self._run_id), first_row, last_row, self._text(digest))
        connection.exec_driver_sql(
            f"INSERT INTO {self._named(SHARDS)} (output, shard, run_id, first_row, last_row, digest) "
            f"VALUES ({', '.join(map(str, values))})"
        )

    def _forget(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"DELETE FROM {self._named(SHARDS)} WHERE output = {self._text(self._key)}")

    def _has(self, connection: sa.Connection, table: str) -> bool:
        return bool(sqlalchemy().inspect(connection).has_table(table, self.database.schema or None))

    def _text(self, value: str) -> str:
        return "'" + value.replace("'", "''") + "'"

    def _failing(self) -> Any:
        return self.database.errors(OutputFailed)

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as connection:
            if self.database.kind == "sqlite":
                connection.exec_driver_sql("PRAGMA synchronous = FULL")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self.database.kind == "sqlite" else "BEGIN")
            try:
                yield connection
            except BaseException:
                connection.invalidate()  # which undoes it
                raise
            connection.exec_driver_sql("COMMIT")


class TableAssembly:
    """The table while its shards come. See `Assembling`."""

    def __init__(self, output: DatabaseTable, schema: pa.Schema, run_id: str) -> None:
        self._output = output
        self._shards: dict[int, str] = {}
        self._digest = hashlib.sha256(b"onward-output-1")
        output.prepare(schema, run_id)

    @property
    def added(self) -> int:
        """How many shards are in it."""
        return len(self._shards)

    def add(self, digest: str) -> None:
        """See `Assembling`."""
        self._digest.update(bytes.fromhex(digest))
        self._shards[len(self._shards)] = digest

    def finish(self) -> str:
        """See `Assembling`."""
        self._output.finish(self._shards, self._digest.hexdigest())
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """The shards stay."""


def _digest(table: pa.Table) -> str:
    """SHA-256 of a shard's rows as an Arrow stream: the same rows, the same digest."""
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return hashlib.sha256(stream.getbuffer()).hexdigest()


def _sql_type(type_: pa.DataType, kind: str) -> str:
    postgresql = kind == "postgresql"
    if pa.types.is_boolean(type_):
        return "BOOLEAN"
    if pa.types.is_integer(type_):
        return "BIGINT" if postgresql else "INTEGER"
    if pa.types.is_floating(type_):
        small = pa.types.is_float32(type_) or pa.types.is_float16(type_)
        return ("REAL" if small else "DOUBLE PRECISION") if postgresql else "REAL"
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "BYTEA" if postgresql else "BLOB"
    if pa.types.is_timestamp(type_):
        return ("TIMESTAMP WITH TIME ZONE" if type_.tz else "TIMESTAMP") if postgresql else "TIMESTAMP"
    if pa.types.is_date(type_):
        return "DATE"
    return "TEXT"


def _rows(table: pa.Table, *, plain: Any) -> Iterator[list[tuple[Any, ...]]]:
    """A few thousand rows at a time, as a driver takes them; what is nested is JSON text."""
    for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
        columns = []
        for column in batch.columns:
            values = column.to_pylist()
            if pa.types.is_nested(column.type):
                values = [None if value is None else as_json_text(value) for value in values]
            columns.append([plain(value) for value in values] if _needs(column.type) else values)
        yield list(zip(*columns, strict=True))


def _needs(type_: pa.DataType) -> bool:
    """Whether a driver does not take the values of a type as they are."""
    return not (pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_))


def _for_sqlite(value: Any) -> Any:
    if value is None or isinstance(value, str | bytes):
        return value
    return value.isoformat(" ") if hasattr(value, "hour") else str(value)


def _for_postgresql(value: Any) -> Any:
    """PostgreSQL's text has no NUL."""
    return value.replace("\0", "�") if isinstance(value, str) else value
