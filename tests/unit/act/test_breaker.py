"""The circuit breaker and the wait between tries."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from onward.act.backoff import MAX_RETRY_AFTER_S, Backoff
from onward.act.breaker import Breaker, Circuit


def failed(breaker: Breaker, times: int, now_s: float) -> None:
    for _ in range(times):
        breaker.begin(now_s)
        breaker.failed(now_s)


def test_it_opens_after_failures_in_a_row_and_not_after_as_many_apart() -> None:
    breaker = Breaker(failures=3, rest_s=10.0)
    failed(breaker, 2, 0.0)
    breaker.succeeded()
    failed(breaker, 2, 0.0)
    assert breaker.circuit(0.0) is Circuit.CLOSED
    failed(breaker, 1, 0.0)
    assert breaker.circuit(9.9) is Circuit.OPEN and breaker.room(9.9, 4) == 0


def test_after_its_rest_one_action_may_try_and_its_success_closes_it() -> None:
    breaker = Breaker(failures=1, rest_s=10.0)
    failed(breaker, 1, 0.0)
    assert breaker.room(10.0, 4) == 1
    breaker.begin(10.0)
    assert breaker.room(10.0, 4) == 0
    breaker.succeeded()
    assert breaker.room(10.0, 4) == 4


def test_each_failed_probe_doubles_the_rest_up_to_its_bound() -> None:
    breaker = Breaker(failures=1, rest_s=10.0, longest_rest_s=35.0)
    now_s, rests = 0.0, []
    for _ in range(4):
        failed(breaker, 1, now_s)
        before_s = now_s
        while breaker.circuit(now_s) is Circuit.OPEN:
            now_s += 1.0
        rests.append(now_s - before_s)
    assert rests == [10.0, 20.0, 35.0, 35.0]


def test_a_probe_that_was_not_sent_leaves_the_next_one_its_place() -> None:
    breaker = Breaker(failures=1, rest_s=10.0)
    failed(breaker, 1, 0.0)
    breaker.begin(10.0)
    breaker.abandon()
    assert breaker.room(10.0, 4) == 1


def test_late_failures_of_actions_begun_before_it_opened_do_not_lengthen_the_rest() -> None:
    breaker = Breaker(failures=2, rest_s=10.0)
    failed(breaker, 2, 0.0)
    breaker.failed(1.0)
    breaker.failed(2.0)
    assert breaker.circuit(10.0) is Circuit.HALF_OPEN


@given(st.lists(st.tuples(st.sampled_from(["begin", "ok", "fail", "abandon"]), st.floats(0, 50)), max_size=60))
def test_whatever_happens_it_lets_something_through_again_once_it_has_rested(steps: list[tuple[str, float]]) -> None:
    breaker, now_s = Breaker(failures=2, rest_s=5.0, longest_rest_s=20.0), 0.0
    for what, passed_s in steps:
        now_s += passed_s
        match what:
            case "begin" if breaker.room(now_s, 3):
                breaker.begin(now_s)
            case "ok":
                breaker.succeeded()
            case "fail":
                breaker.failed(now_s)
            case _:
                breaker.abandon()
        assert 0 <= breaker.room(now_s, 3) <= 3
    breaker.abandon()
    assert breaker.room(now_s + 20.0, 3) >= 1


@given(st.integers(1, 10**6), st.integers(), st.floats(allow_nan=False))
def test_the_wait_is_within_its_bounds_for_any_number_of_tries(tries: int, seed: int, retry_after_s: float) -> None:
    delay_s = Backoff(first_s=1.0, longest_s=60.0).delay_s(tries, random.Random(seed), retry_after_s=retry_after_s)
    assert 0.0 <= delay_s <= max(60.0, min(retry_after_s, MAX_RETRY_AFTER_S))
    assert delay_s >= min(retry_after_s, MAX_RETRY_AFTER_S)


def test_the_wait_grows_and_is_spread_over_all_of_it() -> None:
    chance, backoff = random.Random(7), Backoff(first_s=1.0, longest_s=300.0)
    waits = [backoff.delay_s(5, chance) for _ in range(2000)]
    assert 0.0 <= min(waits) < 1.0 and 15.0 < max(waits) <= 16.0
    assert 7.5 < sum(waits) / len(waits) < 8.5
