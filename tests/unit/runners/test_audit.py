"""`onward audit` as a person runs it: on a real SQLite store, in real processes, and on one that was tampered with."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onward.decide.audit import note_action, record_decision
from onward.decide.proof import entries_of, prove
from onward.store.records import Action, ActionDraft, ActionState
from onward.store.sql import open_store
from tests.unit.decide.decisions import PACKAGE, Hashing, PlainKeys
from tests.unit.decide.test_replay import random_facts
from tests.unit.runners.office import onward

COLUMNS = (
    "sequence",
    "previous",
    "digest",
    "entry_id",
    "at_s",
    "tenant",
    "kind",
    "subject",
    "body",
    "key_id",
    "sealed",
)


def dead_action(index: int) -> Action:
    draft = ActionDraft(
        action_id=f"a{index}", tenant="t", idempotency_key=f"k{index}", decision_id=f"d{index}", name="hold",
        payload=b"{}", payload_digest="0", created_s=0.0, available_s=0.0,
    )  # fmt: skip
    return Action(draft=draft, state=ActionState.DEAD, attempt=8, available_s=0.0, updated_s=0.0, error="HTTP 503")


def fill(url: str, count: int) -> None:
    """Record decisions, each with its action, in a store."""
    store, rng, rules = open_store(url), random.Random(7), Hashing()
    with store.transaction() as tx:
        for index in range(count):
            seen = random_facts(rng)
            record_decision(
                tx, PlainKeys(), decision_id=f"d{index}", tenant="t", entity=str(seen.input["card"]), package=PACKAGE,
                rules=rules, facts=seen, decision=rules.decide(seen), private_fields={"card"}, at_s=1e9 + index,
            )  # fmt: skip
            note_action(tx, dead_action(index), at_s=1e9 + index)
    store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `var/onward.db` of 20 entries."""
    folder = tmp_path_factory.mktemp("audit")
    fill(f"sqlite:///{folder / 'var' / 'onward.db'}", 10)
    return folder


