"""What a transaction has decided to write and has not sent to the database yet.

The audit entries, actions, moves of actions and outcomes of many callers that share one commit go to the database as
one statement each. Until then the transaction reads them here. Undoing what a caller wrote costs nothing as long as it
is here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TypeAlias

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects import postgresql, sqlite

from onward.store import tables
from onward.store.records import Action, AuditEntry
from onward.store.sql.rows import changes_of_action, row_of_action, row_of_entry
from onward.store.sql.session import Lookup, Session

_KEY = ("tenant", "policy", "outcome", "at_s")
_IN_SQLITE, _IN_POSTGRESQL = sqlite.insert(tables.outcomes), postgresql.insert(tables.outcomes)
_COUNT = Lookup(
    _IN_SQLITE.on_conflict_do_update(
        index_elements=_KEY, set_={"times": tables.outcomes.c.times + _IN_SQLITE.excluded.times}
    ),
    _IN_POSTGRESQL.on_conflict_do_update(
        index_elements=_KEY, set_={"times": tables.outcomes.c.times + _IN_POSTGRESQL.excluded.times}
    ),
)
MOVE = Lookup(
    sa.update(tables.actions)
    .where(tables.actions.c.action_id == bindparam("the_id"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "state", "attempt", "available_s", "updated_s", "owner", "lease_until_s", "error", "receipt",
            )
        }
    )
)  # fmt: skip
Mark: TypeAlias = tuple[int, int, int, int]
"""How much waits of each kind."""
NOTHING: Mark = (0, 0, 0, 0)


@dataclass(slots=True, kw_only=True)
class Pending:
    """Rows to be inserted, in order, and how to find them."""

    entries: list[AuditEntry] = field(default_factory=list)
    entry_ids: set[str] = field(default_factory=set)
    actions: dict[str, Action] = field(default_factory=dict)
    idempotency: dict[tuple[str, str], Action] = field(default_factory=dict)
    outcomes: list[tuple[str, str, str, float]] = field(default_factory=list)
    moves: list[Action] = field(default_factory=list)
    moved: dict[str, Action] = field(default_factory=dict)

    def add_entry(self, entry: AuditEntry) -> None:
        """Keep an entry whose id nobody has."""
        self.entries.append(entry)
        self.entry_ids.add(entry.draft.entry_id)

    def add_action(self, action: Action) -> None:
        """Keep an action whose id and idempotency key nobody has."""
        self.actions[action.draft.action_id] = action
        self.idempotency[action.draft.tenant, action.draft.idempotency_key] = action

    def add_move(self, action: Action) -> None:
        """Keep the new state of an action that is in the database."""
        self.moves.append(action)
        self.moved[action.draft.action_id] = action

    def mark(self) -> Mark:
        """How much there is now, for `undo`."""
        return len(self.entries), len(self.actions), len(self.outcomes), len(self.moves)

    def until(self, mark: Mark) -> Pending:
        """What there was at the mark; nothing of that has been sent since."""
        earlier = Pending(outcomes=self.outcomes[: mark[2]])
        for entry in self.entries[: mark[0]]:
            earlier.add_entry(entry)
        for action in list(self.actions.values())[: mark[1]]:
            earlier.add_action(action)
        for action in self.moves[: mark[3]]:
            earlier.add_move(action)
        return earlier

    def undo(self, mark: Mark) -> None:
        """Forget what came after the mark; nothing has been sent since."""
        for entry in self.entries[mark[0] :]:
            self.entry_ids.discard(entry.draft.entry_id)
        del self.entries[mark[0] :], self.outcomes[mark[2] :]
        while len(self.actions) > mark[1]:
            _, action = self.actions.popitem()
            del self.idempotency[action.draft.tenant, action.draft.idempotency_key]
        if len(self.moves) > mark[3]:
            del self.moves[mark[3] :]
            self.moved = {action.draft.action_id: action for action in self.moves}

    def send(self, session: Session) -> None:
        """Write all of it; then there is nothing."""
        if self.entries:
            session.insert(tables.audit, [row_of_entry(entry) for entry in self.entries])
        if self.actions:
            session.insert(tables.actions, [row_of_action(action) for action in self.actions.values()])
        if self.outcomes:
            counts = [
                dict(zip((*_KEY, "times"), (*noted, times), strict=True))
                for noted, times in Counter(self.outcomes).items()
            ]
            session.repeat(_COUNT, counts)
        if self.moved:
            session.repeat(MOVE, [changes_of_action(action) for action in self.moved.values()])
        for kept in (
            self.entries, self.entry_ids, self.actions, self.idempotency, self.outcomes, self.moves, self.moved,
        ):  # fmt: skip
            kept.clear()
