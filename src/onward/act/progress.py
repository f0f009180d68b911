"""The steps of an action through the outbox, each within one transaction and with its audit entry.

begin: LEASED → EXECUTING, or away from here. finish: from a try's outcome to the next state. settle: what became of
leases that ran out. Knows no threads and sends nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import msgspec

from onward.act import crash
from onward.act.compensation import NotCompensable, compensate, package_of, spoiled_by, undo_spoiled
from onward.act.executor import Order, Outcome, Verdict
from onward.act.kill import stopped
from onward.act.ledger import Ledger
from onward.act.outbox import Keys, PayloadGone, open_payload
from onward.act.targets import Target, Targets
from onward.store.records import Action, ActionState
from onward.store.store import Transaction

WHEN_STOPPED_S = 5.0
"""How soon an action is looked at again that the kill switch stopped after it was leased."""
PUT_BACK = ("BUSY", "LEASE_TOO_OLD")
"""Errors of an action that was begun and put back without a try."""
WHEN_UNREADABLE_S = 60.0
"""How soon an action is tried again whose payload this relay has no key for."""
_PENDING = "action.pending"
_EXECUTING = "action.executing"
_DEAD = "action.dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The steps, with what they need. `chance` draws the jitter."""

    targets: Targets
    keys: Keys | None
    ledger: Ledger
    chance: random.Random

    def begin(self, tx: Transaction, action: Action, now_s: float) -> Order | None:
        """Make a leased action EXECUTING; None where it is not to be begun (it is moved on accordingly).

        Raises `Conflict` where the lease has been lost.
        """
        draft = action.draft
        if stopped(tx).covers(tenant=draft.tenant, action=draft.name):
            self._move(tx, action, ActionState.PENDING, now_s, available_s=now_s + WHEN_STOPPED_S, error="STOPPED")
            return None
        try:
            order = order_of(tx, action, self.keys)
        except PayloadGone as gone:
            if gone.curable:  # this relay was not given the key; the action is not to blame
                self.put_back(tx, action, now_s, wait_s=WHEN_UNREADABLE_S, error=gone.code)
            else:
                self._die(tx, action, now_s, gone.code)
            return None
        target = self.targets.find(draft.name, order.package)
        if target is None:
            self._die(tx, action, now_s, "PACKAGE_NOT_ALLOWED")
            return None
        spoiled = spoiled_by(tx, action, target)
        if spoiled is not None:
            self._die(tx, action, now_s, f"UNDONE_BY_{spoiled.draft.action_id}")
            return None
        self._move(tx, action, ActionState.EXECUTING, now_s)
        crash.point("relay.beginning")
        return order

    def put_back(self, tx: Transaction, action: Action, now_s: float, *, wait_s: float, error: str) -> Action:
        """Return a lease unused."""
        return self._move(tx, action, ActionState.PENDING, now_s, available_s=now_s + wait_s, error=error)

    def finish(self, tx: Transaction, action: Action, target: Target, outcome: Outcome, now_s: float) -> Action:
        """Write what became of a try, or of a status query. Raises `Conflict` where another try has begun since."""
        match outcome.verdict:
            case Verdict.DONE:
                finished = self._done(tx, action, target, outcome, now_s)
            case Verdict.FAILED:
                finished = self._die(tx, action, now_s, outcome.error)
            case Verdict.UNKNOWN:
                finished = self._move(tx, action, ActionState.UNKNOWN, now_s, error=outcome.error)
            case _:
                finished = self._again(tx, action, target, outcome, now_s)
        crash.point("relay.finalising")
        return finished

    def settle(self, tx: Transaction, now_s: float) -> list[Action]:
        """End leases and requests for approval whose time has passed."""
        settled = tx.settle_leases(now_s)
        for action in settled:
            self.ledger.note_action(tx, action, at_s=now_s)
        for approval in tx.expire_approvals(now_s):
            self.ledger.note_approval(tx, approval, at_s=now_s)
            refused = tx.action(approval.action_id)
            if refused is not None:
                self.ledger.note_action(tx, refused, at_s=now_s)
        if settled:
            crash.point("relay.settling")
        return settled

    def _done(self, tx: Transaction, action: Action, target: Target, outcome: Outcome, now_s: float) -> Action:
        receipt = self._kept(tx, action, outcome.receipt)
        finished = self._move(tx, action, ActionState.DONE, now_s, error=outcome.error, receipt=receipt)
        if spoiled_by(tx, finished, target) is not None:
            self._undo(tx, finished, now_s)
        return finished

    def _kept(self, tx: Transaction, action: Action, receipt: bytes) -> bytes:
        """A receipt as it is stored: that of a sealed action under the same key, none once the key is gone."""
        if not receipt or not action.draft.key_id:
            return receipt
        key = tx.key(action.draft.key_id)
        if key is None or key.destroyed_s is not None or self.keys is None:
            return b""
        return self.keys.seal(tx, key.tenant, key.entity, receipt)[1]

    def _again(self, tx: Transaction, action: Action, target: Target, outcome: Outcome, now_s: float) -> Action:
        tries = self.tries(tx, action)
        if tries >= target.max_attempts:
            return self._die(tx, action, now_s, outcome.error)
        wait_s = target.backoff.delay_s(max(tries, 1), self.chance, retry_after_s=outcome.retry_after_s)
        return self._move(tx, action, ActionState.PENDING, now_s, available_s=now_s + wait_s, error=outcome.error)

    def tries(self, tx: Transaction, action: Action) -> int:
        """How often the action was really begun since it last came back from the dead.

        Not `attempt`: a lease that was returned unused, because a switch was on or a target at rest, is no try.
        """
        tries = 0
        for entry in tx.audit_of(action.draft.action_id):
            if entry.draft.kind == _EXECUTING:
                tries += 1
            elif entry.draft.kind == _DEAD:
                tries = 0
            elif entry.draft.kind == _PENDING and msgspec.json.decode(entry.draft.body).get("error") in PUT_BACK:
                tries -= 1
        return tries

    def _die(self, tx: Transaction, action: Action, now_s: float, error: str) -> Action:
        dead = self._move(tx, action, ActionState.DEAD, now_s, error=error)
        undo_spoiled(tx, dead, targets=self.targets, keys=self.keys, now_s=now_s, ledger=self.ledger)
        return dead

    def _undo(self, tx: Transaction, action: Action, now_s: float) -> None:
        try:
            compensate(tx, action, targets=self.targets, keys=self.keys, now_s=now_s, ledger=self.ledger)
        except (NotCompensable, PayloadGone) as error:
            # The state stays as it is; a person finds the reason in the log.
            code = error.code
            self.ledger.note_action(tx, action, at_s=now_s, note=f"cannot be undone: {code}")

    def _move(self, tx: Transaction, action: Action, to: ActionState, now_s: float, **details: Any) -> Action:
        moved = tx.move_action(action.draft.action_id, to, attempt=action.attempt, now_s=now_s, **details)
        self.ledger.note_action(tx, moved, at_s=now_s)
        return moved


def order_of(tx: Transaction, action: Action, keys: Keys | None) -> Order:
    """The order that a target gets. Raises `PayloadGone`."""
    draft = action.draft
    payload = open_payload(tx, draft, keys)
    value: dict[str, Any] = msgspec.json.decode(payload)
    return Order(
        action_id=draft.action_id,
        idempotency_key=draft.idempotency_key,
        decision_id=draft.decision_id,
        tenant=draft.tenant,
        name=draft.name,
        package=package_of(value),
        arguments=value.get("arguments", {}),
        payload=payload,
        created_s=draft.created_s,
    )
