"""Commands and Python entry points: child processes that are bounded in time, output and reach."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from onward.act.command import Command, CommandExecutor, argv_problem
from onward.act.entry import Entry, EntryExecutor
from onward.act.executor import Outcome, Verdict
from onward.act.process import run
from tests.unit.act.outboxes import order

FUNCTIONS = """
import json, os, pathlib, sys, time
class TryLater(Exception): pass
class Refused(Exception): pass
HERE = pathlib.Path(__file__).parent
def echo(arguments, context):
    print("this is not the receipt")
    return {"arguments": arguments, "key": context["idempotency_key"], "env": sorted(os.environ)}
def later(arguments, context): raise TryLater
def refused(arguments, context): raise Refused
def broken(arguments, context): raise ZeroDivisionError
def leave(arguments, context): os._exit(0)
def slow(arguments, context): time.sleep(60)
def unspeakable(arguments, context): return object()
def modules(arguments, context): return [name for name in sys.modules if name.startswith(("onward", "pickle"))]
def happened(arguments, context): return {"number": 1}
def did_not(arguments, context): return None
def nobody_knows(arguments, context): raise OSError
"""


def script(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!{sys.executable} -I\nimport json, os, sys, time\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def ran(tmp_path: Path, text: str, *more: str, timeout_s: float = 20.0, env: tuple[str, ...] = ()) -> Outcome:
    target = Command(argv=(script(tmp_path, text), *more), timeout_s=timeout_s, env=env)
    return CommandExecutor(target).execute(order(card="; rm -rf ~ $(id) --help"))


def test_a_command_gets_its_arguments_on_stdin_and_only_ids_in_its_vector(tmp_path: Path) -> None:
    outcome = ran(tmp_path, "json.dump([sys.argv[1:], json.load(sys.stdin)], sys.stdout)", "--id={idempotency_key}")
    argv, stdin = json.loads(outcome.receipt)
    assert outcome.verdict is Verdict.DONE
    assert argv == ["--id=d1:hold:0"]
    assert stdin["arguments"] == {"card": "; rm -rf ~ $(id) --help"}
    assert stdin["idempotency_key"] == "d1:hold:0"


def test_a_command_sees_only_the_variables_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLD_SECRET", "hush")
    monkeypatch.setenv("PRINTER", "p1")
    seen = json.loads(ran(tmp_path, "json.dump(dict(os.environ), sys.stdout)", env=("PRINTER",)).receipt)
    seen.pop("LC_CTYPE", None)
    assert set(seen) == {"PATH", "LANG", "PRINTER", "ONWARD_ACTION_ID", "ONWARD_IDEMPOTENCY_KEY"}


@pytest.mark.parametrize(
    ("text", "verdict", "error"),
    [
        ("sys.exit(0)", Verdict.DONE, ""),
        ("sys.exit(75)", Verdict.LATER, "EXIT_75"),
        ("sys.exit(65)", Verdict.FAILED, "EXIT_65"),
        ("sys.exit(1)", Verdict.UNKNOWN, "EXIT_1"),
        ("os.kill(os.getpid(), 9)", Verdict.UNKNOWN, "SIGNAL_9"),
        ("sys.stdout.write('x' * 1_000_000)", Verdict.DONE, "RECEIPT_TOO_LARGE"),
        ("sys.stdin.close(); os.close(0)", Verdict.DONE, ""),
    ],
)
def test_the_exit_status_says_what_happened(tmp_path: Path, text: str, verdict: Verdict, error: str) -> None:
    outcome = ran(tmp_path, text)
    assert (outcome.verdict, outcome.error) == (verdict, error)


def test_a_command_out_of_time_is_killed_with_all_it_started(tmp_path: Path) -> None:
    text = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)"""
    begun_s = time.monotonic()
    outcome = ran(tmp_path, text, timeout_s=1.5)
    assert (outcome.verdict, outcome.error) == (Verdict.UNKNOWN, "TIMEOUT")
    assert time.monotonic() - begun_s < 5.0
    pid = int((tmp_path / "pid").read_text())
    until_s = time.monotonic() + 5.0
    while time.monotonic() < until_s and _alive(pid):
        time.sleep(0.02)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_that_is_not_there_did_nothing(tmp_path: Path) -> None:
    outcome = CommandExecutor(Command(argv=("/no/such/program",))).execute(order())
    assert outcome.verdict is Verdict.NOT_SENT


