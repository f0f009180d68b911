"""Who was turned away and comes back: known by the connection or, where that has been closed meanwhile, by the address.

Behind one address may be many clients; so only the first request on a new connection counts for a client that closed
its old one.
"""

from __future__ import annotations

from heapq import heappop, heappush

from onward.execute.promises import LATE_S

# A client's clock and ours need not agree to the millisecond.
EARLY_S = 0.005
_MOST_ADDRESSES = 4096
_MOST_OF_ONE = 4096


class Returning:
    """The times at which clients that closed their connections may come back, by address."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def left(self, address: str, at_s: float) -> None:
        """A connection was closed whose client may come back at `at_s`."""
        times = self._times.get(address)
        if times is None:
            if len(self._times) >= _MOST_ADDRESSES:
                del self._times[next(iter(self._times))]
            times = self._times[address] = []
        if len(times) < _MOST_OF_ONE:
            heappush(times, at_s)

    def came(self, address: str, now_s: float) -> float | None:
        """A connection was made: the time of the client that it is likely to be, if that has come."""
        if not self._times:
            return None
        times = self._times.get(address)
        if times is None:
            return None
        while times and times[0] + LATE_S < now_s:
            heappop(times)
        if not times:
            del self._times[address]
            return None
        return heappop(times) if times[0] <= now_s + EARLY_S else None


RETURNING = Returning()
