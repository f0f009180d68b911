"""Who was turned away and comes back: known by the connection or, where that has been closed meanwhile, by the address.

Behind one address may be many clients; so only the first request on a new connection counts for a client that closed
its old one.
"""

from __future__ import annotations

from heapq import heappop, heappush

from onward.execute.promises import LATE_S, Promise

# A client's clock and ours need not agree to the millisecond.
EARLY_S = 0.005
_MOST_ADDRESSES = 4096
_MOST_OF_ONE = 4096


class Returning:
    """What clients that closed their connections were promised, by address."""

    def __init__(self) -> None:
        self._promised: dict[str, list[Promise]] = {}

    def left(self, address: str, promised: Promise) -> None:
        """A connection was closed whose client may come back."""
        waiting = self._promised.get(address)
        if waiting is None:
            if len(self._promised) >= _MOST_ADDRESSES:
                del self._promised[next(iter(self._promised))]
            waiting = self._promised[address] = []
        if len(waiting) < _MOST_OF_ONE:
            heappush(waiting, promised)

    def came(self, address: str, now_s: float) -> Promise | None:
        """A connection was made: what the client was promised that it is likely to be, if the time for it has come."""
        if not self._promised:
            return None
        waiting = self._promised.get(address)
        if waiting is None:
            return None
        while waiting and waiting[0].at_s + LATE_S < now_s:
            heappop(waiting)
        if not waiting:
            del self._promised[address]
            return None
        return heappop(waiting) if waiting[0].at_s <= now_s + EARLY_S else None


RETURNING = Returning()