def test_a_large_input_to_a_program_that_writes_before_it_reads_does_not_block(tmp_path: Path) -> None:
    path = script(tmp_path, "sys.stdout.write('x' * 300_000); sys.stdout.flush(); print(len(sys.stdin.read()))")
    ended = run([path], stdin=b"y" * 1_000_000, env={}, folder=tmp_path, timeout_s=20.0, max_output_bytes=400_000)
    assert ended.status == 0 and ended.output.endswith(b"1000000\n")


@pytest.mark.parametrize(("status", "verdict"), [(0, Verdict.DONE), (1, Verdict.NOT_SENT), (2, Verdict.UNKNOWN)])
def test_a_status_command_settles_an_unknown_outcome(tmp_path: Path, status: int, verdict: Verdict) -> None:
    path = script(tmp_path, f"print('r', end=''); sys.exit({status})")
    executor = CommandExecutor(Command(argv=("/bin/true",), status_argv=(path, "{action_id}")))
    assert executor.can_reconcile
    outcome = executor.reconcile(order())
    assert outcome.verdict is verdict
    assert outcome.receipt == (b"r" if status == 0 else b"")


def test_vectors_take_no_values_and_no_relative_programs() -> None:
    assert not argv_problem(("/bin/echo", "--key={idempotency_key}", "{action_id}"))
    for argv in [(), ("echo",), ("{action_id}",), ("/bin/echo", "{arguments}"), ("/bin/echo", "{card}"), ("/b", "\0")]:
        assert argv_problem(argv)


def called(tmp_path: Path, function: str, *, status: str = "", timeout_s: float = 20.0) -> EntryExecutor:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    target = Entry(entry=f"functions:{function}", status=status, folder=str(tmp_path), timeout_s=timeout_s)
    return EntryExecutor(target)


def test_an_entry_point_gets_arguments_and_ids_and_its_answer_is_the_receipt(tmp_path: Path) -> None:
    os.environ["HOLD_SECRET"] = "hush"
    try:
        outcome = called(tmp_path, "echo").execute(order(card="c1"))
    finally:
        del os.environ["HOLD_SECRET"]
    receipt = json.loads(outcome.receipt)
    assert (receipt["arguments"], receipt["key"]) == ({"card": "c1"}, "d1:hold:0")
    assert "HOLD_SECRET" not in receipt["env"]


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        ("later", Verdict.LATER),
        ("refused", Verdict.FAILED),
        ("broken", Verdict.UNKNOWN),
        ("unspeakable", Verdict.UNKNOWN),
        ("slow", Verdict.UNKNOWN),
        ("absent", Verdict.LATER),
    ],
)
def test_only_the_two_named_exceptions_say_that_nothing_happened(
    tmp_path: Path, function: str, verdict: Verdict
) -> None:
    assert called(tmp_path, function, timeout_s=1.0).execute(order()).verdict is verdict


def test_an_entry_point_that_ends_the_process_before_it_answers_leaves_no_receipt_and_is_not_taken_for_done(
    tmp_path: Path,
) -> None:
    assert called(tmp_path, "leave").execute(order()).verdict is Verdict.UNKNOWN


def test_the_child_has_neither_onward_nor_pickle_in_it(tmp_path: Path) -> None:
    assert called(tmp_path, "modules").execute(order()).receipt == b"[]"


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("happened", Verdict.DONE), ("did_not", Verdict.NOT_SENT), ("nobody_knows", Verdict.UNKNOWN)],
)
def test_a_status_function_settles_an_unknown_outcome(tmp_path: Path, status: str, verdict: Verdict) -> None:
    executor = called(tmp_path, "echo", status=f"functions:{status}")
    assert executor.reconcile(order()).verdict is verdict
