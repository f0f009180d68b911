"""What `onward cloud` says when it is done: for a person, or as one line of JSON."""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.markup import escape

from onward.runners.cloud.export import Export

_console = Console(highlight=False)


def show(made: Export, *, as_json: bool) -> None:
    """Print it."""
    deployment, sizing, packages = made.deployment, made.deployment.sizing, made.deployment.packages
    if as_json:
        report = {
            "name": deployment.name, "out": str(made.out), "targets": list(made.notes), "image": deployment.image,
            "packages": [{"name": one.name, "version": one.version, "digest": one.digest} for one in packages],
            "sizing": msgspec.to_builtins(sizing), "memory_bytes": deployment.memory_limit_bytes,
            "queue_metrics": deployment.queue_metrics, "notes": {key: list(value) for key, value in made.notes.items()},
        }  # fmt: skip
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
        return
    _console.print(f"[green]written[/] [bold]{escape(deployment.name)}[/] → {escape(str(made.out))}")
    how = "measured" if sizing.measured else "estimated"
    _console.print(
        f"[dim]a replica ({how})[/] {sizing.peak_bytes >> 20} MiB, ready after {sizing.start_s:g} s; it gets "
        f"{deployment.memory_limit_bytes >> 20} MiB and {deployment.cpus:g} cores"
    )
    for name, rate in sizing.answers_per_s.items():
        _console.print(f"[dim]{escape(name)}[/] {rate:g} answers/s on {sizing.cores} cores here")
    for target, notes in made.notes.items():
        for note in notes:
            _console.print(f"[dim]{target}[/] {escape(note)}")
