"""The tuning pass: tries a peer's settings on every workload, records the figures, and keeps the best."""

from __future__ import annotations

import json
import math
from typing import Any

from bench.answers import WrongAnswerError
from bench.layout import PEERS
from bench.load.wrk import LoadError
from bench.measurement import Record, measure
from bench.peers.contender import Contender, Served, Setting
from bench.processes import StartError
from bench.workloads import Workload


def score_of(workload: Workload, loads: list[Record]) -> float:
    """Higher is better: geometric mean of requests/s over the connections, or 1 / p50 where latency is the aim."""
    if workload.objective == "latency":
        return 1e6 / float(loads[0]["p50_us"])
    return math.exp(sum(math.log(max(load["requests_per_s"], 1e-9)) for load in loads) / len(loads))


def tune(contender: Contender, workload: Workload, served: Served, seconds: int, repeats: int) -> None:
    """Try every setting `repeats` times in turn and write the outcome into the peer's settings.json."""
    tried: list[dict[str, Any]] = [{"setting": setting, "runs": []} for setting in contender.settings(served)]
    for _ in range(repeats):
        for entry in tried:
            outcome = _run(contender, workload, served, entry["setting"], seconds)
            entry["runs"].append(outcome)
            print(f"  {contender.name} {workload.name} {entry['setting']}: {outcome['score']:,.0f}", flush=True)
    for entry in tried:
        entry |= _summary(entry.pop("runs"))
    best = max(tried, key=lambda entry: entry["score"])
    if best["score"] <= 0:
        raise StartError(f"no setting of {contender.name} answered {workload.name}: {best.get('error')}")
    path = PEERS / contender.name / "settings.json"
    kept = json.loads(path.read_text("utf-8")) if path.exists() else {}
    kept[workload.name] = {"objective": workload.objective, "best": best["setting"], "tried": tried}
    path.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


def _run(contender: Contender, workload: Workload, served: Served, setting: Setting, seconds: int) -> dict[str, Any]:
    try:
        records = list(measure(contender, workload, served, setting, seconds=seconds))
    except (StartError, WrongAnswerError, LoadError) as error:
        return {"score": 0.0, "error": str(error)[:300]}
    loads = [record for record in records if record["kind"] == "load"]
    figures = {
        str(load["connections"]): {
            "requests_per_s": round(load["requests_per_s"]),
            "p50_us": round(load["p50_us"]),
            "p99_us": round(load["p99_us"]),
            "errors": load["errors"],
        }
        for load in loads
    }
    return {"score": score_of(workload, loads), "figures": figures}


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Keep a setting's best run: short runs on a shared machine are only ever disturbed downwards."""
    best = max(runs, key=lambda run: float(run["score"]))
    best["score"] = round(best["score"], 1)
    return best
