"""Who closed the connection it was turned away on is known by its address, for what it was promised."""

from __future__ import annotations

from onward.execute.promises import LATE_S, Promise
from onward.runners.serve.returning import EARLY_S, Returning


def test_what_an_address_was_promised_is_had_once_and_in_the_order_of_the_times() -> None:
    returning = Returning()
    returning.left("a", Promise(12.0, 1))
    returning.left("a", Promise(11.0, 128))
    assert returning.came("b", 11.0) is None
    assert returning.came("a", 11.0 - 2 * EARLY_S) is None
    assert returning.came("a", 11.0) == Promise(11.0, 128)
    assert returning.came("a", 11.0) is None
    assert returning.came("a", 12.0 + LATE_S) == Promise(12.0, 1)
    assert returning.came("a", 12.0 + LATE_S) is None


def test_nothing_is_kept_of_who_is_late() -> None:
    returning = Returning()
    returning.left("a", Promise(11.0, 1))
    returning.left("a", Promise(11.1, 2))
    assert returning.came("a", 11.05 + LATE_S) == Promise(11.1, 2)
    returning.left("a", Promise(12.0, 1))
    assert returning.came("a", 12.1 + LATE_S) is None
    assert not returning._promised
