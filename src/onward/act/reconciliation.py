"""What becomes of UNKNOWN actions: the target is asked whether they happened, where it can be asked.

"It did" makes them DONE, "it did not" lets them be tried again (or, after too many tries, DEAD); anything else leaves
them for the next time. A target that cannot be asked leaves them to a person.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from onward.act import crash
from onward.act.backoff import Backoff
from onward.act.executor import Order, Outcome, Verdict, unknown
from onward.act.lanes import Lane, Lanes
from onward.act.outbox import PayloadGone
from onward.act.progress import Progress, order_of
from onward.store.records import Action, ActionState
from onward.store.store import Conflict, Store, Transaction

_log = logging.getLogger(__name__)
_AT_ONCE = 1000
_AGAIN = Backoff(first_s=5.0, longest_s=600.0)


class Reconciliation:
    """Asks about UNKNOWN actions, each ever more rarely while there is no answer. Not thread-safe."""

    def __init__(
        self, store: Store, lanes: Lanes, progress: Progress, commit: Callable[[Callable[[Transaction], Any]], Any]
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._progress = progress
        self._commit = commit
        self._asked: dict[str, tuple[int, float]] = {}

    def run(self, now_s: float) -> int:
        """Ask about all whose time has come; how many are settled now."""
        with self._store.snapshot() as reader:
            waiting = reader.actions(ActionState.UNKNOWN, limit=_AT_ONCE)
        alive = {action.draft.action_id for action in waiting}
        self._asked = {action_id: asked for action_id, asked in self._asked.items() if action_id in alive}
        return sum(self._settle(action, now_s) for action in waiting)

    def _settle(self, action: Action, now_s: float) -> bool:
        action_id = action.draft.action_id
        times, next_s = self._asked.get(action_id, (0, 0.0))
        if now_s < next_s or not self._may_be_asked(action, now_s):
            return False
        found = self._order(action)
        outcome = unknown("NOBODY_TO_ASK") if found is None else self._ask(found[1], found[0])
        crash.point("relay.asked")
        if found is None or outcome.verdict is Verdict.UNKNOWN:
            self._asked[action_id] = (times + 1, now_s + _AGAIN.delay_s(times + 1, self._progress.chance))
            return False
        lane = found[1]
        try:
            self._commit(lambda tx: self._progress.finish(tx, action, lane.target, outcome, now_s))
        except Conflict:  # another relay, or a person, was faster
            return False
        crash.point("relay.reconciled")
        return True

    def _may_be_asked(self, action: Action, now_s: float) -> bool:
        """Whether some target of that action answers such questions, and it is time.

        What was cut off may still be under way; "it did not happen" would be true only for now.
        """
        return any(
            lane.executor.can_reconcile and now_s >= action.updated_s + lane.target.reconcile_after_s
            for lane in self._lanes.called(action.draft.name)
        )

    def _order(self, action: Action) -> tuple[Order, Lane] | None:
        try:
            order: Order = self._commit(lambda tx: order_of(tx, action, self._progress.keys))
        except PayloadGone:
            return None
        lane = self._lanes.find(order.name, order.package)
        return None if lane is None or not lane.executor.can_reconcile else (order, lane)

    @staticmethod
    def _ask(lane: Lane, order: Order) -> Outcome:
        try:
            return lane.executor.reconcile(order)
        except Exception as error:
            _log.exception("the status of an action of %s could not be asked for", order.name)
            return unknown(f"EXECUTOR_{type(error).__name__}")
