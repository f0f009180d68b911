"""SQL actions: one transaction with the note that it happened, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from onward.act.executor import Verdict
from onward.act.sql import EFFECTS_TABLE, Sql, SqlExecutor, names_of, statement_problem
from tests.postgres import server
from tests.unit.act.outboxes import order

STATEMENT = "UPDATE cards SET held = held + 1, reason = :reason WHERE id = :card"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'cards.db'}"
    else:
        url = server().new_database()
        yield url
        server().drop_database(url)


@pytest.fixture
def cards(url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE cards (id TEXT PRIMARY KEY, held INTEGER, reason TEXT)"))
        connection.execute(sa.text("INSERT INTO cards VALUES ('c1', 0, ''), ('c2', 0, '')"))
    yield engine
    engine.dispose()


@pytest.fixture
def executor(url: str, cards: sa.Engine) -> Iterator[SqlExecutor]:
    executor = SqlExecutor(Sql(url=url, statement=STATEMENT, rows=1, timeout_s=5.0))
    yield executor
    executor.close()


def held(cards: sa.Engine, card: str = "c1") -> tuple[int, str]:
    with cards.connect() as connection:
        row = connection.execute(sa.text("SELECT held, reason FROM cards WHERE id = :id"), {"id": card}).one()
    return (row[0], row[1])


def test_tried_again_it_happens_once(executor: SqlExecutor, cards: sa.Engine) -> None:
    one = order(card="c1", reason="fraud")
    assert [executor.execute(one).verdict for _ in range(3)] == [Verdict.DONE] * 3
    assert held(cards) == (1, "fraud")


def test_tried_by_many_at_once_it_happens_once(executor: SqlExecutor, cards: sa.Engine) -> None:
    one, verdicts = order(card="c1", reason="fraud"), []
    barrier = threading.Barrier(4)

    def act() -> None:
        barrier.wait()
        verdicts.append(executor.execute(one).verdict)

    threads = [threading.Thread(target=act) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(verdicts) <= {Verdict.DONE, Verdict.LATER} and Verdict.DONE in verdicts
    assert held(cards) == (1, "fraud")


def test_values_are_bound_and_never_become_part_of_the_statement(executor: SqlExecutor, cards: sa.Engine) -> None:
    attack = "x', held = 100 WHERE id = 'c2'; DROP TABLE cards; --"
    assert executor.execute(order(card="c1", reason=attack)).verdict is Verdict.DONE
    assert held(cards) == (1, attack)
    assert held(cards, "c2") == (0, "")


def test_another_number_of_rows_undoes_everything_and_is_a_refusal(executor: SqlExecutor, cards: sa.Engine) -> None:
    outcome = executor.execute(order(card="absent", reason="fraud"))
    assert (outcome.verdict, outcome.error) == (Verdict.FAILED, "OTHER_NUMBER_OF_ROWS")
    assert executor.reconcile(order(card="absent", reason="fraud")).verdict is Verdict.NOT_SENT


def test_the_note_settles_an_unknown_outcome(executor: SqlExecutor) -> None:
    one = order(card="c1", reason="fraud")
    assert executor.reconcile(one).verdict is Verdict.NOT_SENT
    receipt = executor.execute(one).receipt
    found = executor.reconcile(one)
    assert (found.verdict, found.receipt) == (Verdict.DONE, receipt)


def test_a_commit_without_an_answer_is_unknown_and_the_note_tells(
    executor: SqlExecutor, cards: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = sa.Connection.commit

    def cut(connection: sa.Connection) -> None:
        commit(connection)
        raise sa.exc.OperationalError("COMMIT", {}, ConnectionError())

    one = order(card="c1", reason="fraud")
    executor.reconcile(one)  # the tables are made
    monkeypatch.setattr(sa.Connection, "commit", cut)
    assert executor.execute(one).verdict is Verdict.UNKNOWN
    monkeypatch.undo()
    assert executor.reconcile(one).verdict is Verdict.DONE
    assert held(cards) == (1, "fraud")


def test_a_statement_that_the_database_refuses_is_a_refusal_or_is_tried_again_but_never_half_done(
    url: str, cards: sa.Engine
) -> None:
    executor = SqlExecutor(Sql(url=url, statement="UPDATE absent SET x = :card"))
    outcome = executor.execute(order(card="c1"))
    assert outcome.verdict in (Verdict.FAILED, Verdict.LATER)
    assert "absent" not in outcome.error
    with cards.connect() as connection:
        assert connection.execute(sa.text(f"SELECT count(*) FROM {EFFECTS_TABLE}")).scalar() == 0
    executor.close()


def test_a_missing_argument_is_a_refusal(executor: SqlExecutor) -> None:
    assert executor.execute(order(card="c1")).error == "MISSING_ARGUMENT"


def test_a_database_that_is_not_there_was_not_sent_to() -> None:
    executor = SqlExecutor(Sql(url="postgresql://nobody@127.0.0.1:1/none", statement="SELECT 1", timeout_s=2.0))
    assert executor.execute(order()).verdict is Verdict.NOT_SENT
    assert executor.reconcile(order()).verdict is Verdict.UNKNOWN


def test_names_are_found_outside_of_texts_casts_and_comments() -> None:
    statement = "UPDATE t SET a = :one, b = ':no', c = x::int -- :neither\n WHERE d = :two /* :nor */ AND e = :one"
    assert names_of(statement) == ("one", "two")


@pytest.mark.parametrize("statement", ["", " ; ", "-- nothing", "SELECT 1; DROP TABLE t", "SELECT ';'; SELECT 2"])
def test_one_statement_and_not_more(statement: str) -> None:
    assert statement_problem(statement)
    assert not statement_problem("INSERT INTO t VALUES (';', :a);")
