"""One transaction on a database: the audit log and the outbox's front, and when rows are sent.

Inserts into the log, the outbox and the counts wait in `Pending`, so that many callers share a statement; whatever
else is written goes to the database at once, behind a savepoint where there is a caller to be undone alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy import bindparam, select

from onward.store import tables as t
from onward.store.chain import link
from onward.store.records import Action, ActionDraft, ActionState, AuditDraft, AuditEntry, Switch
from onward.store.sql.outbox import OutboxWrites
from onward.store.sql.pending import NOTHING, Mark, Pending
from onward.store.sql.people import PeopleWrites
from onward.store.sql.rows import ACTION, action_of
from onward.store.sql.session import Lookup, Session
from onward.store.store import Conflict
from onward.store.transitions import reserved, same_request
from onward.store.validity import valid, valid_text, valid_time

_ENTRY_ID = Lookup(select(t.audit.c.sequence).where(t.audit.c.entry_id == bindparam("entry_id")))
_RESERVED = Lookup(
    select(*ACTION).where(
        sa.or_(
            sa.and_(
                t.actions.c.tenant == bindparam("tenant"),
                t.actions.c.idempotency_key == bindparam("idempotency_key"),
            ),
            t.actions.c.action_id == bindparam("action_id"),
        )
    )
)


class SqlTransaction(OutboxWrites, PeopleWrites):
    """See `Transaction`."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._pending = Pending()
        self._last: AuditEntry | None = None
        self._knows_last = False
        self._switches: Mapping[str, Switch] | None = None
        self._mark: Mark | None = None
        self._before: Pending | None = None

    def end(self) -> bool:
        """See `PeopleWrites`."""
        self._pending, self._knows_last, self._switches = Pending(), False, None
        return super().end()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """See `Transaction`. Costs the database nothing unless the block writes more than what can wait."""
        if self._mark is not None:
            raise RuntimeError("savepoints cannot be nested")
        last = self.last_audit() if self._knows_last else None
        mark = self._mark = self._pending.mark()
        try:
            yield
        except BaseException:
            if self._before is not None:
                if not self._session.broken:
                    self._session.command("ROLLBACK TO SAVEPOINT caller")
                    self._session.command("RELEASE SAVEPOINT caller")
                self._pending = self._before
            else:
                self._pending.undo(mark)
            self._last, self._knows_last = last, last is not None
            self._switches = None
            raise
        else:
            if self._before is not None:
                self._session.command("RELEASE SAVEPOINT caller")
        finally:
            self._mark = self._before = None

    def write_through(self) -> None:
        """Called before anything but `Pending` is written."""
        if self._mark is not None and self._before is None:
            self._session.command("SAVEPOINT caller")
            self._before = self._pending.until(self._mark)

    def flush(self) -> None:
        """Send what waits."""
        if self._pending.mark() != NOTHING:
            self.write_through()
            self._pending.send(self._session)

    def last_audit(self) -> AuditEntry | None:
        """See `Reader`."""
        if not self._knows_last:
            self._last, self._knows_last = super().last_audit(), True
        return self._last

    def audit_entries(self, *, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """See `Reader`."""
        self.flush()
        return super().audit_entries(after=after, limit=limit)

    def audit_of(self, subject: str) -> list[AuditEntry]:
        """See `Reader`."""
        waiting = [entry for entry in self._pending.entries if entry.draft.subject == subject]
        return super().audit_of(subject) + waiting

    def action(self, action_id: str) -> Action | None:
        """See `Reader`."""
        pending = self._pending
        return pending.actions.get(action_id) or pending.moved.get(action_id) or super().action(action_id)

    def actions(self, state: ActionState, *, tenant: str | None = None, limit: int = 100) -> list[Action]:
        """See `Reader`."""
        self.flush()
        return super().actions(state, tenant=tenant, limit=limit)

    def actions_of(self, decision_id: str) -> list[Action]:
        """See `Reader`."""
        waiting = [action for action in self._pending.actions.values() if action.draft.decision_id == decision_id]
        moved = self._pending.moved
        return [moved.get(one.draft.action_id, one) for one in super().actions_of(decision_id)] + waiting

    def _change(self, actions: Sequence[Action]) -> None:
        if any(action.draft.action_id in self._pending.actions for action in actions):
            self.flush()
        for action in actions:
            self._pending.add_move(action)

    def backlog(self) -> Mapping[ActionState, int]:
        """See `Reader`."""
        self.flush()
        return super().backlog()

    def count_outcomes(
        self, tenant: str, policy: str, since_s: float, *, outcomes: Collection[str] = ()
    ) -> Mapping[str, int]:
        """See `Reader`."""
        waiting = Counter(
            outcome
            for owner, name, outcome, at_s in self._pending.outcomes
            if (owner, name) == (tenant, policy) and at_s >= since_s and (not outcomes or outcome in outcomes)
        )
        return dict(waiting + Counter(super().count_outcomes(tenant, policy, since_s, outcomes=outcomes)))

    def switches(self) -> Mapping[str, Switch]:
        """See `Reader`. Every decision asks, and nobody else can turn them before this transaction ends."""
        if self._switches is None:
            self._switches = super().switches()
        return dict(self._switches)

    def set_switch(self, name: str, on: bool, by: str, at_s: float) -> Switch:
        """See `Transaction`."""
        self._switches = None
        return super().set_switch(name, on, by, at_s)

    def append_audit(self, draft: AuditDraft) -> AuditEntry:
        """See `Transaction`."""
        entry_id = valid(draft).entry_id
        if entry_id in self._pending.entry_ids or self._session.seek(_ENTRY_ID, {"entry_id": entry_id}):
            raise Conflict("the audit log has an entry of that id", found=entry_id)
        entry = self._last = link(draft, self.last_audit())
        self._pending.add_entry(entry)
        return entry

    def reserve(self, draft: ActionDraft) -> Action:
        """See `Transaction`."""
        tenant, key, action_id = valid(draft).tenant, draft.idempotency_key, draft.action_id
        values = {"tenant": tenant, "idempotency_key": key, "action_id": action_id}
        found = [action_of(row) for row in self._session.seek(_RESERVED, values)]
        found = [self._pending.moved.get(one.draft.action_id, one) for one in found]
        found += filter(None, (self._pending.idempotency.get((tenant, key)), self._pending.actions.get(action_id)))
        for taken in found:
            if (taken.draft.tenant, taken.draft.idempotency_key) == (tenant, key):
                return same_request(taken, draft)
        if found:
            raise Conflict("there is an action of that id", found=action_id)
        action = reserved(draft)
        self._pending.add_action(action)
        return action

    def note_outcome(self, tenant: str, policy: str, outcome: str, at_s: float) -> None:
        """See `Transaction`."""
        for name, text in (("tenant", tenant), ("policy", policy), ("outcome", outcome)):
            valid_text(name, text)
        if not self._session.broken:
            self._pending.outcomes.append((tenant, policy, outcome, valid_time("at_s", at_s)))
