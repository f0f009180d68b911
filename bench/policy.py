"""What a policy of 20 rules costs a request: `decide()` alone, on the facts of the bench of decisions.

    python -m bench.policy [--repeats 200] [--output FILE]

Each figure is of loops of 500 decisions; the best and the median of the repeats, in µs a decision.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import deciding, machine
from onward.decide.policy import Facts
from onward.decide.rules import Rules, load_policy
from onward.package.manifest import load_manifest

LOOP = 500


def main() -> None:
    """Measure, print, and write the figures where told to."""
    parser = argparse.ArgumentParser(prog="python -m bench.policy", description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onward-bench-") as place:
        package = deciding.write_repository(Path(place)) / deciding.NAME / "1.0.0"
        rules = load_policy(package, load_manifest(package))
    assert rules is not None
    found: dict[str, Any] = {"machine": machine.facts(), "rules": deciding.RULES, "repeats": options.repeats}
    for name, number, outcome in (("no rule fires", 0, "approve"), ("the last rule fires and acts", 15, "decline")):
        facts = _facts(number)
        if rules.decide(facts).outcome != outcome:
            raise SystemExit(f"{name}: {rules.decide(facts)}")
        found[name] = _cost_us(rules, facts, options.repeats)
        print(f"{name:<32} best {found[name]['best_us']:.1f} µs, median {found[name]['median_us']:.1f} µs", flush=True)
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(found, indent=2) + "\n")


def _facts(number: int) -> Facts:
    """A request's input and what the model (y = 2x + 1) says of it."""
    sent = deciding.request(number)
    answer = {"y": [2 * value + 1 for value in sent["x"]]}
    return Facts(answer=answer, input=sent, profile={}, now_s=time.time(), recent={}, failure="")


def _cost_us(rules: Rules, facts: Facts, repeats: int) -> dict[str, float]:
    taken_us = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(LOOP):
            rules.decide(facts)
        taken_us.append((time.perf_counter() - started) / LOOP * 1e6)
    return {"best_us": min(taken_us), "median_us": statistics.median(taken_us)}


if __name__ == "__main__":
    main()
