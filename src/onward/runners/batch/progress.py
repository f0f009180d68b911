"""What a person sees of a running job: one line, rewritten in a terminal, and a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

_TERMINAL_S = 0.2
_PLAIN_S = 10.0


class Progress:
    """Rows done, rows a second, share, time left, rejects. `total` None: nobody knows how many rows there are."""

    def __init__(self, total: int | None, *, done: int = 0) -> None:
        self._total = total
        self._before = done
        self._done = done
        self._rejects = 0
        self._started_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._next_s = self._started_s + (0 if self._is_terminal else _PLAIN_S)

    def add(self, rows: int, rejects: int) -> None:
        """Count what a shard brought, and tell of it where it is time."""
        self._done += rows
        self._rejects += rejects
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + (_TERMINAL_S if self._is_terminal else _PLAIN_S)
            self._show(now_s)

    @property
    def rows_per_s(self) -> float:
        """Since this process began."""
        return (self._done - self._before) / max(time.monotonic() - self._started_s, 1e-9)

    def end(self) -> None:
        """Leave the line."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, now_s: float) -> None:
        parts = [f"{self._done:,} rows", f"{self.rows_per_s:,.0f} rows/s"]
        if self._total:
            parts.append(f"{min(self._done / self._total, 1):.0%}")
            parts.append(f"{_duration((self._total - self._done) / max(self.rows_per_s, 1e-9))} left")
        if self._rejects:
            parts.append(f"{self._rejects:,} rejects")
        text = " · ".join(parts)
        sys.stderr.write(f"\r\x1b[K{text}" if self._is_terminal else f"{text}\n")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    whole = max(int(seconds), 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
