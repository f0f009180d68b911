"""Databases by name: what a URL means, and that its password is never told."""

from __future__ import annotations

import builtins
import sqlite3
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="databases need the extra `decide`")

from onward.errors import MissingExtra, NotFound, UsageError
from onward.runners.batch.databases import Database, is_database, quoted, shown
from onward.runners.batch.errors import DatabaseUnavailable, SourceUnreadable


def test_a_url_is_a_database_and_a_path_is_not() -> None:
    assert is_database("sqlite:///bank.db?table=t") and is_database("postgresql+psycopg://host/db")
    assert not any(map(is_database, ("bank.db", "days/*.parquet", "/a/b.csv", "C:/x.csv", "a:b")))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("postgresql://ann:secret@host:5/db?table=t", "postgresql://ann:***@host:5/db?table=t"),
        ("postgresql://ann:p%40ss:w@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://host/db?user=ann&password=secret&table=t", "postgresql://host/db?user=ann&password=***&table=t"),
        ("postgresql://ann@host/db", "postgresql://ann@host/db"),
        ("sqlite:///a@b:c.db", "sqlite:///a@b:c.db"),
        ("some:secret@file.csv", "some:secret@file.csv"),
    ],
)
def test_a_password_is_not_shown(name: str, told: str) -> None:
    assert shown(name) == told


def test_table_and_order_are_taken_out_of_the_url_and_the_rest_is_the_drivers() -> None:
    found = Database.parse("postgres://ann:secret@host/db?table=sales.tx&order=day,id&sslmode=require")
    assert (found.kind, found.schema, found.table, found.order) == ("postgresql", "sales", "tx", ("day", "id"))
    assert found.url.query == {"sslmode": "require"} and found.url.password == "secret"
    assert "secret" not in found.name + found.place + repr(found)


@pytest.mark.parametrize(
    "name",
    [
        "mysql://ann:secret@host/db?table=t", "sqlite://?table=t", "sqlite:///:memory:?table=t",
        "sqlite:///file:a.db?table=t", "sqlite:///a.db?tabel=t", "postgresql://ann:secret@host:port/db",
    ],
)  # fmt: skip
def test_what_is_no_database_is_refused_without_its_password(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        Database.parse(name)
    assert "secret" not in str(refused.value)


def test_two_names_of_one_table_are_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = Database.parse("sqlite:///a.db?table=T"), Database.parse(f"sqlite:///{tmp_path}/a.db?table=t")
    assert here.same_table(there) and not here.same_table(Database.parse("sqlite:///b.db?table=T"))


def test_without_the_libraries_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in missing:
            raise ImportError(name)
        return real(name, *rest)

    parsed = Database.parse("postgresql://host/db?table=t")
    monkeypatch.setattr(builtins, "__import__", without)
    missing = {"psycopg"}
    with pytest.raises(MissingExtra, match=r"onward\[postgres\]"):
        parsed.engine(read_only=True)
    missing = {"sqlalchemy"}
    with pytest.raises(MissingExtra, match=r"onward\[decide\]"):
        Database.parse("sqlite:///a.db?table=t")


def test_a_file_to_read_is_not_made_and_not_written_to(tmp_path: Path) -> None:
    database = Database.parse(f"sqlite:///{tmp_path}/a.db?table=t")
    with pytest.raises(NotFound):
        database.engine(read_only=True)
    assert not database.file.exists()
    sqlite3.connect(database.file).execute("create table t (a)").connection.close()
    with (
        pytest.raises(SourceUnreadable, match="readonly"),
        database.errors(SourceUnreadable),
        database.engine(read_only=True).connect() as connection,
    ):
        connection.exec_driver_sql("insert into t values (1)")


def test_a_driver_s_words_are_told_without_the_password() -> None:
    database = Database.parse("postgresql://ann:secret@127.0.0.1:1/db?table=t")
    with (
        pytest.raises(DatabaseUnavailable) as refused,
        database.errors(SourceUnreadable),
        database.engine(read_only=True).connect(),
    ):
        pass
    assert "secret" not in str(refused.value) and "127.0.0.1" in str(refused.value)
    with pytest.raises(SourceUnreadable, match=r"^[^\n]*broken \*\*\*$"), database.errors(SourceUnreadable):
        raise sqlite_or_psycopg_error("broken secret\nDETAIL: Key (card)=(4711)")


def sqlite_or_psycopg_error(text: str) -> Exception:
    import psycopg

    return psycopg.DataError(text)


def test_our_own_errors_pass_and_a_locked_file_is_out_of_reach(tmp_path: Path) -> None:
    database = Database.parse(f"sqlite:///{tmp_path}/a.db?table=t")
    with pytest.raises(UsageError), database.errors(SourceUnreadable):
        raise UsageError("mine")
    with pytest.raises(DatabaseUnavailable), database.errors(SourceUnreadable):
        raise sqlite3.OperationalError("database is locked")


def test_names_are_quoted() -> None:
    assert quoted("", 'a"b') == '"a""b"' and quoted("s", "t") == '"s"."t"'
