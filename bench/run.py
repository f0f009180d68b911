"""`python -m bench.run`: measures Onward and its peers side by side and writes what was seen.

In every round, every workload, one server at a time, freshly started; the order of the servers moves on by one a
round, so that none always runs first. Installs what it needs and re-executes itself in the bench's own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from bench.environments import InstallError, ensure_environment, ensure_wrk
from bench.layout import RESULTS, ROOT, VAR, VENVS


def main() -> int:
    """Parse, install, measure, write."""
    options = parse(sys.argv[1:])
    try:
        python = ensure_environment("driver")
        ensure_wrk()
    except InstallError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if Path(sys.prefix).resolve() != (VENVS / "driver").resolve():
        os.chdir(ROOT)
        os.execv(python, [str(python), "-m", "bench.run", *sys.argv[1:]])
    return tune(options) if options.tune else run(options)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these (default: all, and the limit)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="length of one timed run")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, kept under var/bench/quick only")
    parser.add_argument("--tune", nargs="+", metavar="PEER", help="try these peers' settings and keep the best")
    parser.add_argument("--repeats", type=int, default=1, help="how often a tuning pass tries each setting")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds = 1, 2
    return options


def run(options: argparse.Namespace) -> int:
    """Measure in alternating rounds; return 1 where a server failed to start, to answer right, or at all."""
    from bench import machine
    from bench.contenders import CONTENDERS
    from bench.peers.limit.contender import Limit
    from bench.report import Report
    from bench.rounds import run_rounds

    contenders = {**CONTENDERS, "limit": Limit()}
    chosen = {name: one for name, one in contenders.items() if not options.contenders or name in options.contenders}
    for contender in chosen.values():
        contender.install()
    folder = VAR / "quick" / time.strftime("%Y-%m-%d-%H%M%S") if options.quick else _dated(RESULTS)
    how = f"{options.rounds} alternating rounds of {options.seconds} s, medians; wrk, one thread, closed loop."
    report = Report(folder, machine.facts(), {name: one.version() for name, one in chosen.items()}, how)
    started = time.perf_counter()
    for record in run_rounds(chosen, options.workloads, options.rounds, options.seconds):
        report.add(record)
    report.write()
    print(f"bench: {time.perf_counter() - started:.0f} s, written to {folder.relative_to(ROOT)}")
    return 1 if report.failed else 0


def tune(options: argparse.Namespace) -> int:
    """Try every setting of the named peers on the chosen workloads."""
    from bench.contenders import CONTENDERS
    from bench.peers.limit.contender import Limit
    from bench.tuning import tune as tune_one
    from bench.workloads import WORKLOADS, served_by

    contenders = {**CONTENDERS, "limit": Limit()}
    for name in options.tune:
        contenders[name].install()
        for workload in WORKLOADS:
            if (options.workloads and workload.name not in options.workloads) or not workload.connections:
                continue
            served = served_by(workload)
            if served is None or (name == "limit" and not workload.limit):
                continue
            tune_one(contenders[name], workload, served, options.seconds, options.repeats)
    print(json.dumps({"tuned": options.tune}))
    return 0


def _dated(parent: Path) -> Path:
    """Return a folder named after today that does not exist yet."""
    today = time.strftime("%Y-%m-%d")
    candidates = [parent / today, *[parent / f"{today}-{count}" for count in range(2, 100)]]
    return next(path for path in candidates if not path.exists())


if __name__ == "__main__":
    sys.exit(main())
