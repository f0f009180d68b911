"""When those who were turned away may come back, and the room that is kept for them. Pure: no clock, no I/O.

Everybody who is told to wait gets a time of their own, one behind the other at the rate at which the queue drains:
told the same time, all would come at once. For those who come at theirs room is kept free of others. Who does not come
loses nothing but the place; where few come, little is kept, and times lie closer together.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

LATE_S = 1.5
"""How long after the time told a place is kept: clients that read whole seconds come up to one later."""
FARTHEST_S = 30.0
_BUCKET_S = 0.05
# Times lie a little further apart than the queue drains: else it would stay full, and every hitch turn somebody away.
_SPACING = 1.1
# Share of what becomes of one promised row in the moving average of those that come back.
_SMOOTHING = 0.02


class Promise(NamedTuple):
    """What one client was told: when its rows are let in before others, until `LATE_S` after."""

    at_s: float
    rows: int


class Promises:
    """The rows that were told a time to come back at, and have not come yet.

    Those that lacked room have room kept; those that lacked time only have others' time weighed more carefully.
    """

    __slots__ = ("_buckets", "_coming", "_last_s", "_room_rows", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self._room_rows = 0
        self._buckets: deque[list[float]] = deque()  # [when due, rows, those of them that lacked room], by time
        self._last_s = 0.0
        self._coming = 1.0

    def give(self, now_s: float, *, rows: int, free_in_s: float, row_s: float, keeps_room: bool = True) -> float:
        """The time in seconds after which `rows` may come back: there is room in `free_in_s`, and later for more.

        `row_s` is how long the queue takes to drain by a row.
        """
        room_rows = rows if keeps_room else 0
        at_s = max(now_s + free_in_s, self._last_s + rows * row_s * _SPACING * self._coming)
        at_s = min(at_s, now_s + max(FARTHEST_S, free_in_s))
        self._last_s = max(at_s, self._last_s)
        if self._buckets and at_s < self._buckets[-1][0] + _BUCKET_S:
            self._buckets[-1][1] += rows
            self._buckets[-1][2] += room_rows
        else:
            self._buckets.append([at_s, rows, room_rows])
        self.rows += rows
        self._room_rows += room_rows
        return at_s - now_s

    @property
    def kept(self) -> int:
        """Of the rows that have not come yet those that are likely to."""
        return int(self.rows * self._coming)

    @property
    def kept_room(self) -> int:
        """Of those the rows that room in the queue is kept for."""
        return int(self._room_rows * self._coming)

    def redeem(self, rows: int) -> None:
        """Rows have come back at their time."""
        self._coming += (1.0 - self._coming) * min(1.0, _SMOOTHING * rows)
        while rows and self._buckets:
            oldest = self._buckets[0]
            taken = min(rows, int(oldest[1]))
            room_taken = min(taken, int(oldest[2]))
            oldest[1] -= taken
            oldest[2] -= room_taken
            self.rows -= taken
            self._room_rows -= room_taken
            rows -= taken
            if not oldest[1]:
                self._buckets.popleft()

    def lapse(self, now_s: float) -> None:
        """Give up the rows that have not come long after their time."""
        while self._buckets and self._buckets[0][0] + _BUCKET_S + LATE_S <= now_s:
            _, rows, room_rows = self._buckets.popleft()
            self.rows -= int(rows)
            self._room_rows -= int(room_rows)
            self._coming *= (1.0 - _SMOOTHING) ** rows
