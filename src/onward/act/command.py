"""Actions as commands: a fixed argument vector, no shell, the order as JSON on standard input.

Values that a model or a caller had a hand in never become arguments; only the ids in `PLACEHOLDERS` may stand in the
vector. The exit status says what happened, in the words of sysexits: 0 done (the output is the receipt), 75 nothing
happened and it may be tried again, any other from 64 to 78 nothing happened and never will. Everything else (a
traceback's 1, a signal, a timeout) leaves it unknown, since the program may have broken in the middle.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from onward.act import crash
from onward.act.executor import MAX_RECEIPT_BYTES, Order, Outcome, Verdict, done, failed, not_sent, unknown
from onward.act.process import Ended, NotStarted, run

PLACEHOLDERS = ("action_id", "idempotency_key", "decision_id")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BARE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_TRY_AGAIN = 75
_REFUSED = range(64, 79)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run. `status_argv` exits 0 where the action happened (output: the receipt) and 1 where it did not."""

    argv: tuple[str, ...]
    status_argv: tuple[str, ...] = ()
    folder: str = "/"
    env: tuple[str, ...] = ()
    timeout_s: float = 10.0


def argv_problem(argv: tuple[str, ...]) -> str:
    """What is wrong with an argument vector, "" if nothing."""
    if not argv or not Path(argv[0]).is_absolute():
        return "the program is not an absolute path"
    if _PLACEHOLDER.search(argv[0]):
        return "the program may not be a placeholder"
    for argument in argv:
        if "\0" in argument:
            return "an argument with a NUL"
        for found in _PLACEHOLDER.finditer(argument):
            if found[1] not in PLACEHOLDERS:
                return f"{found[0]} is not one of {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
    return ""


class CommandExecutor:
    """Runs one program per order."""

    def __init__(self, target: Command) -> None:
        self._target = target

    @property
    def can_reconcile(self) -> bool:
        """Whether there is a command to ask."""
        return bool(self._target.status_argv)

    def execute(self, order: Order) -> Outcome:
        """Run the command once."""
        try:
            crash.point("relay.sending")
            ended = self._run(self._target.argv, order)
        except NotStarted as error:
            return not_sent(f"NOT_STARTED_{error}")
        crash.point("relay.sent")
        return judge(ended)

    def reconcile(self, order: Order) -> Outcome:
        """Run the status command."""
        try:
            ended = self._run(self._target.status_argv, order)
        except NotStarted as error:
            return unknown(f"NOT_STARTED_{error}")
        if ended.status == 0:
            return judge(ended)
        return not_sent("EXIT_1") if ended.status == 1 else unknown(_code(ended))

    def close(self) -> None:
        """Nothing is kept open."""

    def _run(self, template: tuple[str, ...], order: Order) -> Ended:
        names = order.context
        argv = [_PLACEHOLDER.sub(lambda found: names[found[1]], argument) for argument in template]
        for written, argument in zip(template, argv, strict=True):
            if argument.startswith("-") and not written.startswith("-"):
                raise NotStarted("ID_LIKE_AN_OPTION")
        env = _BARE_ENV | {name: os.environ[name] for name in self._target.env if name in os.environ}
        env |= {"ONWARD_ACTION_ID": order.action_id, "ONWARD_IDEMPOTENCY_KEY": order.idempotency_key}
        stdin = msgspec.json.encode({"arguments": order.arguments, **order.context}, order="deterministic")
        return run(
            argv,
            stdin=stdin,
            env=env,
            folder=Path(self._target.folder),
            timeout_s=self._target.timeout_s,
            max_output_bytes=MAX_RECEIPT_BYTES,
        )


def judge(ended: Ended) -> Outcome:
    """What the end of a command says about the action."""
    if ended.status == 0:
        if ended.too_large:
            return Outcome(verdict=Verdict.DONE, error="RECEIPT_TOO_LARGE")
        return done(ended.output)
    if ended.status == _TRY_AGAIN:
        return Outcome(verdict=Verdict.LATER, error=_code(ended))
    if ended.status in _REFUSED:
        return failed(_code(ended))
    return unknown(_code(ended))


def _code(ended: Ended) -> str:
    if ended.status is None:
        return "TIMEOUT"
    return f"EXIT_{ended.status}" if ended.status >= 0 else f"SIGNAL_{-ended.status}"
