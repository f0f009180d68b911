"""What a served model has done, counted cheaply on the hot path and rendered for Prometheus when scraped.

A few integer additions a request; no locks, since only the event loop writes. Knows nothing of HTTP.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

# Upper bounds in seconds, from an inline forward pass to a slow document.
DURATION_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts by upper bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' form: (upper bound, number of values up to it)."""
        buckets, seen = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            buckets.append((bound, float(seen)))
        return buckets


class ModelMetrics:
    """The counters of one model version."""

    __slots__ = (
        "batch_rows", "by_batch", "elements", "failures", "last_run_ms", "name", "padding", "queue_s", "queued_rows",
        "request_s", "rows", "run_s", "shed", "stage_s", "version", "wasted_s",
    )  # fmt: skip

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.request_s = Histogram(DURATION_BOUNDS_S)
        self.queue_s = Histogram(DURATION_BOUNDS_S)
        self.run_s = Histogram(DURATION_BOUNDS_S)
        self.batch_rows = Histogram(BATCH_BOUNDS)
        self.rows = 0
        self.elements = self.padding = 0
        self.wasted_s = 0.0
        self.queued_rows = 0
        # Of each size of batch, how many have run and how long together; when the last one ended, as a Unix time.
        self.by_batch: dict[int, tuple[int, float]] = {}
        self.last_run_ms = 0
        self.failures: dict[str, int] = {}
        self.shed: dict[str, int] = {}
        self.stage_s: dict[str, Histogram] = {}

    def stage(self, name: str, duration_s: float) -> None:
        """Count how long a stage of a package of stages took."""
        if name not in self.stage_s:
            self.stage_s[name] = Histogram(DURATION_BOUNDS_S)
        self.stage_s[name].observe(duration_s)

    def ran(self, rows: int, run_s: float) -> None:
        """Count a batch."""
        self.run_s.observe(run_s)
        self.batch_rows.observe(rows)
        count, total_s = self.by_batch.get(rows, (0, 0.0))
        self.by_batch[rows] = (count + 1, total_s + run_s)
        self.last_run_ms = int(time.time() * 1000)

    def fail(self, code: str) -> None:
        """Count a request that got an error."""
        self.failures[code] = self.failures.get(code, 0) + 1

    def drop(self, reason: str) -> None:
        """Count a request that was dropped before it was computed."""
        self.shed[reason] = self.shed.get(reason, 0) + 1


class StreamMetrics:
    """The counters of one model version that streams: tokens, or pieces of speech."""

    __slots__ = (
        "cached_tokens", "first_s", "generated_tokens", "name", "prompt_tokens", "queued_tokens", "running", "token_s",
        "version",
    )  # fmt: skip

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.first_s = Histogram(DURATION_BOUNDS_S)
        self.token_s = Histogram(DURATION_BOUNDS_S)
        self.prompt_tokens = self.generated_tokens = self.cached_tokens = 0
        self.running = 0
        self.queued_tokens = 0


class DecisionMetrics:
    """The decisions of one model version's policy."""

    __slots__ = ("commit_s", "decisions", "name", "version")

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.decisions: dict[tuple[str, str], int] = {}
        self.commit_s = Histogram(DURATION_BOUNDS_S)

    def count(self, outcome: str, failure: str) -> None:
        """Count a decision; `failure` says why it was made without an answer of the model ("": with one)."""
        key = (outcome, failure)
        self.decisions[key] = self.decisions.get(key, 0) + 1


class ServedMetrics(Protocol):
    """Where the collector finds the counters at the time of a scrape."""

    def __call__(self) -> Iterable[ModelMetrics]:
        """All counters, of models served now."""
        ...


