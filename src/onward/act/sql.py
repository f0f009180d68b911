"""Actions as one SQL statement on the operator's database, which happens together with a note that it happened.

The statement and a row in the table `onward_effects`, keyed by the idempotency key, are one transaction there: a
second try finds the row and does nothing, and an unknown outcome is settled by looking for it. Values are bound, never
written into the statement. Needs the extra `decide`, and the database's own driver.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onward.act import crash
from onward.act.executor import Order, Outcome, Verdict, done, failed, not_sent, unknown
from onward.errors import MissingExtra

if TYPE_CHECKING:
    from sqlalchemy import Engine

EFFECTS_TABLE = "onward_effects"
CONTEXT_NAMES = ("action_id", "idempotency_key", "decision_id", "tenant")
_NAME = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)(?!:)")
_TEXT = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """What to run. `rows`: how many rows it must change, or it is undone and refused; None for any number."""

    url: str = field(repr=False)
    statement: str
    rows: int | None = None
    timeout_s: float = 10.0


def statement_problem(statement: str) -> str:
    """What is wrong with a statement, "" if nothing."""
    bare = _TEXT.sub("", statement).strip().rstrip(";")
    if not bare:
        return "no statement"
    return "more than one statement" if ";" in bare else ""


def names_of(statement: str) -> tuple[str, ...]:
    """The names that a statement binds."""
    return tuple(dict.fromkeys(_NAME.findall(_TEXT.sub("", statement))))


class SqlExecutor:
    """Runs the statement on a small pool of connections, opened when first needed."""

    can_reconcile = True

    def __init__(self, target: Sql, *, connections: int = 4) -> None:
        self._target = target
        self._connections = connections
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._names = names_of(target.statement)

    def execute(self, order: Order) -> Outcome:
        """The statement and its note in one transaction, unless the note is there already."""
        from sqlalchemy import exc, text

        try:
            values = self._values(order)
        except LookupError:
            return failed("MISSING_ARGUMENT")
        try:
            connection = self._ready().connect()
        except exc.SQLAlchemyError:
            return not_sent("CONNECT_FAILED")
        committing = False
        try:
            crash.point("relay.sending")
            receipt = self._receipt(connection, order)
            if receipt is not None:
                return done(receipt)
            self._limit_time(connection)
            self._note(connection, order)
            changed = connection.execute(text(self._target.statement), values).rowcount
            if self._target.rows is not None and changed != self._target.rows:
                return failed("OTHER_NUMBER_OF_ROWS")
            crash.point("relay.sent")
            committing = True
            connection.commit()
            return done(_receipt_of(order))
        except exc.IntegrityError as error:
            # Another try may have won the race for the note; otherwise the statement itself is refused.
            found = self._look_again(connection, order)
            return failed(f"SQL_{type(error.orig).__name__}") if found.verdict is Verdict.NOT_SENT else found
        except exc.SQLAlchemyError as error:
            if committing:
                return unknown("COMMIT_UNANSWERED")
            code = f"SQL_{type(getattr(error, 'orig', None) or error).__name__}"
            lasting = isinstance(error, exc.ProgrammingError | exc.DataError | exc.NotSupportedError)
            return Outcome(verdict=Verdict.FAILED if lasting else Verdict.LATER, error=code)
        finally:
            _give_back(connection)

    def reconcile(self, order: Order) -> Outcome:
        """Look for the note."""
        from sqlalchemy import exc

        try:
            with self._ready().connect() as connection:
                receipt = self._receipt(connection, order)
        except exc.SQLAlchemyError:
            return unknown("CONNECT_FAILED")
        return not_sent("NO_NOTE") if receipt is None else done(receipt)

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _look_again(self, connection: Any, order: Order) -> Outcome:
        from sqlalchemy import exc

        try:
            connection.rollback()
            receipt = self._receipt(connection, order)
        except exc.SQLAlchemyError:
            return unknown("CONNECT_FAILED")
        return not_sent("NO_NOTE") if receipt is None else done(receipt)

    def _values(self, order: Order) -> dict[str, Any]:
        known: Mapping[str, Any] = {**order.arguments, **order.context}
        return {name: known[name] for name in self._names}

    def _ready(self) -> Engine:
        with self._opening:
            if self._engine is None:
                self._engine = self._open()
            return self._engine

    def _open(self) -> Engine:
        try:
            import sqlalchemy
        except ImportError as error:
            wanted = "pip install 'onward[decide]'"
            raise MissingExtra("actions of kind sql need SQLAlchemy", expected=wanted) from error
        url = sqlalchemy.make_url(self._target.url)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        arguments = {"timeout": self._target.timeout_s} if url.get_backend_name() == "sqlite" else {}
        if url.get_backend_name() == "postgresql":
            arguments = {"connect_timeout": max(int(self._target.timeout_s), 2)}
        engine = sqlalchemy.create_engine(
            url, pool_size=self._connections, max_overflow=0, pool_pre_ping=True, connect_args=arguments
        )
        with engine.begin() as connection:
            if not sqlalchemy.inspect(connection).has_table(EFFECTS_TABLE):
                connection.execute(
                    sqlalchemy.text(
                        f"CREATE TABLE IF NOT EXISTS {EFFECTS_TABLE} (tenant VARCHAR(512), "
                        "idempotency_key VARCHAR(512), action_id VARCHAR(512) NOT NULL, "
                        "at_s DOUBLE PRECISION NOT NULL, PRIMARY KEY (tenant, idempotency_key))"
                    )
                )
        return engine

    def _limit_time(self, connection: Any) -> None:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(self._target.timeout_s * 1000)}")

    def _receipt(self, connection: Any, order: Order) -> bytes | None:
        from sqlalchemy import text

        query = text(f"SELECT 1 FROM {EFFECTS_TABLE} WHERE tenant = :tenant AND idempotency_key = :key")
        row = connection.execute(query, {"tenant": order.tenant, "key": order.idempotency_key}).first()
        return None if row is None else _receipt_of(order)

    def _note(self, connection: Any, order: Order) -> None:
        from sqlalchemy import text

        insert = text(f"INSERT INTO {EFFECTS_TABLE} VALUES (:tenant, :key, :action, :at)")
        values = {"tenant": order.tenant, "key": order.idempotency_key, "action": order.action_id, "at": time.time()}
        connection.execute(insert, values)


def _receipt_of(order: Order) -> bytes:
    return f'{{"effect":"{order.action_id}"}}'.encode()


def _give_back(connection: Any) -> None:
    """Undo what is not committed, and return the connection, or drop it where even that fails."""
    from sqlalchemy import exc

    try:
        connection.rollback()
        connection.close()
    except exc.SQLAlchemyError:
        connection.invalidate()
        connection.close()
