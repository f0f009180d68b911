"""Names of the columns, in order."""

from __future__ import annotations

FIELDS = ("Time", *(f"V{number}" for number in range(1, 29)), "Amount")
"""What a transaction is made of: the columns of the graph's input."""

LEARNED = FIELDS[1:]
"""What the trees see."""

CONTRIBUTIONS = (*LEARNED, "bias")
"""What a score is made of: the columns of the graph's output `contributions`."""
