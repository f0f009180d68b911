"""What is counted is what Prometheus reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse

from onward.telemetry import (
    BATCH_BOUNDS,
    DURATION_BOUNDS_S,
    Histogram,
    ModelCollector,
    ModelMetrics,
    StreamCollector,
    StreamMetrics,
)  # fmt: skip


def rendered(*served: ModelMetrics) -> dict[tuple[str, ...], float]:
    """Samples by name and label values, as a scraper reads them."""
    return scraped(ModelCollector(lambda: served))


def scraped(collector: ModelCollector | StreamCollector) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    text = generate_latest(registry).decode()
    labels = ("model", "version", "code", "reason", "le")
    return {
        (one.name, *(one.labels[label] for label in labels if label in one.labels)): one.value
        for family in parse(text)
        for one in family.samples
    }


def test_a_histogram_counts_a_value_in_the_first_bucket_that_holds_it() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 3, 4, 5):
        histogram.observe(value)
    assert histogram.cumulative() == [("1", 2.0), ("2", 4.0), ("4", 6.0), ("+Inf", 7.0)]
    assert histogram.total == 16.5


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_holds_every_value_once(values: list[float]) -> None:
    histogram = Histogram(DURATION_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    for bound, count in histogram.cumulative():
        assert count == sum(value <= float(bound) for value in values)
    assert histogram.total == pytest.approx(sum(values))


def test_every_counter_is_rendered_with_its_model_and_version() -> None:
    metrics = ModelMetrics("mlp", "1.0.0")
    metrics.rows, metrics.queued_rows = 7, 3
    metrics.request_s.observe(0.003)
    metrics.batch_rows.observe(5)
    metrics.fail("QUEUE_FULL")
    metrics.fail("QUEUE_FULL")
    metrics.fail("WRONG_SHAPE")
    metrics.drop("expired")
    metrics.elements, metrics.padding, metrics.wasted_s = 90, 10, 0.25
    samples = rendered(metrics)
    assert samples["onward_batch_elements_total", "mlp", "1.0.0"] == 90
    assert samples["onward_padding_elements_total", "mlp", "1.0.0"] == 10
    assert samples["onward_work_wasted_seconds_total", "mlp", "1.0.0"] == 0.25
    assert samples["onward_rows_total", "mlp", "1.0.0"] == 7
    assert samples["onward_queue_rows", "mlp", "1.0.0"] == 3
    assert samples["onward_request_failures_total", "mlp", "1.0.0", "QUEUE_FULL"] == 2
    assert samples["onward_request_failures_total", "mlp", "1.0.0", "WRONG_SHAPE"] == 1
    assert samples["onward_requests_shed_total", "mlp", "1.0.0", "expired"] == 1
    assert samples["onward_request_duration_seconds_count", "mlp", "1.0.0"] == 1
    assert samples["onward_request_duration_seconds_sum", "mlp", "1.0.0"] == pytest.approx(0.003)
    assert samples["onward_batch_rows_bucket", "mlp", "1.0.0", "4"] == 0
    assert samples["onward_batch_rows_bucket", "mlp", "1.0.0", "8"] == 1
    assert samples["onward_batch_duration_seconds_count", "mlp", "1.0.0"] == 0


def test_models_and_versions_keep_apart() -> None:
    first, second = ModelMetrics("a", "1"), ModelMetrics("a", "2")
    first.rows, second.rows = 1, 2
    samples = rendered(first, second)
    assert samples["onward_rows_total", "a", "1"] == 1 and samples["onward_rows_total", "a", "2"] == 2


def test_a_server_without_models_has_metrics_without_samples() -> None:
    assert rendered() == {}


def test_bounds_ascend() -> None:
    for bounds in (DURATION_BOUNDS_S, BATCH_BOUNDS):
        assert list(bounds) == sorted(set(bounds))


def test_streams_are_counted_by_model_and_version() -> None:
    first, second = StreamMetrics("chat", "1"), StreamMetrics("chat", "2")
    first.prompt_tokens, first.generated_tokens, first.cached_tokens = 12, 34, 5
    first.running, first.queued_tokens = 2, 400
    first.first_s.observe(0.02)
    for gap_s in (0.003, 0.004, 9.0):
        second.token_s.observe(gap_s)
    found = scraped(StreamCollector(lambda: [first, second]))
    of_first = {name: found[f"onward_{name}", "chat", "1"] for name in (
        "prompt_tokens_total", "generated_tokens_total", "cached_tokens_total", "running_streams", "queued_tokens",
    )}  # fmt: skip
    assert list(of_first.values()) == [12, 34, 5, 2, 400]
    assert found["onward_time_to_first_token_seconds_count", "chat", "1"] == 1
    assert found["onward_time_to_first_token_seconds_count", "chat", "2"] == 0
    assert found["onward_time_per_output_token_seconds_count", "chat", "2"] == 3
    assert found["onward_time_per_output_token_seconds_sum", "chat", "2"] == pytest.approx(9.007)
    assert found["onward_time_per_output_token_seconds_bucket", "chat", "2", "0.005"] == 2


def test_nothing_that_streams_is_nothing_counted() -> None:
    assert scraped(StreamCollector(lambda: [])) == {}
