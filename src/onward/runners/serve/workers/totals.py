"""The metrics of several processes as one page: counters and histograms added up over all workers there have been,
gauges over those that live.

A counter never goes down because a worker died: what it had counted when it was last heard of stays in the sum.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from onward.runners.serve.workers.crew import Crew
from onward.runners.serve.workers.frames import Family, Measure, Measured

_GAUGE = "gauge"
_ANSWER_S = 5.0
_SUPERVISOR = 0


def families_of(registry: CollectorRegistry) -> tuple[Family, ...]:
    """What a process has counted."""
    return tuple(_family(metric) for metric in registry.collect())


def _family(metric: Metric) -> Family:
    samples = ((sample.name, tuple(sample.labels.items()), float(sample.value)) for sample in metric.samples)
    return Family(metric.name, metric.type, metric.documentation, tuple(samples))


def _of_crew(crew: Crew) -> tuple[Family, ...]:
    fit = [member for member in crew.up() if member.is_fit]
    return (
        _family(GaugeMetricFamily("onward_workers", "Processes that share the port for inference", value=crew.size)),
        _family(GaugeMetricFamily("onward_workers_ready", "Those of them that serve all they should", value=len(fit))),
        _family(CounterMetricFamily("onward_workers_replaced", "Workers that ended", value=crew.replaced)),
    )


class Totals(Collector):
    """The sums, rendered for Prometheus. `update` with what a worker tells, `retire` when it has ended."""

    def __init__(self, own: CollectorRegistry, refresh: Callable[[], Awaitable[None]]) -> None:
        """`own` is what the supervisor itself counts, once it has been refreshed."""
        self._own = own
        self._refresh = refresh
        self._latest: dict[int, tuple[Family, ...]] = {}
        self._gone: tuple[Family, ...] = ()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def page(self, crew: Crew) -> bytes:
        """All counters as they stand now; of a worker that does not answer, as it told them last."""
        for member, measured in await crew.ask_all(Measure(), timeout_s=_ANSWER_S):
            if isinstance(measured, Measured) and crew.members[member.slot] is member:
                self.update(member.number, measured.families)
        await self._refresh()
        self.update(_SUPERVISOR, families_of(self._own) + _of_crew(crew))
        return generate_latest(self._registry)

    def update(self, worker: int, families: tuple[Family, ...]) -> None:
        """What a worker has counted by now; `worker` is a number that no other one has, before or after it."""
        self._latest[worker] = families

    def retire(self, worker: int) -> None:
        """A worker has ended: what it counted stays, its gauges do not."""
        last = self._latest.pop(worker, ())
        self._gone = tuple(added([self._gone, tuple(family for family in last if family.kind != _GAUGE)]))

    def describe(self) -> list[Metric]:
        """Nothing fixed: it depends on what is served."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family a metric."""
        for family in added([self._gone, *self._latest.values()]):
            metric = Metric(family.name, family.text, family.kind)
            for name, labels, value in family.samples:
                metric.add_sample(name, dict(labels), value)
            yield metric


def added(workers: Iterable[tuple[Family, ...]]) -> list[Family]:
    """Families of the same name as one, samples of the same name and labels added up."""
    heads: dict[str, Family] = {}
    sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for families in workers:
        for family in families:
            heads.setdefault(family.name, family)
            of_family = sums.setdefault(family.name, {})
            for name, labels, value in family.samples:
                of_family[name, labels] = of_family.get((name, labels), 0.0) + value
    return [
        Family(name, head.kind, head.text, tuple((*sample, value) for sample, value in sums[name].items()))
        for name, head in heads.items()
    ]
