"""The expected time of a batch is learnt from few, follows changes and forgets hitches."""

from __future__ import annotations

import random

import pytest

from onward.execute.pace import Pace


def learnt(*batches: tuple[int, float]) -> Pace:
    pace = Pace()
    for rows, took_s in batches:
        pace.note(rows, took_s)
    return pace


def test_nothing_is_expected_before_anything_was_run() -> None:
    assert Pace().run_s(8) == 0.0
    assert Pace().rows_within(0.0, 8) == 8


def test_batches_of_one_size_are_taken_for_the_time_of_their_rows() -> None:
    assert learnt((4, 0.02), (4, 0.02)).run_s(8) == pytest.approx(0.04)


def test_what_a_batch_and_what_a_row_costs_is_told_apart() -> None:
    chance = random.Random(1)
    sizes = [chance.randint(1, 32) for _ in range(60)]
    pace = learnt(*((rows, (0.002 + 0.0005 * rows) * chance.uniform(0.95, 1.05)) for rows in sizes))
    assert pace.run_s(32) == pytest.approx(0.018, rel=0.1)
    assert pace.run_s(1) == pytest.approx(0.0025, rel=0.35)
    assert pace.rows_within(0.010, 64) in range(13, 19)


def test_a_model_that_has_become_slower_or_quicker_is_followed() -> None:
    pace = learnt(*[(4, 0.02)] * 30, *[(4, 0.04)] * 30)
    assert pace.run_s(4) == pytest.approx(0.04, rel=0.1)
    for _ in range(30):
        pace.note(4, 0.02)
    assert pace.run_s(4) == pytest.approx(0.02, rel=0.1)


def test_a_hitch_is_forgotten_with_the_next_batch() -> None:
    assert learnt((4, 0.02), (4, 30.0), (4, 0.02)).run_s(4) == pytest.approx(0.02)


@pytest.mark.parametrize("batches", [[(1, 0.0)], [(4, 0.0), (2, 1.0)], [(9, 0.1), (1, 0.5), (9, 0.1)]])
def test_no_time_is_below_nothing(batches: list[tuple[int, float]]) -> None:
    pace = learnt(*batches)
    assert pace.batch_s >= 0 and pace.row_s >= 0
    assert all(1 <= pace.rows_within(seconds, 8) <= 8 for seconds in (-1.0, 0.0, 0.1, 1e9))
