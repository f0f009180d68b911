"""Counters are added up and never go back; gauges are those of the living."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from onward.runners.serve.workers.frames import Family
from onward.runners.serve.workers.totals import Totals, families_of


class Counted(Collector):
    def __init__(self, model: str, count: int, waiting: int) -> None:
        self.model, self.count, self.waiting = model, count, waiting

    def collect(self) -> Iterator[Metric]:
        rows = CounterMetricFamily("rows", "Rows", labels=["model"])
        rows.add_metric([self.model], self.count)
        queue = GaugeMetricFamily("queue", "Waiting", labels=["model"])
        queue.add_metric([self.model], self.waiting)
        times = HistogramMetricFamily("times", "Times", labels=["model"])
        times.add_metric([self.model], [("0.1", self.count), ("+Inf", self.count + 1)], sum_value=0.5)
        yield from (rows, queue, times)


def told(model: str, count: int, waiting: int = 0) -> tuple[Family, ...]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counted(model, count, waiting))
    return families_of(registry)


def page(totals: Totals) -> list[str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(totals)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


async def nothing() -> None:
    return None


def totals() -> Totals:
    return Totals(CollectorRegistry(auto_describe=False), nothing)


def test_counters_histograms_and_gauges_of_the_living_are_added_up() -> None:
    both = totals()
    both.update(1, told("a", 3, 2))
    both.update(2, told("a", 4, 5))
    both.update(2, told("a", 6, 1))
    both.update(3, told("b", 1))
    assert page(both) == [
        'rows_total{model="a"} 9.0', 'rows_total{model="b"} 1.0',
        'queue{model="a"} 3.0', 'queue{model="b"} 0.0',
        'times_bucket{le="0.1",model="a"} 9.0', 'times_bucket{le="+Inf",model="a"} 11.0',
        'times_count{model="a"} 11.0', 'times_sum{model="a"} 1.0',
        'times_bucket{le="0.1",model="b"} 1.0', 'times_bucket{le="+Inf",model="b"} 2.0',
        'times_count{model="b"} 2.0', 'times_sum{model="b"} 0.5',
    ]  # fmt: skip


def test_what_a_dead_worker_had_counted_stays_and_what_waited_for_it_does_not() -> None:
    both = totals()
    both.update(1, told("a", 3, 2))
    both.update(2, told("a", 4, 5))
    both.retire(1)
    both.retire(1)
    both.update(3, told("a", 1, 0))
    assert {'rows_total{model="a"} 8.0', 'queue{model="a"} 5.0'} < {*page(both)}
    both.retire(2)
    both.retire(3)
    lines = page(both)
    assert 'rows_total{model="a"} 8.0' in lines and not [line for line in lines if line.startswith("queue")]
