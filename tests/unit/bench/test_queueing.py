"""The model of replicas agrees with queueing theory where theory has an answer, and never answers beyond capacity."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from bench.queueing import (
    Autoscaler,
    Service,
    at_random,
    closed_loop,
    erlang_c,
    growth,
    in_turn,
    open_loop,
    shorter_of_two,
)

CONSTANT = Service(runs_s={1: [0.01]})
BATCHES = Service(runs_s={1: [0.010], 8: [0.024], 32: [0.064]}, request_s=0.0001)


def exponential(mean_s: float) -> Service:
    chance = random.Random(3)
    return Service(runs_s={1: [chance.expovariate(1 / mean_s) for _ in range(20_000)]})


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_without_batches_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    found = open_loop(CONSTANT, replicas=1, load=load, requests=200_000)
    expected_s = 0.01 + load * 0.01 / (2 * (1 - load))  # M/D/1
    assert sum(found.latencies_s) / len(found.latencies_s) == pytest.approx(expected_s, rel=0.05)


def test_exponential_times_at_random_are_as_many_single_queues() -> None:
    found = open_loop(exponential(0.01), replicas=10, load=0.7, requests=200_000)
    assert sum(found.latencies_s) / len(found.latencies_s) == pytest.approx(0.01 / 0.3, rel=0.08)  # M/M/1


@pytest.mark.parametrize(("servers", "load", "waits"), [(1, 0.8, 0.8), (2, 0.75, 9 / 14), (10, 0.8, 0.4092)])
def test_erlangs_formula_gives_the_published_values(servers: int, load: float, waits: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(waits, rel=1e-3)


def test_erlangs_formula_holds_for_a_thousand_servers() -> None:
    assert 0 < erlang_c(1000, 0.98) < erlang_c(1000, 0.99) < 1


def test_choosing_the_shorter_of_two_queues_is_better_than_in_turn_and_that_better_than_chance() -> None:
    p99 = {
        choose.__name__: open_loop(BATCHES, replicas=50, load=0.8, requests=100_000, choose=choose).percentile(0.99)
        for choose in (at_random, in_turn, shorter_of_two)
    }
    assert p99["shorter_of_two"] < p99["at_random"]
    assert p99["in_turn"] < p99["at_random"]


def test_capacity_is_that_of_the_best_batch_and_is_not_exceeded() -> None:
    assert BATCHES.capacity == pytest.approx(32 / (0.064 + 32 * 0.0001))
    found = open_loop(BATCHES, replicas=4, load=1.5, requests=50_000, queue_rows=64)
    assert found.answers_per_s <= 4 * BATCHES.capacity * 1.01
    assert found.refused > 0.25 * 0.8 * 50_000
    assert found.rows_per_batch > 30


def test_a_closed_loop_of_one_caller_never_waits_and_of_many_fills_batches() -> None:
    one = closed_loop(BATCHES, callers=1, requests=1000)
    assert one.percentile(0.5) == pytest.approx(0.0101)
    many = closed_loop(BATCHES, callers=64, requests=20_000)
    assert many.rows_per_batch == pytest.approx(32, rel=0.1)
    assert many.answers_per_s == pytest.approx(BATCHES.capacity, rel=0.05)


def test_costs_besides_are_found_again_from_the_answers_to_one_and_to_many_callers() -> None:
    true = Service(runs_s=BATCHES.runs_s, request_s=0.0003, batch_s=0.002)
    alone = closed_loop(true, callers=1, requests=2000).answers_per_s
    crowded = closed_loop(true, callers=64, requests=40_000).answers_per_s
    found = Service(runs_s=BATCHES.runs_s).fitted(alone, crowded, 64)
    assert found.batch_s == pytest.approx(0.002, rel=0.15)
    assert found.request_s == pytest.approx(0.0003, rel=0.15)
    eight = closed_loop(true, callers=8, requests=20_000).answers_per_s
    assert closed_loop(found, callers=8, requests=20_000).answers_per_s == pytest.approx(eight, rel=0.03)


def test_a_server_that_is_faster_than_its_parts_costs_nothing_besides() -> None:
    found = Service(runs_s=BATCHES.runs_s).fitted(1000.0, 10_000.0, 64)
    assert (found.request_s, found.batch_s) == (0.0, 0.0)


def test_a_time_between_two_measured_sizes_lies_between_their_times() -> None:
    time_s = BATCHES.draw(20, random.Random(0))
    assert 0.024 < time_s - 20 * 0.0001 < 0.064


def test_replicas_double_until_they_carry_a_load_that_rose_at_once() -> None:
    scaler = Autoscaler(target_rows=10, most=1000, ready_s=20)
    moments = list(growth(100.0, lambda _: 64_000.0, scaler, queue_rows=1000, seconds=600))
    assert moments[0].replicas == 1 and moments[0].refused_share > 0.9
    assert all(later.replicas <= 2 * now.replicas for now, later in itertools.pairwise(moments))
    assert 640 <= moments[-1].replicas <= 1000
    assert moments[-1].refused_share == 0


def test_a_load_that_one_replica_carries_starts_no_other() -> None:
    scaler = Autoscaler(target_rows=10, most=1000, ready_s=20)
    assert {one.replicas for one in growth(100.0, lambda _: 90.0, scaler, queue_rows=1000, seconds=200)} == {1}


def test_no_answers_have_no_percentile() -> None:
    from bench.queueing import Outcome

    assert math.isnan(Outcome(latencies_s=(), refused=1, answers_per_s=0.0, rows_per_batch=0.0).percentile(0.5))
