"""Replays the held-out transactions as they happened: `python -m gallery.fraud.stream [--speed N] [--limit N]`."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from gallery.fraud.build import held_out_transactions
from gallery.fraud.stream import money
from gallery.fraud.stream.installation import Installation
from gallery.fraud.stream.money import Known, Tally, tally
from gallery.fraud.stream.replay import CONNECTIONS, Decided, Replay
from gallery.fraud.stream.screen import Screen, comparison, quantiles_ms
from gallery.fraud.stream.simulation import SEED, Payment, simulate
from onward.decide.rules import Rules, load_policy
from onward.package.manifest import load_manifest
from onward.package.repository import Repository
from onward.prepare.profile import Features

_REPOSITORY = Path("var/repository")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="python -m gallery.fraud.stream", description=__doc__)
    parser.add_argument("--speed", type=float, default=0.0, help="times as fast as it happened; 0: as fast as it goes")
    parser.add_argument("--limit", type=int, default=0, help="only the first so many transactions")
    parser.add_argument("--url", default="", help="a server that serves `fraud`; without it one is started, and ended")
    parser.add_argument("--repository", type=Path, default=_REPOSITORY, help="where `fraud` was built")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seed", type=int, default=SEED, help="of the simulation of cards and merchants")
    parser.add_argument("--no-bursts", action="store_true", help="the control: frauds get cards as honest payments do")
    parser.add_argument("--json", type=Path, help="write the report there, too")
    options = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    package = Repository(options.repository).path("fraud")
    rows = held_out_transactions()
    payments = simulate(rows, seed=options.seed, bursts=not options.no_bursts)[: options.limit or None]
    if options.url:
        report = stream(options.url, payments, package, options, console)
    else:
        with Installation(package) as installation:
            report = stream(installation.url, payments, package, options, console)
            report["effects"] = installation.settle(report["actions"])
            console.print(f"payment service: {report['effects']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def stream(
    url: str, payments: list[Payment], package: Path, options: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """Replay against a server, show it, and report."""
    screen, replay = Screen(len(payments)), Replay(url, connections=options.connections, run=uuid.uuid4().hex[:12])
    started_s = time.monotonic()
    if console.is_terminal:
        with Live(screen, console=console, refresh_per_second=8):
            replay.run(payments, speed=options.speed, tell=screen.add)
    else:
        replay.run(payments, speed=options.speed, tell=screen.add)
        console.print(screen)
    elapsed_s = time.monotonic() - started_s
    manifest = load_manifest(package)
    rules, features = load_policy(package, manifest), Features.of(manifest)
    if rules is None or features is None:
        raise SystemExit("error: this `fraud` has no policy or no profile; build it anew: make gallery")
    tallies = compare(screen.decided, rules, features)
    p50, p99 = quantiles_ms([one.latency_s for one in screen.decided])
    past_p50, past_p99 = quantiles_ms([one.past_s for one in screen.decided])
    console.print(comparison(tallies))
    console.print(
        f"{len(payments):,} payments in {elapsed_s:.0f} s ({len(payments) / elapsed_s:,.0f} a second, "
        f"{options.connections} connections); request p50 {p50:.1f} ms, p99 {p99:.1f} ms; "
        f"the past before it p50 {past_p50:.1f} ms, p99 {past_p99:.1f} ms"
    )
    return {
        "seed": options.seed, "bursts": not options.no_bursts, "payments": len(payments), "elapsed_s": elapsed_s,
        "connections": options.connections, "p50_ms": p50, "p99_ms": p99,
        "actions": sum(len(one.actions) for one in screen.decided), "ways": [asdict(one) for one in tallies],
    }  # fmt: skip


def compare(decided: list[Decided], rules: Rules, features: Features) -> list[Tally]:
    """No model; the model with one threshold; the policy without a card's past; and what the server decided."""
    known = [Known(payment=one.payment, probability=one.probability, unusual=one.unusual) for one in decided]
    alone = money.without_past(rules, features)
    return [
        tally("no model", ((one.payment, "approve") for one in known)),
        tally(f"model, declined from {money.THRESHOLD}", ((one.payment, money.by_threshold(one)) for one in known)),
        tally("policy without the card's past", ((one.payment, alone(one)) for one in known)),
        tally("policy, as served", ((one.payment, one.outcome) for one in decided)),
    ]


if __name__ == "__main__":
    main()
