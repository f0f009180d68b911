"""The statistics extension of V2: the counters of `/metrics` in the form that clients of Triton read.

What Onward does not measure as Triton does is told as it is measured: waiting and computing are counted a batch,
waiting being that of its oldest request; reading and writing bodies is not timed, and has no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onward.runners.serve.models import AnyServed, Models
from onward.telemetry import Histogram

_NONE = {"count": 0, "ns": 0}
_NAMES = frozenset({"name", "version", "batch_size"})


def statistics_routes(models: Models) -> list[Route]:
    """`/v2/models/stats`, and of one model or version."""

    async def of_all(request: Request) -> Response:
        return JSONResponse(document(models.all()))

    async def of_one(request: Request) -> Response:
        name, version = request.path_params["name"], request.path_params.get("version", "")
        versions = [version] if version else models.versions(name) or [""]
        return JSONResponse(document(models.get(name, one) for one in versions))

    return [
        Route("/v2/models/stats", of_all, methods=["GET"]),
        Route("/v2/models/{name}/stats", of_one, methods=["GET"]),
        Route("/v2/models/{name}/versions/{version}/stats", of_one, methods=["GET"]),
    ]


def document(served: Iterable[AnyServed]) -> dict[str, Any]:
    """The body of an answer: one entry a version."""
    return {"model_stats": [_of(one) for one in served]}


def added(documents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Several processes' statistics as one: each version once, with the sums."""
    versions: dict[tuple[str, str], Any] = {}
    for document in documents:
        for entry in document["model_stats"]:
            key = (entry["name"], entry["version"])
            versions[key] = _sum(versions[key], entry) if key in versions else entry
    return {"model_stats": list(versions.values())}


def _of(served: AnyServed) -> dict[str, Any]:
    metrics = served.metrics
    failed = sum(metrics.failures.values()) + sum(metrics.shed.values())
    return {
        "name": served.id.name,
        "version": served.id.version,
        "last_inference": metrics.last_run_ms,
        "inference_count": metrics.rows,
        "execution_count": sum(metrics.run_s.counts),
        "inference_stats": {
            "success": _duration(metrics.request_s),
            "fail": {"count": failed, "ns": 0},
            "queue": _duration(metrics.queue_s),
            "compute_input": _NONE,
            "compute_infer": _duration(metrics.run_s),
            "compute_output": _NONE,
            "cache_hit": _NONE,
            "cache_miss": _NONE,
        },
        "batch_stats": [
            {"batch_size": size, "compute_input": _NONE, "compute_infer": {"count": count, "ns": round(total_s * 1e9)},
             "compute_output": _NONE}
            for size, (count, total_s) in sorted(metrics.by_batch.items())
        ],
        "memory_usage": [],
    }  # fmt: skip


def _duration(histogram: Histogram) -> dict[str, int]:
    return {"count": sum(histogram.counts), "ns": round(histogram.total * 1e9)}


def _sum(one: Any, other: Any) -> Any:
    """Numbers are added; the last inference is the later one, and batches of one size are one entry."""
    if isinstance(one, Mapping):
        total = {name: value if name in _NAMES else _sum(value, other[name]) for name, value in one.items()}
        if "last_inference" in total:
            total["last_inference"] = max(one["last_inference"], other["last_inference"])
        return total
    if isinstance(one, list):
        sizes = {entry["batch_size"]: entry for entry in one}
        for entry in other:
            known = sizes.get(entry["batch_size"])
            sizes[entry["batch_size"]] = entry if known is None else _sum(known, entry)
        return [sizes[size] for size in sorted(sizes)]
    return one + other
