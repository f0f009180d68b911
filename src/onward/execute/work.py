"""What waits in a scheduler and what runs together: a piece of work, its state, its priority, a batch."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass

HIGH, NORMAL, LOW = 0, 1, 2
PRIORITIES = {"high": HIGH, "normal": NORMAL, "low": LOW}
# By how much later than it came a priority counts as having come.
BEHIND_S = (0.0, 1.0, 2.0)
# Whether work's caller was turned away before. Room that is kept for those who were is kept from NEW work only. The
# standing of who comes when told is the rows that were promised: RETURNING is a caller that was promised one.
UNKNOWN, NEW, RETURNING = -1, 0, 1
_NEVER_S = float("inf")


class State(enum.Enum):
    """Where a piece of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"


class Work:
    """One request's rows on their way through the scheduler; the driver subclasses it to carry the request.

    `rows` is its cost, at least 1. Work with different `key` never shares a batch; `length` (0: fixed shape) is
    bucketed. `deadline_s` is on the same clock as every `now_s`. `priority` is HIGH, NORMAL or LOW. `standing` is NEW,
    UNKNOWN, or how many rows its caller was promised when it was turned away, where it comes when told.
    """

    __slots__ = ("arrived_s", "deadline_s", "key", "length", "priority", "rows", "standing", "state")

    def __init__(
        self,
        *,
        rows: int = 1,
        key: Hashable = None,
        length: int = 0,
        deadline_s: float = _NEVER_S,
        priority: int = NORMAL,
    ) -> None:
        self.rows = rows
        self.key = key
        self.length = length
        self.deadline_s = deadline_s
        self.priority = priority
        self.standing = NEW
        self.arrived_s = 0.0
        self.state = State.QUEUED


@dataclass(slots=True, eq=False)
class Batch:
    """Work that runs together. `bucket` is the number of rows to pad to (≥ `rows`)."""

    works: list[Work]
    rows: int
    bucket: int
    started_s: float
