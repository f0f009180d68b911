"""The alternation: rounds, workloads, and servers one at a time."""

from __future__ import annotations

from collections.abc import Iterator

from bench.answers import WrongAnswerError
from bench.load.wrk import LoadError
from bench.measurement import LIMIT, Record, measure
from bench.peers.contender import Contender, Served, best_setting
from bench.processes import StartError
from bench.workloads import WORKLOADS, Workload, served_by


def run_rounds(contenders: dict[str, Contender], only: list[str] | None, rounds: int, seconds: int) -> Iterator[Record]:
    """Yield every record of every round, each with its `round`; a failure becomes a record too and ends nothing."""
    names = list(contenders)
    chosen = [workload for workload in WORKLOADS if not only or workload.name in only]
    for number in range(rounds):
        turn = number % len(names)
        for workload in chosen:
            served = served_by(workload)
            if served is None:
                if number == 0:
                    print(f"bench: {workload.name} is left out: package {workload.model} is not built", flush=True)
                continue
            for name in names[turn:] + names[:turn]:
                if name == LIMIT and not workload.limit:
                    continue
                for record in _attempts(contenders[name], workload, served, seconds):
                    yield {"round": number + 1, **record}


def _attempts(contender: Contender, workload: Workload, served: Served, seconds: int) -> Iterator[Record]:
    for _ in range(workload.starts):
        setting = best_setting(contender, workload.name, served)
        try:
            yield from measure(contender, workload, served, setting, seconds=seconds)
        except (StartError, WrongAnswerError, LoadError, OSError) as error:
            base = {"workload": workload.name, "contender": contender.name, "setting": setting}
            yield base | {"kind": "failure", "error": str(error)}
