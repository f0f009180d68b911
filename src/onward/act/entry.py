"""Actions as Python functions of the operator's, each call in a process of its own.

`entry = "module:function"` names a function in `FOLDER/module.py`: `function(arguments, context) -> receipt`, with
the typed arguments and the ids as dicts; what it returns is the receipt, as JSON. It raises an exception whose class
is called `TryLater` or `Refused` to say that nothing happened; any other leaves the outcome unknown. Its print goes
to the relay's stderr. Nothing is pickled; the child does not import Onward.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from onward.act import crash
from onward.act.command import judge
from onward.act.executor import MAX_RECEIPT_BYTES, Order, Outcome, not_sent, unknown
from onward.act.process import NotStarted, run

ENTRY = re.compile(r"([A-Za-z_]\w*):([A-Za-z_]\w*)")
# `-I` keeps the caller's directory and PYTHON* variables out; the folder comes last, so that it shadows nothing.
# Standard output belongs to the receipt: what the function prints is sent to stderr.
_BOOT = """
import json, os, sys
folder, module, function = sys.argv[1:]
receipt = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
sys.path.append(folder)
sys.dont_write_bytecode = True
order = json.load(sys.stdin)
try:
    call = getattr(__import__(module), function)
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(75)
try:
    answer = call(order["arguments"], order["context"])
    text = json.dumps(answer, ensure_ascii=False, allow_nan=False)
except Exception as error:
    name = type(error).__name__
    if name not in ("TryLater", "Refused"):
        raise
    sys.exit(75 if name == "TryLater" else 65)
receipt.write(text)
receipt.close()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Which function. `status` names one that answers the receipt where the action happened, None where it did not."""

    entry: str
    folder: str
    status: str = ""
    env: tuple[str, ...] = ()
    timeout_s: float = 10.0


class EntryExecutor:
    """Calls one function per order."""

    def __init__(self, target: Entry) -> None:
        self._target = target

    @property
    def can_reconcile(self) -> bool:
        """Whether there is a function to ask."""
        return bool(self._target.status)

    def execute(self, order: Order) -> Outcome:
        """Call the function once."""
        crash.point("relay.sending")
        outcome = self._call(self._target.entry, order)
        crash.point("relay.sent")
        return outcome

    def reconcile(self, order: Order) -> Outcome:
        """Call the status function."""
        outcome = self._call(self._target.status, order)
        if outcome.verdict.value != "done":
            return unknown(outcome.error)
        return not_sent("NONE") if outcome.receipt == b"null" else outcome

    def close(self) -> None:
        """Nothing is kept open."""

    def _call(self, entry: str, order: Order) -> Outcome:
        module, _, function = entry.partition(":")
        env = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        env |= {name: os.environ[name] for name in self._target.env if name in os.environ}
        try:
            ended = run(
                [sys.executable, "-I", "-c", _BOOT, self._target.folder, module, function],
                stdin=msgspec.json.encode({"arguments": order.arguments, "context": order.context}),
                env=env,
                folder=Path(self._target.folder),
                timeout_s=self._target.timeout_s,
                max_output_bytes=MAX_RECEIPT_BYTES,
            )
        except NotStarted as error:
            return not_sent(f"NOT_STARTED_{error}")
        if ended.status == 0 and not ended.output and not ended.too_large:
            return unknown("NO_RECEIPT")  # the process ended in the middle of the function
        return judge(ended)
