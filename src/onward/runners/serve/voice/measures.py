"""What a voice assistant has done, counted for Prometheus: how long each stage took, sessions, turns, interruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from onward.telemetry import Histogram

STAGE_BOUNDS_S = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0, 3.0, 5.0, 10.0)


class VoiceMeasures:
    """The counters of one assistant version."""

    __slots__ = ("interruptions", "name", "sessions", "stages", "turns", "version")

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version
        self.sessions = 0
        self.turns = 0
        self.interruptions = 0
        self.stages: dict[str, Histogram] = {}

    def observe(self, timings: Mapping[str, float]) -> None:
        """Count the stages of one turn, given in milliseconds as `{stage}_ms`."""
        for name, duration_ms in timings.items():
            stage = self.stages.setdefault(name.removesuffix("_ms"), Histogram(STAGE_BOUNDS_S))
            stage.observe(duration_ms / 1000)


class VoiceCollector(Collector):
    """Renders the counters in Prometheus' text format."""

    def __init__(self, measures: Callable[[], Iterable[VoiceMeasures]]) -> None:
        self._measures = measures

    def describe(self) -> list[HistogramMetricFamily]:
        """Nothing fixed: the families depend on who has been talked with."""
        return []

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """One family a metric, one sample an assistant and stage."""
        labels = ["model", "version"]
        stages = HistogramMetricFamily(
            "onward_voice_stage_duration_seconds", "Stages of a spoken turn, from the end of speech to the first sound",
            labels=[*labels, "stage"],
        )  # fmt: skip
        sessions = GaugeMetricFamily("onward_voice_sessions", "Voice sessions now", labels=labels)
        turns = CounterMetricFamily("onward_voice_turns", "Utterances that were answered", labels=labels)
        interruptions = CounterMetricFamily("onward_voice_interruptions", "Replies that were stopped", labels=labels)
        for one in self._measures():
            named = [one.name, one.version]
            for stage, histogram in one.stages.items():
                stages.add_metric([*named, stage], histogram.cumulative(), histogram.total)
            sessions.add_metric(named, one.sessions)
            turns.add_metric(named, one.turns)
            interruptions.add_metric(named, one.interruptions)
        yield from (stages, sessions, turns, interruptions)
