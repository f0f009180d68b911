"""`onward actions`, `approvals`, `kill-switch` and `relay` as a person runs them, with a real target."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from onward.store.records import ActionState
from onward.store.sql import open_store
from tests.postgres import server
from tests.unit.runners.office import Office, case

SECRET = "the-secret-of-the-webhook"


class Target:
    """A service that holds cards, answers with a status of the test's choice, and notes what it was asked."""

    def __init__(self) -> None:
        self.holds: list[dict[str, Any]] = []
        self.status = 200
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["content-length"])))
                target.holds.append(event["data"]["arguments"])
                self.send_response(target.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


def opened(folder: Path, target: Target, url: str = "") -> Office:
    return Office(
        folder,
        'format = 1\n[[target]]\naction = "hold"\npackages = ["fraud"]\nkind = "webhook"\n'
        f'url = "http://127.0.0.1:{target.port}/holds"\nsecret_env = "HOLD_SECRET"\nallow_private = true\n'
        "timeout_s = 2\nmax_attempts = 1\n",
        url=url,
    )


@pytest.fixture
def office(tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setenv("HOLD_SECRET", SECRET)
    return opened(tmp_path, target)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_office(
    request: pytest.FixtureRequest, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> Office:
    """One with each kind of store."""
    monkeypatch.setenv("HOLD_SECRET", SECRET)
    return opened(tmp_path, target, server().new_database() if request.param == "postgresql" else "")


@contextmanager
def relay(office: Office, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The relay in a process of its own; it must end by itself when it is told to."""
    command = [sys.executable, "-m", "onward", "relay", "--actions", "actions.toml", *options]
    with subprocess.Popen(
        command, cwd=office.folder, stderr=subprocess.PIPE, text=True, env=os.environ | {"ONWARD_STORE": office.url}
    ) as made:
        try:
            assert made.stderr is not None
            assert "hold" in made.stderr.readline()  # it has begun, and says what it may do
            yield made
            made.send_signal(signal.SIGTERM)
            _, said = made.communicate(timeout=20)
            assert made.returncode == 0, said
            assert "bye" in said
        finally:
            made.kill()


def until(what: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    ends = time.monotonic() + within_s
    while not (found := what()):
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.1)
    return found


def lines(made: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert made.returncode == 0, made.stderr
    return [json.loads(line) for line in made.stdout.splitlines()]


def actions(office: Office, state: str) -> list[dict[str, Any]]:
    return lines(office.onward("actions", "list", "--state", state))


def kinds(office: Office) -> list[str]:
    return [entry["kind"] for entry in lines(office.onward("audit", "tail", "-n", "100"))]


def test_the_relay_carries_out_what_is_pending_until_it_is_told_to_stop(any_office: Office, target: Target) -> None:
    office = any_office
    office.decide([case(400.0, "c7", answer={"probability": 0.9})])
    (waiting,) = actions(office, "pending")
    assert (waiting["name"], waiting["private"], waiting["needs_approval"]) == ("hold", True, False)
    with relay(office):
        (done,) = until(lambda: actions(office, "done"))
    assert target.holds == [{"card": "c7", "amount": 400.0}]
    (shown,) = lines(office.onward("actions", "show", done["action_id"]))
    assert shown["payload"]["arguments"] == {"card": "c7", "amount": 400.0}
    assert [step["kind"] for step in shown["history"]] == [
        "action.pending", "action.leased", "action.executing", "action.done",
    ]  # fmt: skip
    assert kinds(office) == ["decision", *(step["kind"] for step in shown["history"])]
    assert office.onward("audit", "verify").returncode == 0


def test_neither_secrets_nor_private_values_are_in_the_log_or_the_store(office: Office, target: Target) -> None:
    office.decide([case(400.0, "card-4929", answer={"probability": 0.9})])
    target.status = 400
    with relay(office):
        until(lambda: actions(office, "dead"))
    exported = office.onward("audit", "export")
    assert exported.returncode == 0
    assert "action.dead" in exported.stdout
    stored = b"".join(path.read_bytes() for path in (office.folder / "var").glob("onward.db*"))
    for hidden in (SECRET, (office.folder / "var" / "onward.key").read_text().strip()):
        assert hidden not in exported.stdout
        assert hidden.encode() not in stored
    assert "card-4929" not in exported.stdout


def test_an_action_over_the_limit_waits_for_a_person_who_saw_its_payload(any_office: Office, target: Target) -> None:
    office = any_office
    office.decide([case(600.0, "c8", answer={"probability": 0.9})])
    (asked,) = lines(office.onward("approvals", "list"))
    assert asked["payload"]["arguments"] == {"card": "c8", "amount": 600.0}
    approval_id, digest = asked["approval_id"], asked["payload_digest"]
    for arguments, code, said in (
        ([], 64, "seen"),
        (["--digest", "0" * 64], 75, "another payload"),
        (["--digest", digest[:11]], 75, "another payload"),
    ):
        made = office.onward("approvals", "approve", approval_id, *arguments)
        assert (made.returncode, made.stdout) == (code, "")
        assert said in made.stderr
    (granted,) = lines(office.onward("approvals", "approve", approval_id, "--digest", digest[:12], "--by", "ann"))
    assert (granted["state"], granted["decided_by"]) == ("granted", "ann")
    with relay(office):
        until(lambda: actions(office, "done"))
    assert target.holds == [{"card": "c8", "amount": 600.0}]
    assert office.onward("approvals", "approve", approval_id, "--digest", digest).returncode == 75
    assert lines(office.onward("approvals", "list")) == []
    assert [kind for kind in kinds(office) if kind.startswith("approval")] == ["approval.requested", "approval.granted"]


@pytest.mark.parametrize(("answer", "code", "state"), [("y", 0, "granted"), ("n", 130, "open")])
def test_in_a_terminal_the_payload_is_shown_and_the_person_asked(
    office: Office, answer: str, code: int, state: str
) -> None:
    office.decide([case(600.0, "c8", answer={"probability": 0.9})])
    (asked,) = lines(office.onward("approvals", "list"))
    command = [sys.executable, "-m", "onward", "approvals", "approve", asked["approval_id"], "--by", "ann"]
    person, terminal = pty.openpty()
    environment = os.environ | {"ONWARD_STORE": office.url, "TERM": "dumb"}
    with subprocess.Popen(
        command, cwd=office.folder, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as made:
        os.close(terminal)
        shown = ""
        while "Approve this?" not in shown:
            shown += os.read(person, 1000).decode()
        os.write(person, f"{answer}\n".encode())
        assert made.wait(20) == code
    os.close(person)
    assert 'card = "c8"' in shown
    assert asked["payload_digest"] in shown
    store = open_store(office.url)
    with store.snapshot() as reader:
        approval = reader.approval(asked["approval_id"])
    store.close()
    assert approval is not None
    assert approval.state.value == state


def test_a_refused_action_never_happens(office: Office, target: Target) -> None:
    office.decide([case(600.0, answer={"probability": 0.9})])
    (asked,) = lines(office.onward("approvals", "list"))
    lines(office.onward("approvals", "refuse", asked["approval_id"], "--by", "bob", "--note", "no fraud"))
    (refused,) = actions(office, "refused")
    (shown,) = lines(office.onward("actions", "show", refused["action_id"]))
    assert [(one["state"], one["decided_by"], one["note"]) for one in shown["approvals"]] == [
        ("refused", "bob", "no fraud")
    ]
    with relay(office):
        time.sleep(1.0)
    assert target.holds == []


def test_a_payload_shows_only_to_who_has_the_key(office: Office) -> None:
    office.decide([case(600.0, answer={"probability": 0.9})])
    (office.folder / "var" / "onward.key").rename(office.folder / "key")
    (asked,) = lines(office.onward("approvals", "list"))
    assert (asked["payload"], asked["hidden"]) == (None, "NO_KEYS")
    (asked,) = lines(office.onward("approvals", "list", "--key-file", "key"))
    assert asked["payload"]["arguments"]["card"] == "c1"
    assert office.onward("approvals", "list", "--key-file", "nowhere").returncode == 66


def test_the_kill_switch_stops_what_waits_until_it_is_off(any_office: Office, target: Target) -> None:
    office = any_office
    assert lines(office.onward("kill-switch", "on", "--by", "ann", "--note", "fire"))[0]["on"] is True
    office.decide([case(400.0, answer={"probability": 0.9})])
    with relay(office):
        time.sleep(1.5)
        assert (target.holds, len(actions(office, "pending"))) == ([], 1)
        assert lines(office.onward("kill-switch", "status"))[0]["by"] == "ann"
        lines(office.onward("kill-switch", "off", "--by", "bob"))
        until(lambda: actions(office, "done"))
    assert len(target.holds) == 1
    found = lines(office.onward("audit", "tail", "--kind", "kill_switch", "-n", "100"))
    assert [(entry["kind"], entry["body"]["by"]) for entry in found] == [
        ("kill_switch.on", "ann"), ("kill_switch.off", "bob"),
    ]  # fmt: skip
    assert office.onward("kill-switch", "on", "--tenant", "t", "--action", "hold").returncode == 64


def test_a_dead_action_is_retried_or_discarded_by_a_person(office: Office, target: Target) -> None:
    office.decide([case(400.0, answer={"probability": 0.9})])
    target.status = 400
    with relay(office):
        (dead,) = until(lambda: actions(office, "dead"))
        assert office.onward("actions", "reconcile", dead["action_id"], "--happened").returncode == 75
        target.status = 200
        (again,) = lines(office.onward("actions", "retry", dead["action_id"], "--by", "ann"))
        assert again["state"] == "pending"
        until(lambda: actions(office, "done"))
    assert office.onward("actions", "retry", dead["action_id"]).returncode == 75
    assert office.onward("actions", "discard", dead["action_id"]).returncode == 75
    office.decide([case(401.0, answer={"probability": 0.9})])
    (waiting,) = actions(office, "pending")
    (given_up,) = lines(office.onward("actions", "discard", waiting["action_id"], "--by", "ann", "--note", "old"))
    assert (given_up["state"], given_up["error"]) == ("dead", "DISCARDED")
    by = [entry["body"].get("by") for entry in lines(office.onward("audit", "tail", "-n", "100"))]
    assert by.count("ann") == 2


def stuck(office: Office) -> str:
    """An action that may have happened: its relay was killed while it was sending."""
    office.decide([case(400.0, answer={"probability": 0.9})])
    store = open_store(office.url)
    with store.transaction() as tx:
        (leased,) = tx.lease_actions("relay", now_s=time.time() + 1, lease_s=0.0)
        action_id = leased.draft.action_id
        tx.move_action(action_id, ActionState.EXECUTING, attempt=1, now_s=0.0)
        tx.settle_leases(time.time() + 2)
    store.close()
    return action_id


@pytest.mark.parametrize(("found", "state"), [("--happened", "done"), ("--did-not-happen", "pending")])
def test_what_may_have_happened_is_settled_by_who_knows_and_never_retried(
    office: Office, found: str, state: str
) -> None:
    action_id = stuck(office)
    made = office.onward("actions", "retry", action_id)
    assert made.returncode == 75
    assert "reconcile" in made.stderr
    assert office.onward("actions", "reconcile", action_id).returncode == 64
    (settled,) = lines(office.onward("actions", "reconcile", action_id, found, "--by", "ann"))
    assert settled["state"] == state


def test_a_dry_run_sends_nothing(office: Office, target: Target) -> None:
    office.decide([case(400.0, answer={"probability": 0.9})])
    with relay(office, "--dry-run"):
        until(lambda: actions(office, "done"))
    assert target.holds == []


@pytest.mark.parametrize(
    "command",
    [["actions", "show"], ["actions", "retry"], ["actions", "discard"], ["actions", "reconcile", "--happened"],
     ["approvals", "approve", "--digest", "0" * 64], ["approvals", "refuse"]],
)  # fmt: skip
def test_what_is_not_there_is_one_line(office: Office, command: list[str]) -> None:
    office.decide([case(1.0)])
    made = office.onward(*command, "nothing")
    assert (made.returncode, made.stdout, len(made.stderr.splitlines())) == (66, "", 1), made.stderr


def test_a_relay_without_valid_targets_says_so(office: Office) -> None:
    (office.folder / "actions.toml").write_text("format = 1\n[[target]]\naction = 3\n")
    made = office.onward("relay", "--actions", "actions.toml")
    assert made.returncode == 65
    assert "[INVALID_TARGETS]" in made.stderr
    assert office.onward("relay").returncode == 64
