"""How long a client may take over its request, and over reading its answers.

A client that sends a byte now and then, for ever, would hold a connection as well as one that sends nothing: a head
has to be there in time, and a body has to come at a rate that the slowest of lines can do. Knows no sockets: it is told
what came and when.
"""

from __future__ import annotations

# The whole head, from its first byte.
HEAD_S = 30.0
# Silence in the middle of a body, and the same while the server drains; and what a body brings a second, on average,
# once it takes longer than that.
SILENCE_S = 30.0
LAST_SILENCE_S = 3.0
LEAST_BYTES_PER_S = 500
# Answers of which nothing is read.
UNREAD_S = 60.0


class Patience:
    """With one connection. Times are of the monotonic clock."""

    __slots__ = ("_began_s", "_heard_bytes", "_heard_s", "_is_short", "_moved_s", "_unread_bytes")

    def __init__(self) -> None:
        self._heard_s = 0.0
        self._began_s = 0.0
        self._heard_bytes = 0
        self._unread_bytes = 0
        self._moved_s = 0.0
        self._is_short = False

    def run_short(self) -> None:
        """The server drains: who is in the middle of a request may finish it, and may not keep everybody waiting."""
        self._is_short = True

    def hear(self, now_s: float, size: int) -> None:
        """So many bytes have come."""
        self._heard_s = now_s
        self._heard_bytes += size

    def begin(self) -> None:
        """A request begins with what was heard last."""
        self._began_s = self._heard_s
        self._heard_bytes = 0

    def wait_no_more(self, now_s: float) -> None:
        """The client is not to blame for this time: begin anew."""
        self._heard_s = self._began_s = now_s
        self._heard_bytes = 0

    def silence_s(self, now_s: float) -> float:
        """How long nothing has come."""
        return now_s - self._heard_s

    def has_run_out(self, now_s: float, *, in_body: bool) -> str:
        """What would have been right of a request that is still to come; empty while there is time."""
        if not in_body:
            return f"the whole head within {HEAD_S:g} s" if now_s - self._began_s >= HEAD_S else ""
        silence_s = min(LAST_SILENCE_S, SILENCE_S) if self._is_short else SILENCE_S
        if self.silence_s(now_s) >= silence_s:
            return f"no more than {silence_s:g} s of silence"
        if self._heard_bytes < (now_s - self._began_s - SILENCE_S) * LEAST_BYTES_PER_S:
            return f"{LEAST_BYTES_PER_S} bytes a second"
        return ""

    def is_unread(self, now_s: float, waiting_bytes: int) -> bool:
        """Whether a client that is being waited for has read nothing for too long; `waiting_bytes` are still to go."""
        if waiting_bytes != self._unread_bytes or not waiting_bytes:
            self._unread_bytes = waiting_bytes
            self._moved_s = now_s
        return now_s - self._moved_s >= UNREAD_S
