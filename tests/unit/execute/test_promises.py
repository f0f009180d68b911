"""Those who are turned away come back one behind the other, and a place is not kept for ever."""

from __future__ import annotations

import pytest

from onward.execute.promises import FARTHEST_S, LATE_S, Promises


def given(promises: Promises, count: int, *, now_s: float = 100.0, free_in_s: float = 1.0) -> list[float]:
    return [promises.give(now_s, rows=1, free_in_s=free_in_s, row_s=0.1) for _ in range(count)]


def test_times_lie_a_little_further_apart_than_the_queue_takes_for_a_row() -> None:
    promises = Promises()
    assert given(promises, 4) == pytest.approx([1.0, 1.11, 1.22, 1.33])
    assert promises.give(100.0, rows=5, free_in_s=1.0, row_s=0.1) == pytest.approx(1.88)
    assert promises.rows == 9


def test_nobody_is_sent_away_for_longer_than_half_a_minute_by_others() -> None:
    promises = Promises()
    assert max(given(promises, 1000)) == FARTHEST_S
    assert given(promises, 1, free_in_s=50.0) == [50.0]


def test_who_comes_back_gives_the_place_up_and_so_does_who_is_late() -> None:
    promises = Promises()
    given(promises, 10)
    promises.redeem(4)
    assert promises.rows == 6
    promises.lapse(101.0 + LATE_S)
    assert promises.rows == 6
    promises.lapse(102.1 + LATE_S)
    assert promises.rows == 0
    promises.redeem(3)  # later than late
    assert promises.rows == 0


def test_room_is_kept_for_those_only_that_lacked_room() -> None:
    promises = Promises()
    promises.give(100.0, rows=3, free_in_s=1.0, row_s=0.001)
    promises.give(100.0, rows=5, free_in_s=1.0, row_s=0.001, keeps_room=False)
    assert (promises.kept, promises.kept_room) == (8, 3)
    promises.redeem(2)
    assert (promises.kept, promises.kept_room) == (6, 1)
    promises.lapse(101.1 + LATE_S)
    assert (promises.rows, promises.kept, promises.kept_room) == (0, 0, 0)


def test_where_nobody_comes_back_times_come_closer_and_where_they_do_they_part_again() -> None:
    promises = Promises()
    for second in range(30):
        promises.lapse(100.0 + second)
        given(promises, 10, now_s=100.0 + second)
    crowded = given(promises, 2, now_s=130.0)
    assert crowded[1] - crowded[0] < 0.03
    for _ in range(200):
        given(promises, 1, now_s=131.0)
        promises.redeem(1)
    wide = given(promises, 2, now_s=131.0)
    assert wide[1] - wide[0] > 0.09


def test_a_crowd_of_promises_costs_little_memory() -> None:
    promises = Promises()
    for number in range(50_000):
        promises.give(100.0 + number / 10_000, rows=1, free_in_s=0.5, row_s=0.001)
    assert promises.rows == 50_000
    assert len(promises._buckets) < 2 * (FARTHEST_S + LATE_S) / 0.05
