"""The store's tables, the same for SQLite and PostgreSQL, and the steps from one version of them to the next.

Texts are ordered and compared by code points in both. The indexes are those that the store's reads need; each costs
every insert a page, so there are no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from onward.store.store import StoreUnavailable

metadata = sa.MetaData()

Words = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite takes only an INTEGER as the row's own number.
Place = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Time: sa.Double[float] = sa.Double()


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, Words, primary_key=primary_key, nullable=False)


def _time(name: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, Time, primary_key=primary_key, nullable=nullable)


def _bytes(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


audit = sa.Table(
    "audit",
    metadata,
    sa.Column("sequence", Place, primary_key=True, autoincrement=False),
    _text("previous"),
    _text("digest"),
    _text("entry_id"),
    _time("at_s"),
    _text("tenant"),
    _text("kind"),
    _text("subject"),
    _bytes("body"),
    _text("key_id"),
    _bytes("sealed"),
    sa.Index("audit_entry_id", "entry_id", unique=True),
    sa.Index("audit_subject", "subject", "sequence"),
)

actions = sa.Table(
    "actions",
    metadata,
    sa.Column("place", Place, primary_key=True),  # the order in which they were reserved
    _text("action_id"),
    _text("tenant"),
    _text("idempotency_key"),
    _text("decision_id"),
    _text("name"),
    _bytes("payload"),
    _text("payload_digest"),
    _time("created_s"),
    _time("due_s"),  # the draft's available_s
    _text("key_id"),
    sa.Column("needs_approval", sa.Boolean, nullable=False),
    _text("state"),
    sa.Column("attempt", sa.Integer, nullable=False),
    _time("available_s"),
    _time("updated_s"),
    _text("owner"),
    _time("lease_until_s"),
    _text("error"),
    _bytes("receipt"),
    sa.UniqueConstraint("action_id", name="actions_action_id"),
    sa.UniqueConstraint("tenant", "idempotency_key", name="actions_idempotency_key"),
    sa.Index("actions_decision_id", "decision_id", "place"),
)
# Most actions are done: these indexes hold only the others.
_pending = sa.text("state = 'pending'")
_standing = sa.text("state NOT IN ('done', 'refused')")
sa.Index("actions_due", actions.c.available_s, actions.c.place, sqlite_where=_pending, postgresql_where=_pending)
sa.Index("actions_standing", actions.c.state, actions.c.place, sqlite_where=_standing, postgresql_where=_standing)

approvals = sa.Table(
    "approvals",
    metadata,
    _text("approval_id", primary_key=True),
    _text("tenant"),
    sa.Column("action_id", Words, sa.ForeignKey("actions.action_id"), nullable=False),
    _text("payload_digest"),
    _time("requested_s"),
    _time("expires_s"),
    _text("state"),
    _text("decided_by"),
    _time("decided_s"),
    _text("note"),
    sa.Index("approvals_action_id", "action_id"),
)
_open = sa.text("state = 'open'")
sa.Index("approvals_open", approvals.c.requested_s, sqlite_where=_open, postgresql_where=_open)

outcomes = sa.Table(
    "outcomes",
    metadata,
    _text("tenant", primary_key=True),
    _text("policy", primary_key=True),
    _text("outcome", primary_key=True),
    _time("at_s", primary_key=True),
    sa.Column("times", Place, nullable=False),
    sqlite_with_rowid=False,
)

switches = sa.Table(
    "switches",
    metadata,
    _text("name", primary_key=True),
    sa.Column("on", sa.Boolean, nullable=False),
    _text("by"),
    _time("at_s"),
)

keys = sa.Table(
    "keys",
    metadata,
    _text("key_id", primary_key=True),
    _text("tenant"),
    _text("entity"),
    _bytes("wrapped"),
    _time("created_s"),
    _time("destroyed_s", nullable=True),
)
_living = sa.text("destroyed_s IS NULL")
sa.Index("keys_living", keys.c.tenant, keys.c.entity, unique=True, sqlite_where=_living, postgresql_where=_living)

events = sa.Table(
    "events",
    metadata,
    # In SQLite the row lies in this key: an entity's events are neighbours, newest last.
    _text("tenant", primary_key=True),
    _text("entity", primary_key=True),
    _time("at_s", primary_key=True),
    _text("event_id", primary_key=True),
    _text("kind"),
    _time("recorded_s"),
    _bytes("data"),
    sa.Index("events_event_id", "tenant", "event_id", unique=True),
    sa.Index("events_at_s", "at_s"),
    sqlite_with_rowid=False,
)

conversations = sa.Table(
    "conversations",
    metadata,
    _text("tenant", primary_key=True),
    _text("conversation_id", primary_key=True),
    _text("entity"),
    _text("model"),
    _time("created_s"),
    sa.Index("conversations_entity", "tenant", "entity"),
)

turns = sa.Table(
    "turns",
    metadata,
    _text("tenant", primary_key=True),
    _text("conversation_id", primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    _text("role"),
    _bytes("content"),
    _time("at_s"),
    _bytes("state"),
    sa.ForeignKeyConstraint(
        ["tenant", "conversation_id"],
        ["conversations.tenant", "conversations.conversation_id"],
        ondelete="CASCADE",
    ),
)

recordings = sa.Table(
    "recordings",
    metadata,
    _text("recording_id", primary_key=True),
    _text("tenant"),
    _text("entity"),
    _text("model"),
    _text("version"),
    _text("package_digest"),
    _time("at_s"),
    _time("duration_s"),
    _bytes("input"),
    _bytes("answer"),
    sa.Index("recordings_model", "model", "at_s"),
    sa.Index("recordings_entity", "tenant", "entity"),
    sa.Index("recordings_at_s", "at_s"),
)

versions = sa.Table(
    "schema_versions",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The step that makes of the tables before `version` those of `version`."""

    version: int
    apply: Callable[[sa.Connection], None]


MIGRATIONS: Sequence[Migration] = ()
"""In order, each one version up, from 2 on. A new store is made at the newest version at once."""

_GUARDS = {
    "sqlite": [
        f"CREATE TRIGGER audit_no_{verb.lower()} BEFORE {verb} ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$",
        "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ],
}


def newest_version() -> int:
    """The version of the tables that this release works with."""
    return MIGRATIONS[-1].version if MIGRATIONS else 1


def bring_up_to_date(connection: sa.Connection) -> None:
    """Make the tables where there are none, or bring older ones forward. Belongs into a transaction that writes.

    `StoreUnavailable` where they are newer than this release: it does not know what it would break.
    """
    newest = newest_version()
    if not sa.inspect(connection).has_table(versions.name):
        metadata.create_all(connection)
        for guard in _GUARDS[connection.dialect.name]:
            connection.exec_driver_sql(guard)
        connection.execute(sa.insert(versions).values(version=newest))
        return
    found = connection.execute(sa.select(sa.func.max(versions.c.version))).scalar_one()
    if found > newest:
        raise StoreUnavailable(
            "a newer release has written this store", expected=f"tables of version {newest}", found=f"{found}"
        )
    for migration in MIGRATIONS:
        if migration.version > found:
            migration.apply(connection)
            connection.execute(sa.insert(versions).values(version=migration.version))
