"""A table as the output: there whole or not at all, each row once, and nobody else's table is touched."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="databases need the extra `decide`")

import pyarrow as pa

from onward.errors import OnwardError, UsageError
from onward.runners.batch.database_table import SHARDS, DatabaseTable
from onward.runners.batch.databases import Database
from onward.runners.batch.errors import DatabaseUnavailable, JobChanged, OutputBusy, OutputFailed
from onward.runners.batch.records import Reject
from tests.unit.runners.batch.jobs import answers, plan, rejects, score, some_rows, write

ROWS = 300
SCHEMA = pa.schema([("_row", pa.int64()), ("y", pa.float32())])


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty database, to which `table=…` can be appended."""
    monkeypatch.chdir(tmp_path)  # where the journal of a job into PostgreSQL lies
    return "sqlite:///out.db?" if request.param == "sqlite" else request.getfixturevalue("postgres_url") + "&"


@pytest.fixture
def ask(url: str) -> Callable[[str], list[tuple[Any, ...]]]:
    """Run a statement there."""

    def run(statement: str) -> list[tuple[Any, ...]]:
        engine = Database.parse(url).engine(read_only=False)
        try:
            with engine.connect() as connection:
                found = connection.exec_driver_sql(statement)
                return [tuple(row) for row in found] if found.returns_rows else []
        finally:
            engine.dispose()

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", some_rows(ROWS))


def part(first: int, count: int = 10, value: float = 0.0) -> pa.Table:
    numbers = np.arange(first, first + count)
    return pa.table([pa.array(numbers), pa.array(np.full(count, value, np.float32))], schema=SCHEMA)


def test_the_table_has_every_answer_once_and_nothing_else_is_left(
    package: Path, source: Path, url: str, ask: Any, tmp_path: Path
) -> None:
    report = score(package, source, f"{url}table=scores")
    assert report["answers"] == ROWS
    found = ask("select _row, id, y from scores order by _row")
    assert [row[:2] for row in found] == [(at, at) for at in range(ROWS)]
    assert np.allclose([json.loads(row[2]) for row in found], answers(some_rows(ROWS)))
    assert ask(f"select output, shard, digest from {SHARDS}") == [("scores", -1, report["output"]["sha256"])]
    assert ask("select 1 from (select count(*) as n from scores) s where n = 300") == [(1,)]
    with pytest.raises(OnwardError), Database.parse(f"{url}table=t").errors(OutputFailed):
        ask("select * from _onward_scores")
    assert not list(tmp_path.glob("*scores_work")) and not list(tmp_path.glob("*scores_lock"))
    assert score(package, source, f"{url}table=scores")["repeated"]


def test_another_input_is_refused_and_restart_makes_the_table_anew(
    package: Path, source: Path, url: str, ask: Any
) -> None:
    score(package, source, f"{url}table=scores")
    write(source, some_rows(ROWS - 5))
    with pytest.raises(JobChanged):
        score(package, source, f"{url}table=scores")
    score(package, source, f"{url}table=scores", restart=True)
    assert ask("select count(*) from scores") == [(ROWS - 5,)]


@pytest.mark.parametrize("restart", [False, True])
def test_a_table_that_no_job_made_is_never_touched(
    package: Path, source: Path, url: str, ask: Any, restart: bool
) -> None:
    ask("create table scores (precious integer)")
    with pytest.raises(JobChanged):
        score(package, source, f"{url}table=scores", restart=restart)
    assert ask("select * from scores") == []


def test_a_table_that_appears_while_the_job_is_interrupted_is_not_touched(url: str, ask: Any) -> None:
    output = DatabaseTable(f"{url}table=scores")
    with output.locked("scores"):
        output.assemble(SCHEMA, "run-1")
    ask("create table scores (precious integer)")
    with output.locked("scores"), pytest.raises(JobChanged):
        output.assemble(SCHEMA, "run-1")
    assert ask("select * from scores") == []


