"""Where the way of every action is written down: the audit log, in the same transaction as the step itself."""

from __future__ import annotations

from typing import Any, Protocol

from onward.store.records import Action, Approval
from onward.store.store import Transaction


class Ledger(Protocol):
    """What the outbox and the relay write; `onward.decide.audit` is one. What it returns is nobody's concern here."""

    def note_action(self, tx: Transaction, action: Action, *, at_s: float, by: str = "", note: str = "") -> Any:
        """Where an action stands now."""
        ...

    def note_denied(
        self,
        tx: Transaction,
        *,
        action_id: str,
        decision_id: str,
        tenant: str,
        name: str,
        package: str,
        why: str,
        at_s: float,
    ) -> Any:
        """An action that was not even reserved."""
        ...

    def note_approval(self, tx: Transaction, approval: Approval, *, at_s: float) -> Any:
        """What has become of a request for approval."""
        ...

    def note_kill_switch(self, tx: Transaction, *, on: bool, tenant: str, by: str, at_s: float, note: str = "") -> Any:
        """A person stopped actions, or let them go on."""
        ...


def audit_ledger() -> Ledger:
    """The audit log."""
    from onward.decide import audit

    return audit
