"""How long a batch takes, learnt from those that were run: a part for the batch and a part for each row. Pure.

A decaying line through (rows, seconds): the last dozens of batches count.
"""

from __future__ import annotations

_SMOOTHING = 0.1
# A batch that took so many times longer than expected, and was followed by one that did not, was a hitch.
_HITCH = 4.0


class Pace:
    """The expected seconds of a batch: `batch_s` + rows · `row_s`."""

    __slots__ = ("_cross", "_rows", "_seconds", "_spread", "batch_s", "row_s")

    def __init__(self) -> None:
        self.batch_s = self.row_s = 0.0
        self._rows = self._seconds = self._spread = self._cross = 0.0

    def run_s(self, rows: int) -> float:
        """How long so many rows are expected to take; 0 where nothing has been run."""
        return self.batch_s + rows * self.row_s

    def rows_within(self, seconds: float, most: int) -> int:
        """How many rows a batch may have to be run in so many seconds: 1 to `most`."""
        if not self.row_s:
            return most
        return int(min(max((seconds - self.batch_s) / self.row_s, 1.0), most))

    def note(self, rows: int, took_s: float) -> None:
        """A batch has been run."""
        expected_s = self.run_s(rows)
        if not self._rows or took_s * _HITCH < expected_s:
            self._rows, self._seconds, self._spread, self._cross = rows, took_s, 0.0, 0.0
        else:
            more_rows, more_s = rows - self._rows, took_s - self._seconds
            self._rows += _SMOOTHING * more_rows
            self._seconds += _SMOOTHING * more_s
            kept = 1.0 - _SMOOTHING
            self._spread = kept * (self._spread + _SMOOTHING * more_rows * more_rows)
            self._cross = kept * (self._cross + _SMOOTHING * more_rows * more_s)
        # Batches of one size say nothing of the parts: then all is taken to be the rows'.
        row_s = self._cross / self._spread if self._spread > 0.05 * self._rows else self._seconds / self._rows
        self.row_s = min(max(row_s, 0.0), self._seconds / self._rows)
        self.batch_s = self._seconds - self.row_s * self._rows
