"""What a transaction writes about actions on their way, their approvals, counts and kill switches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from onward.store import tables as t
from onward.store.records import Action, ActionState, Approval, ApprovalState, Switch
from onward.store.sql.reader import MOST, OPEN_APPROVALS, SqlReader
from onward.store.sql.rows import ACTION, action_of, approval_of, values_of
from onward.store.sql.session import Lookup
from onward.store.store import Conflict
from onward.store.transitions import (
    AFTER_LEASE,
    LEASE_RAN_OUT,
    after_approval,
    check_request,
    decided,
    expired,
    leased,
    moved,
)
from onward.store.validity import valid, valid_text, valid_time

_DUE = (
    select(*ACTION)
    .where(t.actions.c.state == sa.literal_column("'pending'"), t.actions.c.available_s <= bindparam("now_s"))
    .order_by(t.actions.c.available_s, t.actions.c.place)
    .limit(bindparam("limit", type_=sa.Integer))
    # Whoever holds a row, by hand or in a transaction of another release, does not hold up the rest.
    .with_for_update(skip_locked=True)
)
_DUE_NAMED = _DUE.where(t.actions.c.name.in_(bindparam("names", expanding=True)))
_DUE_OF_ONE = Lookup(_DUE.where(t.actions.c.name == bindparam("name")))
_OVERDUE = (
    select(*ACTION)
    .where(
        sa.or_(*(t.actions.c.state == sa.literal_column(f"'{state.value}'") for state in AFTER_LEASE)),
        t.actions.c.lease_until_s <= bindparam("now_s"),
    )
    .order_by(t.actions.c.place)
    .with_for_update(skip_locked=True)
)
_EXPIRED = OPEN_APPROVALS.where(t.approvals.c.expires_s <= bindparam("now_s"))
_END_APPROVAL = (
    sa.update(t.approvals)
    .where(t.approvals.c.approval_id == bindparam("the_id"))
    .values({name: bindparam(name) for name in ("state", "decided_by", "decided_s", "note")})
)
_TURN_SWITCH = (
    sa.update(t.switches)
    .where(t.switches.c.name == bindparam("the_name"))
    .values({name: bindparam(f"new_{name}") for name in ("on", "by", "at_s")})
)
_FORGET_OUTCOMES = sa.delete(t.outcomes).where(t.outcomes.c.at_s < bindparam("before_s"))


class OutboxWrites(SqlReader, ABC):
    """The part of `Transaction` that moves actions on."""

    @abstractmethod
    def write_through(self) -> None:
        """Called before anything but what can wait is written."""

    @abstractmethod
    def flush(self) -> None:
        """Send what waits to the database."""

    @abstractmethod
    def _change(self, actions: Sequence[Action]) -> None:
        """Bring actions into the states that they are given in."""

    def lease_actions(
        self, owner: str, *, now_s: float, lease_s: float, limit: int = 1, names: Collection[str] | None = None
    ) -> list[Action]:
        """See `Transaction`."""
        valid_text("owner", owner)
        values = {"now_s": valid_time("now_s", now_s), "limit": min(limit, MOST)}
        self.flush()
        if names is None:
            due = self._session.rows(_DUE, values)
        elif len(names) == 1:
            due = self._session.seek(_DUE_OF_ONE, values | {"name": next(iter(names))})
        else:
            due = self._session.rows(_DUE_NAMED, values | {"names": tuple(names)}) if names else ()
        taken = [leased(action_of(row), owner, now_s=now_s, lease_s=lease_s) for row in due]
        if taken:
            self._change(taken)
        return taken

    def move_action(
        self,
        action_id: str,
        to: ActionState,
        *,
        attempt: int,
        now_s: float,
        available_s: float | None = None,
        error: str = "",
        receipt: bytes = b"",
    ) -> Action:
        """See `Transaction`."""
        action = moved(
            self.action(action_id),
            action_id,
            to,
            attempt=attempt,
            now_s=now_s,
            available_s=available_s,
            error=error,
            receipt=receipt,
        )
        self._change([action])
        return action

    def settle_leases(self, now_s: float) -> list[Action]:
        """See `Transaction`."""
        self.flush()
        found = map(action_of, self._session.rows(_OVERDUE, {"now_s": valid_time("now_s", now_s)}))
        settled = [
            moved(
                action,
                action.draft.action_id,
                AFTER_LEASE[action.state],
                attempt=action.attempt,
                now_s=now_s,
                error=LEASE_RAN_OUT,
            )
            for action in found
        ]
        if settled:
            self._change(settled)
        return settled

    def request_approval(self, approval: Approval) -> None:
        """See `Transaction`."""
        if self.approval(valid(approval).approval_id) is not None:
            raise Conflict("there is an approval of that id", found=approval.approval_id)
        check_request(approval, self.action(approval.action_id), self.approvals_of(approval.action_id))
        self.flush()  # the approval refers to the action's row
        self.write_through()
        self._session.write(sa.insert(t.approvals), values_of(approval) | {"state": approval.state.value})

    def decide_approval(
        self,
        tenant: str,
        approval_id: str,
        *,
        payload_digest: str,
        granted: bool,
        by: str,
        now_s: float,
        note: str = "",
    ) -> Approval:
        """See `Transaction`."""
        approval = decided(
            self.approval(approval_id),
            tenant,
            approval_id,
            payload_digest=payload_digest,
            granted=granted,
            by=by,
            now_s=now_s,
            note=note,
        )
        self._end_approval(approval, now_s)
        return approval

    def expire_approvals(self, now_s: float) -> list[Approval]:
        """See `Transaction`."""
        found = self._session.rows(_EXPIRED, {"now_s": valid_time("now_s", now_s)})
        over = [expired(approval_of(row), now_s) for row in found]
        for approval in over:
            self._end_approval(approval, now_s)
        return over

    def _end_approval(self, approval: Approval, now_s: float) -> None:
        action = self.action(approval.action_id)
        assert action is not None, "an approval's action is never deleted"
        # What somebody discarded in the meantime stays discarded: its approval can only expire.
        if approval.state is not ApprovalState.EXPIRED or action.state is ActionState.WAITING:
            self._change([after_approval(approval, action, now_s)])
        self.write_through()
        ending = {
            "the_id": approval.approval_id,
            "state": approval.state.value,
            "decided_by": approval.decided_by,
            "decided_s": approval.decided_s,
            "note": approval.note,
        }
        self._session.write(_END_APPROVAL, ending)

    def delete_outcomes(self, *, before_s: float) -> int:
        """See `Transaction`."""
        forgotten = select(sa.func.coalesce(sa.func.sum(t.outcomes.c.times), 0)).where(t.outcomes.c.at_s < before_s)
        self.flush()
        self.write_through()
        count = int(self._session.rows(forgotten, {})[0][0])
        self._session.write(_FORGET_OUTCOMES, {"before_s": before_s})
        return count

    def set_switch(self, name: str, on: bool, by: str, at_s: float) -> Switch:
        """See `Transaction`."""
        switch = valid(Switch(name=name, on=on, by=by, at_s=at_s))
        self.write_through()
        turned = {"the_name": name, "new_on": on, "new_by": by, "new_at_s": at_s}
        if not self._session.write(_TURN_SWITCH, turned):
            self._session.write(sa.insert(t.switches), values_of(switch))
        return switch