class ModelCollector(Collector):
    """Renders the counters in Prometheus' text format through `prometheus_client`."""

    def __init__(self, served: ServedMetrics) -> None:
        self._served = served

    def describe(self) -> list[HistogramMetricFamily]:
        """Nothing fixed: the families depend on what is served."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """One family a metric, one sample a model version."""
        served = list(self._served())
        labels = ["model", "version"]
        histograms = {
            "request_s": ("onward_request_duration_seconds", "From the whole request read to the answer written"),
            "queue_s": ("onward_queue_duration_seconds", "Waiting of the oldest request of each batch"),
            "run_s": ("onward_batch_duration_seconds", "Forward passes"),
            "batch_rows": ("onward_batch_rows", "Rows run together"),
        }
        for attribute, (name, text) in histograms.items():
            family = HistogramMetricFamily(name, text, labels=labels)
            for model in served:
                histogram: Histogram = getattr(model, attribute)
                family.add_metric([model.name, model.version], histogram.cumulative(), histogram.total)
            yield family
        rows = CounterMetricFamily("onward_rows", "Rows answered", labels=labels)
        elements = CounterMetricFamily(
            "onward_batch_elements",
            "Positions of requests' rows (rows, where shapes are fixed) computed",
            labels=labels,
        )
        padding = CounterMetricFamily("onward_padding_elements", "The same that only fill batches up", labels=labels)
        wasted = CounterMetricFamily(
            "onward_work_wasted_seconds", "Forward passes' time for rows that nobody waited for any more", labels=labels
        )
        queued = GaugeMetricFamily("onward_queue_rows", "Rows waiting for a forward pass", labels=labels)
        failures = CounterMetricFamily("onward_request_failures", "Requests with an error", labels=[*labels, "code"])
        shed = CounterMetricFamily("onward_requests_shed", "Requests never computed", labels=[*labels, "reason"])
        stages = HistogramMetricFamily(
            "onward_stage_duration_seconds", "Stages of packages made of others", labels=[*labels, "stage"]
        )
        for model in served:
            for stage, durations in model.stage_s.items():
                stages.add_metric([model.name, model.version, stage], durations.cumulative(), durations.total)
            rows.add_metric([model.name, model.version], model.rows)
            elements.add_metric([model.name, model.version], model.elements)
            padding.add_metric([model.name, model.version], model.padding)
            wasted.add_metric([model.name, model.version], model.wasted_s)
            queued.add_metric([model.name, model.version], model.queued_rows)
            for code, count in model.failures.items():
                failures.add_metric([model.name, model.version, code], count)
            for reason, count in model.shed.items():
                shed.add_metric([model.name, model.version, reason], count)
        yield stages
        yield rows
        yield elements
        yield padding
        yield wasted
        yield queued
        yield failures
        yield shed


class StreamCollector(Collector):
    """Renders the counters of what streams."""

    def __init__(self, streamed: Callable[[], Iterable[StreamMetrics]]) -> None:
        self._streamed = streamed

    def describe(self) -> list[CounterMetricFamily]:
        """Nothing fixed: the families depend on what is served."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """One family a metric, one sample a model version."""
        streamed = list(self._streamed())
        labels = ["model", "version"]
        for attribute, name, text in (
            ("first_s", "onward_time_to_first_token_seconds", "From a stream's admission to its first piece"),
            ("token_s", "onward_time_per_output_token_seconds", "Between two pieces of a stream"),
        ):
            histograms = HistogramMetricFamily(name, text, labels=labels)
            for model in streamed:
                histogram: Histogram = getattr(model, attribute)
                histograms.add_metric([model.name, model.version], histogram.cumulative(), histogram.total)
            yield histograms
        for attribute, text in (
            ("prompt_tokens", "Tokens read"),
            ("generated_tokens", "Tokens written"),
            ("cached_tokens", "Tokens read of which the engine knew the outcome already"),
        ):
            counters = CounterMetricFamily(f"onward_{attribute}", text, labels=labels)
            for model in streamed:
                counters.add_metric([model.name, model.version], getattr(model, attribute))
            yield counters
        for attribute, name, text in (
            ("running", "onward_running_streams", "Streams that the engine works at"),
            ("queued_tokens", "onward_queued_tokens", "Tokens of all streams, running or waiting"),
        ):
            gauges = GaugeMetricFamily(name, text, labels=labels)
            for model in streamed:
                gauges.add_metric([model.name, model.version], getattr(model, attribute))
            yield gauges


class Backlog(NamedTuple):
    """The outbox at one moment: actions by state, and how long the one that is longest due has been waiting."""

    states: Mapping[str, int]
    oldest_s: float


class DecisionCollector(Collector):
    """Renders what policies decided, and the outbox where it is known."""

    def __init__(self, decided: Callable[[], Iterable[DecisionMetrics]], backlog: Callable[[], Backlog | None]) -> None:
        self._decided = decided
        self._backlog = backlog

    def describe(self) -> list[CounterMetricFamily]:
        """Nothing fixed: without a policy there is nothing to tell."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """Decisions and commits a model version; actions by state for the whole store."""
        labels = ["model", "version"]
        decisions = CounterMetricFamily(
            "onward_decisions", "Decisions recorded", labels=[*labels, "outcome", "failure"]
        )
        commits = HistogramMetricFamily(
            "onward_decision_commit_duration_seconds", "From an answer to its durable decision", labels=labels
        )
        for policy in self._decided():
            for (outcome, failure), count in policy.decisions.items():
                decisions.add_metric([policy.name, policy.version, outcome, failure], count)
            commits.add_metric([policy.name, policy.version], policy.commit_s.cumulative(), policy.commit_s.total)
        yield decisions
        yield commits
        backlog = self._backlog()
        actions = GaugeMetricFamily("onward_outbox_actions", "Actions that are not at an end", labels=["state"])
        oldest = GaugeMetricFamily("onward_outbox_oldest_seconds", "How long the action longest due has been waiting")
        if backlog is not None:
            for state, count in backlog.states.items():
                actions.add_metric([state], count)
            oldest.add_metric([], backlog.oldest_s)
        yield actions
        yield oldest
