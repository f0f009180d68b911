"""The counters in the form of V2's statistics, and the sums of several processes'."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from onward.runners.serve.models import AnyServed
from onward.runners.serve.statistics import added, document
from onward.telemetry import ModelMetrics


def served(name: str, batches: list[tuple[int, float]], failures: int = 0) -> AnyServed:
    metrics = ModelMetrics(name, "1")
    for rows, run_s in batches:
        metrics.rows += rows
        metrics.queue_s.observe(0.001)
        metrics.ran(rows, run_s)
        for _ in range(rows):
            metrics.request_s.observe(0.01)
    for _ in range(failures):
        metrics.fail("MALFORMED_BODY")
    return cast(AnyServed, SimpleNamespace(id=SimpleNamespace(name=name, version="1"), metrics=metrics))


def only(body: dict[str, Any]) -> dict[str, Any]:
    (entry,) = body["model_stats"]
    return cast(dict[str, Any], entry)


def test_counts_and_times_are_those_of_the_batches() -> None:
    told = only(document([served("a", [(4, 0.5), (1, 0.25), (4, 0.25)], failures=2)]))
    assert (told["name"], told["version"]) == ("a", "1")
    assert told["inference_count"] == 9 and told["execution_count"] == 3
    assert told["inference_stats"]["success"]["count"] == 9
    assert told["inference_stats"]["fail"]["count"] == 2
    assert told["inference_stats"]["queue"] == {"count": 3, "ns": 3_000_000}
    assert told["inference_stats"]["compute_infer"] == {"count": 3, "ns": 1_000_000_000}
    assert [(one["batch_size"], one["compute_infer"]) for one in told["batch_stats"]] == [
        (1, {"count": 1, "ns": 250_000_000}), (4, {"count": 2, "ns": 750_000_000}),
    ]  # fmt: skip
    assert told["last_inference"] > 1_700_000_000_000


def test_what_has_never_run_has_no_time() -> None:
    told = only(document([served("a", [])]))
    assert told["last_inference"] == told["inference_count"] == 0 and told["batch_stats"] == []


def test_processes_are_added_up_version_by_version() -> None:
    first = document([served("a", [(4, 0.5)]), served("b", [(1, 0.1)])])
    second = document([served("a", [(4, 1), (2, 1)])])
    first["model_stats"][0]["last_inference"], second["model_stats"][0]["last_inference"] = 7, 5
    told = added([first, second])
    assert [entry["name"] for entry in told["model_stats"]] == ["a", "b"]
    both = told["model_stats"][0]
    assert both["inference_count"] == 10 and both["last_inference"] == 7
    assert both["inference_stats"]["compute_infer"] == {"count": 3, "ns": 2_500_000_000}
    assert [(one["batch_size"], one["compute_infer"]["count"]) for one in both["batch_stats"]] == [(2, 1), (4, 2)]