def test_a_shard_is_written_once_and_one_that_is_not_the_same_twice_replaces_the_first(url: str, ask: Any) -> None:
    output = DatabaseTable(f"{url}table=scores")
    output.work.mkdir()
    with output.locked("scores"):
        assembly = output.assemble(SCHEMA, "run-1")
        digests = [output.write_shard(0, part(0), []), output.write_shard(1, part(10), [])]
        assert output.write_shard(1, part(10), []) == digests[1]
        digests[1] = output.write_shard(1, part(10, value=2.0), [Reject(row=7, column="x", reason="r", code="C")])
    with output.locked("scores"):
        assembly = output.assemble(SCHEMA, "run-1")  # as a resumed job does
        for digest in digests:
            assembly.add(digest)
        assembly.finish()
    assert ask("select y, count(*), min(_row), max(_row) from scores group by y order by y") == [
        (0.0, 10, 0, 9), (2.0, 10, 10, 19),
    ]  # fmt: skip


def test_shards_of_another_run_are_dropped(url: str, ask: Any) -> None:
    output = DatabaseTable(f"{url}table=scores")
    output.work.mkdir()
    for run in ("run-1", "run-2"):
        with output.locked("scores"):
            assembly = output.assemble(SCHEMA, run)
            digest = output.write_shard(1 if run == "run-1" else 0, part(0), [])
    with output.locked("scores"):
        assembly = output.assemble(SCHEMA, "run-2")
        assembly.add(digest)
        assembly.finish()
        assembly = output.assemble(SCHEMA, "run-2")  # killed before the run was written down
        assembly.add(digest)
        assembly.finish()
    assert ask("select count(*) from scores") == [(10,)]


def test_shards_that_somebody_removed_are_noticed(url: str, ask: Any) -> None:
    output = DatabaseTable(f"{url}table=scores")
    output.work.mkdir()
    with output.locked("scores"):
        assembly = output.assemble(SCHEMA, "run-1")
        assembly.add(output.write_shard(0, part(0), []))
        ask(f"delete from {SHARDS}")
        with pytest.raises(JobChanged):
            assembly.finish()
        assert not output.exists


