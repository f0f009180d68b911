"""Rows of databases: the same rows in the same order each time, typed, or a clear word about what is missing."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="databases need the extra `decide`")

import pyarrow as pa

from onward.errors import NotFound, UsageError
from onward.runners.batch.database_rows import DatabaseRows, has_order
from onward.runners.batch.errors import SourceUnreadable
from onward.types import Field
from tests.unit.runners.batch.jobs import field


def made(file: Path, *statements: str, rows: Iterable[Sequence[Any]] = ()) -> str:
    with sqlite3.connect(file) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.executemany("insert into t values (?, ?)", rows)
    connection.close()
    return f"sqlite:///{file}?table=t"


def opened(name: str, query: str = "", *, fields: Sequence[Field] = (), limit: int | None = None) -> DatabaseRows:
    return DatabaseRows(name, query, {one.name: one for one in fields}, limit)


def values(rows: DatabaseRows, *columns: str, size: int = 100, start: int = 0) -> list[dict[str, Any]]:
    return [row for chunk in rows.chunks(columns, size, start=start) for row in chunk.table.to_pylist()]


def test_a_table_is_read_in_the_order_of_its_key_whatever_was_inserted_first(tmp_path: Path) -> None:
    name = made(
        tmp_path / "a.db", "create table t (id integer primary key, v real)", rows=[(3, 1), (1, 2.5), (2, None)]
    )
    rows = opened(name)
    assert rows.rows == 3 and rows.schema.types == [pa.int64(), pa.float64()]
    assert values(rows, "id", "v") == [{"id": 1, "v": 2.5}, {"id": 2, "v": None}, {"id": 3, "v": 1.0}]
    assert values(opened(f"{name}&order=v"), "id") == [{"id": 2}, {"id": 3}, {"id": 1}]


def test_a_table_without_a_key_is_read_in_the_order_of_sqlite_s_rows(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a, b)", rows=[(3, 1), (1, 2), (2, 9)])
    assert [row["a"] for row in values(opened(name), "a")] == [3, 1, 2]


def test_chunks_are_cut_alike_wherever_they_begin_and_have_the_digest_of_all_before(tmp_path: Path) -> None:
    rows = opened(made(tmp_path / "a.db", "create table t (a, b)", rows=[(at, at / 2) for at in range(25)]))
    whole = list(rows.chunks(["b"], 10))
    assert [list(chunk.rows) for chunk in whole] == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]
    later = list(rows.chunks(["b"], 10, start=10))
    assert [chunk.digest for chunk in later] == [chunk.digest for chunk in whole[1:]]
    assert later[0].before == whole[0].digest and later[0].table == whole[1].table
    assert list(rows.chunks(["b"], 7))[-1].digest == whole[-1].digest  # however they are cut
    assert list(rows.chunks(["a"], 10))[-1].digest != whole[-1].digest


def test_a_limit_ends_the_rows(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a, b)", rows=[(at, 0) for at in range(25)])
    assert len(values(opened(name, limit=13), "a", size=10)) == 13


def test_a_changed_value_changes_the_digest_and_a_column_that_is_not_read_does_not(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a, b)", rows=[(at, 0) for at in range(25)])

    def digests() -> list[str]:
        return [list(opened(name).chunks(columns, 10))[-1].digest for columns in (["a"], ["b"])]

    before = digests()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("update t set b = 1 where a = 20")
    connection.close()
    assert digests()[0] == before[0] and digests()[1] != before[1]


def test_values_that_do_not_fit_their_column_are_kept_as_they_are(tmp_path: Path) -> None:
    mixed = [(1, "x"), ("two", "y"), (3, b"\xff"), (None, None)]
    rows = opened(
        made(tmp_path / "a.db", "create table t (a, b)", rows=mixed), fields=[field("a"), field("b", "BYTES")]
    )
    (chunk,) = rows.chunks(["a", "b"], 10)
    assert chunk.table.to_pydict() == {"a": [1.0, None, 3.0, None], "b": ["x", "y", None, None]}
    assert chunk.raw == {1: {"a": "two"}, 2: {"b": b"\xff"}}


def test_text_that_is_not_utf8_does_not_end_the_reading(tmp_path: Path) -> None:
    name = made(
        tmp_path / "a.db", "create table t (a, b)", "insert into t values (1, cast(x'ff41' as text)), (2, 'fine')"
    )
    (chunk,) = opened(name, fields=[field("b", "BYTES")]).chunks(["b"], 10)
    assert chunk.table.to_pydict() == {"b": [None, "fine"]} and chunk.raw == {0: {"b": b"\xffA"}}


def test_sqlite_s_ones_and_zeros_are_true_and_false_where_the_package_wants_those(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a boolean, b)", rows=[(1, 0), (0, 0), (7, 0)])
    (chunk,) = opened(name, fields=[field("a", "BOOL")]).chunks(["a"], 10)
    assert chunk.table.to_pydict() == {"a": [True, False, None]} and chunk.raw == {2: {"a": 7}}


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("select a from t order by a", True),
        ("select a from t ORDER\n BY a desc limit 3", True),
        ("select a from (select a from t order by a)", False),
        ("select ')order by' from t", False),
        ("select a from t -- order by a", False),
        ("select a, row_number() over (partition by (b) order by a) from t", False),
        ("with x as (select 1 order by 1) select ')' from x order by 1", True),
        ('select "order by" from t', False),
        ("select $q$ order by $q$ from t /* order by a */", False),
    ],
)
def test_a_query_s_own_order_is_seen(query: str, ordered: bool) -> None:
    assert has_order(query) is ordered


def test_a_query_is_read_and_has_its_columns(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a, b)", rows=[(at, "100%") for at in range(5)])
    rows = opened(
        name.partition("?")[0], "select a * 2 as double, b from t where b like '%\\%' escape '\\' order by a;"
    )
    assert rows.rows is None and values(rows, "double")[-1] == {"double": 8}


@pytest.mark.parametrize(
    ("name", "query", "error"),
    [
        ("?table=t", "select 1 order by 1", UsageError), ("", "", UsageError), ("?table=t&order=c", "", UsageError),
        ("?order=a", "select a from t order by a", UsageError), ("", "select a from t", UsageError),
        ("", "delete from t", UsageError), ("", "pragma table_info(t)", UsageError),
        ("", "with x as (select 1) delete from t returning a -- order by a\n order by a", SourceUnreadable),
        ("?table=none", "", NotFound), ("", "select none from t order by 1", SourceUnreadable),
        ("", "select a, a from t order by a", SourceUnreadable), ("?table=v", "", UsageError),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path: Path, name: str, query: str, error: type[Exception]) -> None:
    url = made(tmp_path / "a.db", "create table t (a, b)", "create view v as select a from t", rows=[(1, 2)])
    with pytest.raises(error):
        opened(url.partition("?")[0] + name, query)
    with sqlite3.connect(tmp_path / "a.db") as connection:
        assert connection.execute("select count(*) from t").fetchall() == [(1,)]
    connection.close()


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"words" * 1000)
    with pytest.raises(SourceUnreadable, match="not a database"):
        opened(f"sqlite:///{tmp_path}/a.db?table=t")


def test_a_broken_page_in_the_middle_is_an_error_not_the_end(tmp_path: Path) -> None:
    name = made(tmp_path / "a.db", "create table t (a, b)", rows=[(at, "x" * 500) for at in range(4000)])
    data = bytearray((tmp_path / "a.db").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    (tmp_path / "a.db").write_bytes(data)
    with pytest.raises(SourceUnreadable):
        values(opened(name), "a", "b")


def test_postgresql_s_types_arrive(postgres_url: str) -> None:
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            'create table "T t" (id bigint primary key, x real[], n numeric, at timestamptz, day date, yes boolean, '
            'raw bytea, "a%" text, none int)'
        )
        connection.execute(
            "insert into \"T t\" select g, array[g, 0.5], 1.25, timestamptz '2026-01-02 03:04:05+01', '2026-01-02', "
            "g % 2 = 0, '\\x00ff', 'ä%', null from generate_series(1, 5000) g"
        )
    rows = opened(f"{postgres_url}&table=T%20t", fields=[field("x", shape=(2,))])
    assert rows.rows == 5000
    chunks = list(rows.chunks(rows.schema.names, 4096))
    assert [chunk.table.num_rows for chunk in chunks] == [4096, 904]
    assert chunks[0].raw[1] == {"x": [2.0, 0.5]}
    first = chunks[0].table.slice(0, 1).to_pylist()[0]
    assert first | {"at": 0} == {
        "id": 1, "x": None, "n": 1.25, "at": 0, "day": datetime.date(2026, 1, 2), "yes": False, "raw": b"\x00\xff",
        "a%": "ä%", "none": None,
    }  # fmt: skip
    assert first["at"] == datetime.datetime(2026, 1, 2, 2, 4, 5, tzinfo=datetime.UTC)


def test_a_table_of_postgresql_without_a_key_needs_an_order(postgres_url: str) -> None:
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        connection.execute("create table t as select g as a from generate_series(1, 10) g")
        connection.execute("create role nobody_special login")
    with pytest.raises(UsageError, match="order="):
        opened(f"{postgres_url}&table=t")
    assert len(values(opened(f"{postgres_url}&table=t&order=a"), "a")) == 10
    with pytest.raises(SourceUnreadable, match="permission denied"):
        opened(f"{postgres_url.replace('postgres:@', 'nobody_special:@')}&table=t&order=a")
