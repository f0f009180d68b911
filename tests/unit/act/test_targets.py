"""`actions.toml`: what is allowed, and errors that name the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from onward.act.command import Command
from onward.act.entry import Entry
from onward.act.sql import Sql
from onward.act.targets import Queue, Targets, TargetsError, load_targets
from onward.act.webhook import Webhook

WHOLE = """
format = 1

[connection.ledger]
url_env = "LEDGER_URL"

[[target]]
action = "hold"
packages = ["fraud", "fraud-eu"]
kind = "webhook"
url = "https://cards.example/holds"
secret_env = "HOLD_SECRET"
status_url = "https://cards.example/effects/{idempotency_key}"
headers_env = { Authorization = "HOLD_TOKEN" }
timeout_s = 5
max_attempts = 3
undone_by = ["book"]

[[target]]
action = "book"
packages = ["fraud"]
kind = "sql"
connection = "ledger"
statement = "UPDATE cards SET held = 1 WHERE id = :card"
rows = 1

[[target]]
action = "print"
packages = ["fraud"]
kind = "command"
argv = ["/usr/bin/printer", "--id={idempotency_key}"]

[[target]]
action = "tell"
packages = ["fraud"]
kind = "python"
entry = "tell:somebody"

[[target]]
action = "publish"
packages = ["fraud"]
kind = "queue"
"""
ENVIRONMENT = {"LEDGER_URL": "sqlite:///ledger.db", "HOLD_SECRET": "hush-hush", "HOLD_TOKEN": "Bearer hush-hush"}


def load(tmp_path: Path, text: str, environment: dict[str, str] | None = None) -> Targets:
    (tmp_path / "actions.toml").write_text(text)
    (tmp_path / "tell.py").touch()
    return load_targets(tmp_path / "actions.toml", environment=ENVIRONMENT if environment is None else environment)


def test_every_kind_is_read(tmp_path: Path) -> None:
    targets = load(tmp_path, WHOLE)
    kinds = [type(target.how) for target in targets.targets]
    assert kinds == [Webhook, Sql, Command, Entry, Queue]
    hold = targets.find("hold", "fraud-eu")
    assert hold is not None and isinstance(hold.how, Webhook)
    assert (hold.how.secrets, hold.how.headers) == ((b"hush-hush",), (("Authorization", "Bearer hush-hush"),))
    assert (hold.timeout_s, hold.max_attempts, hold.undone_by) == (5.0, 3, ("book",))


def test_what_is_not_written_is_not_allowed(tmp_path: Path) -> None:
    targets = load(tmp_path, WHOLE)
    assert targets.find("hold", "other") is None
    assert targets.find("book", "fraud-eu") is None
    assert targets.find("release", "fraud") is None
    assert Targets.none().find("hold", "fraud") is None


def test_secrets_stand_in_no_repr(tmp_path: Path) -> None:
    assert "hush" not in repr(load(tmp_path, WHOLE))
    assert "ledger.db" not in repr(load(tmp_path, WHOLE))


def test_a_secret_can_come_from_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-file\n")
    targets = load(tmp_path, WHOLE.replace('secret_env = "HOLD_SECRET"', 'secret_file = "secret"'))
    assert isinstance(targets.targets[0].how, Webhook) and targets.targets[0].how.secrets == (b"from-file",)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("format = 1", "format = 2", 2, "format = 1"),
        ('action = "hold"\n', "", 7, "missing"),
        ('action = "hold"', 'action = "../hold"', 8, "not allowed here"),
        ('packages = ["fraud", "fraud-eu"]', "packages = []", 9, "wrong type"),
        ('packages = ["fraud", "fraud-eu"]\n', "", 7, "missing"),
        ('kind = "webhook"', 'kind = "web"', 10, 'did you mean "webhook"'),
        ("https://cards.example/holds", "http://cards.example/holds", 11, "allow_private"),
        ("https://cards.example/holds", "https://{tenant}.example/", 11, "no placeholders"),
        ("{idempotency_key}\"\nheaders", "{password}\"\nheaders", 13, "{idempotency_key}"),
        ("cards.example/effects", "{tenant}.example/effects", 13, "placeholder in the host"),
        ('"HOLD_SECRET"', '"NOT_SET"', 12, "no such variable"),
        ('Authorization = "HOLD_TOKEN"', 'Host = "HOLD_TOKEN"', 14, "not a header"),
        ("timeout_s = 5", "timeout_s = 0", 15, "seconds above 0"),
        ("timeout_s = 5", "timeout = 5", 15, 'did you mean "timeout_s"'),
        ("max_attempts = 3", "max_attempts = 0", 16, "from 1"),
        ('connection = "ledger"', 'connection = "other"', 23, "one of: ledger"),
        (":card\"", ":card; DROP TABLE cards\"", 24, "more than one statement"),
        ('"/usr/bin/printer"', '"printer"', 31, "absolute"),
        ("--id={idempotency_key}", "--card={card}", 31, "{card} is not one of"),
        ('"tell:somebody"', '"tell.somebody"', 37, "module:function"),
        ('"tell:somebody"', '"absent:somebody"', 37, "no such module"),
        ('url_env = "LEDGER_URL"', "", 4, "url_env or url_file"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert WHOLE.count(old)
    with pytest.raises(TargetsError) as caught:
        load(tmp_path, WHOLE.replace(old, new, 1))
    assert f"actions.toml:{line}:" in str(caught.value), str(caught.value)
    assert words in str(caught.value)


def test_two_targets_for_one_action_and_package_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetsError, match="has a target for this package already"):
        load(tmp_path, WHOLE.replace('action = "book"', 'action = "hold"'))


def test_errors_never_show_a_secret(tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"HOLD_SECRET": "whsec_hush!hush", "HOLD_TOKEN": "hush\nhush"}
    with pytest.raises(TargetsError) as caught:
        load(tmp_path, WHOLE, environment)
    assert len(caught.value.problems) == 2
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "format = 1\n[[target", "\x00", "format = 1\ntarget = 3", "format = 1\nmore = 1"])
def test_broken_files_are_errors_of_their_own(tmp_path: Path, text: str) -> None:
    with pytest.raises(TargetsError):
        load(tmp_path, text)


def test_a_file_without_targets_allows_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "format = 1").targets == ()
    with pytest.raises(TargetsError):
        load_targets(tmp_path / "absent.toml")