def test_two_jobs_on_one_table_exclude_each_other(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if url.startswith("postgresql"):  # on two machines, as it were
        first, second = tmp_path / "one", tmp_path / "two"
        first.mkdir(), second.mkdir()
    else:
        first = second = tmp_path
    held, entered = threading.Event(), threading.Event()
    monkeypatch.chdir(first)
    one = DatabaseTable(f"{url}table=scores")

    def hold() -> None:
        with one.locked("scores"):
            entered.set()
            held.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(30)
    monkeypatch.chdir(second)
    other = DatabaseTable(f"{url}table=scores")
    try:
        with pytest.raises(OutputBusy), other.locked("scores"):
            pass
        with DatabaseTable(f"{url}table=others").locked("others"):
            pass
    finally:
        held.set()
        holder.join()
    with other.locked("scores"):
        pass


def test_a_job_reads_and_writes_the_same_database(package: Path, url: str, ask: Any) -> None:
    ask("create table raw (id integer primary key, x text)")
    for row in some_rows(40):
        ask(f"insert into raw values ({row['id']}, '{row['x']}')")
    ask("insert into raw values (40, 'words')")
    report = score(package, f"{url}table=raw", f"{url}table=scores")
    assert (report["answers"], report["rejects"]) == (40, 1)
    assert [row["row"] for row in rejects(Path(DatabaseTable(f"{url}table=scores").path))] == [40]
    with pytest.raises(UsageError):
        score(package, f"{url}table=raw", f"{url}table=raw")
    assert score(package, f"{url}table=raw", f"{url}table=scores")["repeated"]
    ask("update raw set x = '[1, 2, 3]' where id = 7")
    with pytest.raises(JobChanged, match="another input"):
        score(package, f"{url}table=raw", f"{url}table=scores")


@pytest.mark.parametrize("name", ["", "table=", "table=a&order=b", f"table={'long' * 11}", "table=_onward_shards"])
def test_a_name_that_is_no_table_to_make_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        DatabaseTable(f"sqlite:///a.db?{name}")


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SQLite files have 20 pages at most."""
    real = sqlite3.connect

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened = real(*arguments, **options)
        opened.execute("pragma max_page_count = 20")
        return opened

    monkeypatch.setattr(sqlite3, "connect", connect)
    yield


@pytest.mark.usefixtures("small_disk")
def test_a_full_database_is_an_error_and_there_is_no_table(package: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", some_rows(20_000))
    with pytest.raises(OutputFailed, match="full"):
        score(package, source, f"sqlite:///{tmp_path}/out.db?table=scores")
    with sqlite3.connect(tmp_path / "out.db") as connection:
        assert connection.execute("select name from sqlite_master where name = 'scores'").fetchall() == []
    connection.close()


def test_a_folder_that_cannot_be_made_or_a_server_that_is_not_there_is_said(
    package: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFailed):
        score(package, source, f"sqlite:///{tmp_path}/file/out.db?table=scores")
    with pytest.raises(DatabaseUnavailable):
        score(package, source, "postgresql://ann:secret@127.0.0.1:1/db?table=scores")


def test_a_schema_that_may_not_be_written_to_is_said(package: Path, source: Path, postgres_url: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import psycopg

    monkeypatch.chdir(tmp_path)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("drop role if exists reader_only")
        connection.execute("create role reader_only login")
    url = postgres_url.replace("postgres:@", "reader_only:secret@")
    with pytest.raises(OutputFailed, match="permission denied"):
        score(package, source, f"{url}&table=scores")
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"secret" not in file.read_bytes()


def test_text_with_nul_and_numbers_that_are_none_arrive_as_the_database_has_them(
    package: Path, url: str, ask: Any, tmp_path: Path
) -> None:
    rows = [{"id": 1, "name": "a\0b", "x": [1, 2, 3]}, {"id": 2, "name": "ä\n\t\\N", "x": [1, 2, 3]}]
    source = write(tmp_path / "in.jsonl", rows)
    score(package, source, f"{url}table=scores", keep=("id", "name"))
    shown = "a�b" if url.startswith("postgresql") else "a\0b"
    assert ask("select name from scores order by id") == [(shown,), ("ä\n\t\\N",)]


CHANGES = (
    "", "update raw set x = '[9, 9, 9]' where id = 3", "delete from raw where id = 3",
    "insert into raw values (-1, '[1, 2, 3]')", "update raw set x = '[9, 9, 9]' where id = 90",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupted_job_goes_on_over_the_same_rows_and_refuses_others(
    package: Path, url: str, ask: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    ask("create table raw (id integer primary key, x text)")
    for row in some_rows(100):
        ask(f"insert into raw values ({row['id']}, '{row['x']}')")
    monkeypatch.setattr("onward.runners.batch.runner.tune", lambda *_: plan(shard_rows=10))
    real, written = DatabaseTable.write_shard, []

    def write_shard(self: DatabaseTable, index: int, *rest: Any) -> str:
        if len(written) >= 5:
            raise KeyboardInterrupt
        written.append(index)
        return real(self, index, *rest)

    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(DatabaseTable, "write_shard", write_shard)
        score(package, f"{url}table=raw", f"{url}table=scores")
    if change:
        ask(change)
    if change and "90" not in change:  # rows that nobody has read yet may be others
        with pytest.raises(JobChanged):
            score(package, f"{url}table=raw", f"{url}table=scores")
        score(package, f"{url}table=raw", f"{url}table=scores", restart=True)
    else:
        score(package, f"{url}table=raw", f"{url}table=scores")
    rows = ask("select x from raw order by id")
    found = [json.loads(row[0]) for row in ask("select y from scores order by _row")]
    assert np.allclose(found, answers([{"x": json.loads(row[0])} for row in rows]))
