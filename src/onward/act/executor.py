"""The seam between the relay and what carries an action out: an order goes in, what became of it comes out.

An executor never raises for what a target does; it says how sure it is. A client of a message queue would be one more
executor: `publish` with the idempotency key as the message's id, UNKNOWN where the broker's confirmation is missing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MAX_RECEIPT_BYTES = 64 << 10
"""What is kept of a target's answer at most; a longer one is not kept at all."""


class Verdict(enum.Enum):
    """What became of one try."""

    DONE = "done"  # it happened
    NOT_SENT = "not_sent"  # nothing has left us: it did not happen
    LATER = "later"  # the target says it did not happen and may later
    FAILED = "failed"  # the target says it did not happen and never will
    UNKNOWN = "unknown"  # it may have happened


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One action as a target gets it. `payload` is the canonical JSON that its digest and its approval are about."""

    action_id: str
    idempotency_key: str
    decision_id: str
    tenant: str
    name: str
    package: str
    arguments: Mapping[str, Any]
    payload: bytes
    created_s: float

    @property
    def context(self) -> dict[str, str]:
        """What identifies the order, as plain text."""
        return {
            "action_id": self.action_id,
            "idempotency_key": self.idempotency_key,
            "decision_id": self.decision_id,
            "tenant": self.tenant,
            "name": self.name,
            "package": self.package,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a try. `error` is a code with a status, never the target's own text: it enters the audit log."""

    verdict: Verdict
    receipt: bytes = b""
    error: str = ""
    retry_after_s: float = 0.0


class Executor(Protocol):
    """Carries out the actions of one target. Called from several threads."""

    @property
    def can_reconcile(self) -> bool:
        """Whether it can find out later if an action happened."""
        ...

    def execute(self, order: Order) -> Outcome:
        """Try once, within the target's timeout."""
        ...

    def reconcile(self, order: Order) -> Outcome:
        """Whether it happened: DONE, NOT_SENT (it did not), or UNKNOWN (cannot tell)."""
        ...

    def close(self) -> None:
        """Release connections; idempotent."""
        ...


def done(receipt: bytes = b"") -> Outcome:
    """It happened; a receipt beyond the bound is left out, whole."""
    if len(receipt) > MAX_RECEIPT_BYTES:
        return Outcome(verdict=Verdict.DONE, error="RECEIPT_TOO_LARGE")
    return Outcome(verdict=Verdict.DONE, receipt=receipt)


def not_sent(error: str) -> Outcome:
    """Nothing has left us."""
    return Outcome(verdict=Verdict.NOT_SENT, error=error)


def failed(error: str) -> Outcome:
    """Refused for good."""
    return Outcome(verdict=Verdict.FAILED, error=error)


def unknown(error: str) -> Outcome:
    """It may have happened."""
    return Outcome(verdict=Verdict.UNKNOWN, error=error)