def copied(filled: Path, folder: Path) -> sqlite3.Connection:
    """A connection to a copy of the store whose log is guarded no more."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(filled, folder)
    database = sqlite3.connect(folder / "var" / "onward.db")
    for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {name}")
    return database


def changed(value: Any, data: st.DataObject) -> Any:
    """The value with one byte changed, in its own type."""
    if isinstance(value, int):
        return value ^ (1 << data.draw(st.integers(0, 40)))
    raw = value if isinstance(value, bytes) else str(value).encode()
    if not raw:
        return type(value)("x") if isinstance(value, str) else b"x"
    place = data.draw(st.integers(0, len(raw) - 1))
    other = bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[place]))])
    return raw[:place] + other + raw[place + 1 :]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_changed_byte_of_the_table_is_found(filled: Path, tmp_path: Path, data: st.DataObject) -> None:
    database = copied(filled, tmp_path / "copy")
    (last,) = database.execute("SELECT digest FROM audit WHERE sequence = 20").fetchone()
    sequence, column = data.draw(st.integers(1, 20)), data.draw(st.sampled_from(COLUMNS))
    (value,) = database.execute(f"SELECT {column} FROM audit WHERE sequence = ?", (sequence,)).fetchone()
    if column == "at_s":
        new: Any = data.draw(st.floats(allow_nan=False).filter(lambda number: number != value))
        mark = "?"
    else:
        new = changed(value, data)
        mark = "CAST(? AS TEXT)" if isinstance(value, str) else "?"  # of bytes, some are no UTF-8
    try:
        database.execute(f"UPDATE audit SET {column} = {mark} WHERE sequence = ?", (new, sequence))
    except sqlite3.IntegrityError:  # a number or an id that another entry has
        return
    database.commit()
    database.close()
    store = open_store(f"sqlite:///{tmp_path / 'copy' / 'var' / 'onward.db'}")
    try:
        with store.snapshot() as reader:
            proof = prove(entries_of(reader), {20: last})
    finally:
        store.close()
    assert proof.broken_at is not None, (sequence, column, value, new)
    assert proof.broken_at <= max(sequence, 20)
    if column != "sequence":
        assert proof.broken_at == sequence


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit SET body = CAST('{}' AS BLOB) WHERE sequence = 7", 7),
        ("UPDATE audit SET tenant = CAST(X'FF' AS TEXT) WHERE sequence = 7", 7),
        ("UPDATE audit SET body = 'a text' WHERE sequence = 7", 7),
        ("UPDATE audit SET at_s = 'never' WHERE sequence = 7", 7),
        ("UPDATE audit SET tenant = X'00' WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence <= 7", 1),
        ("DELETE FROM audit WHERE sequence > 7", 8),
        ("DELETE FROM audit", 1),
        ("UPDATE audit SET sequence = -1 WHERE sequence = 20", 20),
    ],
)
def test_a_tampered_store_exits_with_65_and_says_where(
    filled: Path, tmp_path: Path, statement: str, broken_at: int
) -> None:
    database = copied(filled, tmp_path / "copy")
    assert onward("audit", "verify", "--anchor", "anchor.jsonl", cwd=tmp_path / "copy").returncode == 0
    database.execute(statement)
    database.commit()
    database.close()
    made = onward("audit", "verify", "--anchor", "anchor.jsonl", cwd=tmp_path / "copy")
    assert (made.returncode, json.loads(made.stdout)["broken_at"]) == (65, broken_at), made.stderr
    assert "[AUDIT_BROKEN]" in made.stderr
    assert len(made.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("statement", "broken_at"),
    [
        ("UPDATE audit SET body = '{}' WHERE sequence = 7", 7),
        ("UPDATE audit SET at_s = at_s + 1e-6 WHERE sequence = 7", 7),
        ("UPDATE audit SET tenant = 'u' WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence = 7", 7),
        ("DELETE FROM audit WHERE sequence > 7", 8),
    ],
)
def test_a_tampered_postgresql_is_found_too(postgres_url: str, tmp_path: Path, statement: str, broken_at: int) -> None:
    import psycopg

    fill(postgres_url, 5)
    assert onward("audit", "verify", "--store", postgres_url, "--anchor", "a", cwd=tmp_path).returncode == 0
    with psycopg.connect(postgres_url, autocommit=True) as database:
        with pytest.raises(psycopg.Error, match="append-only"):
            database.execute(statement)
        database.execute("DROP TRIGGER audit_append_only ON audit")
        database.execute(statement)
    made = onward("audit", "verify", "--store", postgres_url, "--anchor", "a", cwd=tmp_path)
    assert (made.returncode, json.loads(made.stdout)["broken_at"]) == (65, broken_at), made.stderr


def test_the_store_itself_refuses_to_change_its_log(filled: Path) -> None:
    database = sqlite3.connect(filled / "var" / "onward.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute("UPDATE audit SET body = X'00' WHERE sequence = 1")
    database.close()


def test_an_export_is_checked_without_the_store_and_a_cut_one_by_the_anchor(filled: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{filled / 'var' / 'onward.db'}"
    made = onward("audit", "export", "log.jsonl", "--store", store, cwd=tmp_path)
    assert json.loads(made.stdout) == {"entries": 20, "path": "log.jsonl"}, made.stderr
    assert onward("audit", "export", "--store", store, cwd=tmp_path).stdout == (tmp_path / "log.jsonl").read_text()
    made = onward("audit", "verify", "log.jsonl", "--anchor", "anchor", cwd=tmp_path)
    report = json.loads(made.stdout)
    assert (made.returncode, report["holds"], report["entries"], report["anchor_added"]) == (0, True, 20, True)
    lines = (tmp_path / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:15]))
    assert onward("audit", "verify", "cut.jsonl", cwd=tmp_path).returncode == 0
    made = onward("audit", "verify", "cut.jsonl", "--anchor", "anchor", cwd=tmp_path)
    assert (made.returncode, json.loads(made.stdout)["broken_at"]) == (65, 16)
    (tmp_path / "changed.jsonl").write_text("".join(lines).replace("HTTP 503", "HTTP 200", 1))
    made = onward("audit", "verify", "changed.jsonl", cwd=tmp_path)
    assert (made.returncode, json.loads(made.stdout)["broken_at"]) == (65, 2)
    onward("audit", "export", "rest.jsonl", "--after", "15", "--store", store, cwd=tmp_path)
    assert onward("audit", "verify", "rest.jsonl", cwd=tmp_path).returncode == 65


def test_an_export_that_cannot_be_written_leaves_nothing_behind(filled: Path, tmp_path: Path) -> None:
    made = onward("audit", "export", tmp_path / "no" / "log.jsonl", cwd=filled)
    assert made.returncode == 74
    assert list(tmp_path.iterdir()) == []


def test_tail_shows_the_last_entries_and_follows_those_that_come(tmp_path: Path) -> None:
    fill(f"sqlite:///{tmp_path / 'var' / 'onward.db'}", 3)
    made = onward("audit", "tail", "-n", "2", cwd=tmp_path)
    assert [json.loads(line)["sequence"] for line in made.stdout.splitlines()] == [5, 6]
    made = onward("audit", "tail", "--kind", "decision", cwd=tmp_path)
    assert [json.loads(line)["subject"] for line in made.stdout.splitlines()] == ["d0", "d1", "d2"]
    command = [sys.executable, "-m", "onward", "audit", "tail", "-n", "6", "--follow", "--kind", "kill"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        try:
            made = onward("kill-switch", "on", "--by", "ann", "--note", "fire", cwd=tmp_path)
            assert made.returncode == 0, made.stderr
            entry = json.loads(following.stdout.readline())
        finally:
            following.terminate()
    assert (entry["kind"], entry["body"]["by"], entry["body"]["note"]) == ("kill_switch.on", "ann", "fire")


@pytest.mark.parametrize("command", [["audit", "verify"], ["audit", "tail"], ["audit", "export"], ["actions", "list"]])
def test_looking_makes_no_store_where_there_is_none(command: list[str], tmp_path: Path) -> None:
    made = onward(*command, cwd=tmp_path)
    assert (made.returncode, made.stdout) == (66, "")
    assert "there is no store yet" in made.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("url", "code"), [("mysql://x", 64), ("x", 64), ("postgresql://127.0.0.1:1/none", 69)])
def test_a_store_that_cannot_be_opened_is_one_line(url: str, code: int, tmp_path: Path) -> None:
    made = onward("audit", "verify", "--store", url, cwd=tmp_path)
    assert (made.returncode, len(made.stderr.splitlines())) == (code, 1), made.stderr


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "onward.db").write_text("not a database, but long enough to look like a file with something in it" * 50)
    made = onward("audit", "verify", "--store", "sqlite:///onward.db", cwd=tmp_path)
    assert (made.returncode, len(made.stderr.splitlines())) == (69, 1), made.stderr
