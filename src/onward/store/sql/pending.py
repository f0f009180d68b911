"""What a transaction has decided to insert and has not sent to the database yet.

The audit entries, actions and outcomes of many callers that share one commit go to the database as one statement a
table. Until then the transaction reads them here. Undoing a caller's rows costs nothing as long as they are here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy.dialects import postgresql, sqlite

from onward.store import tables
from onward.store.records import Action, AuditEntry
from onward.store.sql.rows import row_of_action, row_of_entry
from onward.store.sql.session import Session

_KEY = ("tenant", "policy", "outcome", "at_s")
_IN_SQLITE, _IN_POSTGRESQL = sqlite.insert(tables.outcomes), postgresql.insert(tables.outcomes)
_COUNT = {
    "sqlite": _IN_SQLITE.on_conflict_do_update(
        index_elements=_KEY, set_={"times": tables.outcomes.c.times + _IN_SQLITE.excluded.times}
    ),
    "postgresql": _IN_POSTGRESQL.on_conflict_do_update(
        index_elements=_KEY, set_={"times": tables.outcomes.c.times + _IN_POSTGRESQL.excluded.times}
    ),
}


@dataclass(slots=True, kw_only=True)
class Pending:
    """Rows to be inserted, in order, and how to find them."""

    entries: list[AuditEntry] = field(default_factory=list)
    entry_ids: set[str] = field(default_factory=set)
    actions: dict[str, Action] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], Action] = field(default_factory=dict)
    outcomes: list[tuple[str, str, str, float]] = field(default_factory=list)

    def add_entry(self, entry: AuditEntry) -> None:
        """Keep an entry whose id nobody has."""
        self.entries.append(entry)
        self.entry_ids.add(entry.draft.entry_id)

    def add_action(self, action: Action) -> None:
        """Keep an action whose id and idempotency key nobody has."""
        self.actions[action.draft.action_id] = action
        self.idempotency[action.draft.tenant, action.draft.idempotency_key] = action

    def mark(self) -> tuple[int, int, int]:
        """How much there is now, for `undo`."""
        return len(self.entries), len(self.actions), len(self.outcomes)

    def until(self, mark: tuple[int, int, int]) -> Pending:
        """What there was at the mark; nothing of that has been sent since."""
        earlier = Pending(outcomes=self.outcomes[: mark[2]])
        for entry in self.entries[: mark[0]]:
            earlier.add_entry(entry)
        for action in list(self.actions.values())[: mark[1]]:
            earlier.add_action(action)
        return earlier

    def undo(self, mark: tuple[int, int, int]) -> None:
        """Forget what came after the mark; nothing has been sent since."""
        for entry in self.entries[mark[0] :]:
            self.entry_ids.discard(entry.draft.entry_id)
        del self.entries[mark[0] :], self.outcomes[mark[2] :]
        while len(self.actions) > mark[1]:
            _, action = self.actions.popitem()
            del self.idempotency[action.draft.tenant, action.draft.idempotency_key]

    def send(self, session: Session) -> None:
        """Insert all of it; then there is nothing."""
        if self.entries:
            session.insert(tables.audit, [row_of_entry(entry) for entry in self.entries])
        if self.actions:
            session.insert(tables.actions, [row_of_action(action) for action in self.actions.values()])
        if self.outcomes:
            counts = [
                dict(zip((*_KEY, "times"), (*noted, times), strict=True))
                for noted, times in Counter(self.outcomes).items()
            ]
            session.write(_COUNT[session.dialect], counts)
        for kept in (self.entries, self.entry_ids, self.actions, self.idempotency, self.outcomes):
            kept.clear()
