"""Named points at which a fault test kills this process, as a power cut would: no handler runs, nothing is flushed.

Costs one empty call unless the environment sets `ONWARD_CRASH_AT` (the point's name) or `ONWARD_CRASH_LOG` (a file
that gets a line for each point reached). `ONWARD_CRASH_HIT` says which time the point kills, counted from 1.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

POINTS: Mapping[str, str] = {
    "desk.writing": "in the transaction that writes decision, audit entry and actions, before its commit",
    "desk.committed": "that transaction is committed, nobody has been told",
    "relay.leasing": "in the transaction that leases, before its commit",
    "relay.leased": "an action is leased and not begun",
    "relay.beginning": "in the transaction that makes it EXECUTING, before its commit",
    "relay.executing": "it is EXECUTING, nothing has been sent",
    "relay.sending": "the first bytes are about to be sent",
    "relay.sent": "everything is sent, no answer has been read",
    "relay.answered": "the target has answered, the outcome is not written",
    "relay.finalising": "in the transaction that writes the outcome, before its commit",
    "relay.done": "DONE is committed",
    "relay.retrying": "it has gone back to PENDING after a failure without effect",
    "relay.dead": "DEAD is committed",
    "relay.unknown": "UNKNOWN is committed",
    "relay.settling": "in the transaction that ends leases which ran out, before its commit",
    "relay.settled": "those are committed",
    "relay.asked": "a status query has answered, its result is not written",
    "relay.reconciled": "that result is committed",
    "batch.journal_torn": "half a line of a job's journal is written",
    "batch.planned": "a job's plan is in its journal, no row has been read for it",
    "batch.shard_scored": "a shard is scored and decided, nothing of it is written",
    "batch.shard_written": "its file is written under another name",
    "batch.shard_published": "its file has its name, the journal does not know it",
    "batch.shard_committed": "the journal knows it",
    "batch.assembled": "the output is whole under another name",
    "batch.output_published": "the output has its name, the run is not written down",
    "batch.run_written": "the run is written down, the job's folder is still there",
}
"""Every point, and where it lies."""

_AT = os.environ.get("ONWARD_CRASH_AT", "")
_LOG = os.environ.get("ONWARD_CRASH_LOG", "")

if _AT or _LOG:
    if _AT and _AT not in POINTS:
        raise LookupError(f"ONWARD_CRASH_AT names no crash point: {_AT}")
    _left = int(os.environ.get("ONWARD_CRASH_HIT", "1"))
    _counting = threading.Lock()

    def point(name: str) -> None:
        """Note that the point is reached; kill the process if it is the one asked for."""
        global _left
        if name not in POINTS:
            raise LookupError(f"there is no crash point {name}")
        with _counting:
            if _LOG:
                with open(_LOG, "ab", buffering=0) as log:  # noqa: PTH123 - one write, no text layer
                    log.write(f"{name}\n".encode())
            if name == _AT:
                _left -= 1
                if _left <= 0:
                    os.kill(os.getpid(), signal.SIGKILL)
else:

    def point(name: str) -> None:
        """Nothing: no fault test is on."""
