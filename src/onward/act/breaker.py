"""A circuit breaker for one target: after failures in a row it rests, then lets a single action try. No clock, no lock.

Only trouble in reaching or being served by the target counts as a failure; an action that the target refuses for good
shows that it is well.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Circuit(enum.Enum):
    """What a breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing, until its rest is over
    HALF_OPEN = "half-open"  # one action at a time, whose outcome decides


@dataclass(slots=True, kw_only=True)
class Breaker:
    """Opens after `failures` in a row for `rest_s`; each probe that fails doubles the rest, up to `longest_rest_s`."""

    failures: int = 5
    rest_s: float = 10.0
    longest_rest_s: float = 300.0
    _in_a_row: int = 0
    _opened: int = 0
    _until_s: float = 0.0
    _probing: bool = False

    def circuit(self, now_s: float) -> Circuit:
        """The state at this time."""
        if not self._opened:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self._until_s else Circuit.HALF_OPEN

    def room(self, now_s: float, free: int) -> int:
        """How many of `free` places may be used now."""
        match self.circuit(now_s):
            case Circuit.CLOSED:
                return free
            case Circuit.OPEN:
                return 0
        return 0 if self._probing else min(free, 1)

    def begin(self, now_s: float) -> None:
        """An action is about to be sent."""
        self._probing = self.circuit(now_s) is Circuit.HALF_OPEN

    def succeeded(self) -> None:
        """The target served an action."""
        self._in_a_row, self._opened, self._probing = 0, 0, False

    def abandon(self) -> None:
        """The action was not sent after all; nothing is known about the target."""
        self._probing = False

    def failed(self, now_s: float) -> None:
        """The target could not be reached, was busy, or left an action without an answer."""
        self._in_a_row += 1
        probe, self._probing = self._probing, False
        if probe or (not self._opened and self._in_a_row >= self.failures):
            self._opened += 1
            rest_s = self.rest_s * 2.0 ** min(self._opened - 1, 60)
            self._until_s = now_s + min(rest_s, self.longest_rest_s)
