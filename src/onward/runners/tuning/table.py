"""What a person sees of tuning in a terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.runners.tuning.search import Found
from onward.runners.tuning.trial import Trial

_console = Console(highlight=False)


def show_found(found: Found) -> None:
    """The settings that were compared, their curves, and which is taken and why."""
    table = Table("setting", "holds", "in its climbs", "throughput", box=None, padding=(0, 2), header_style="dim")
    for trial in found.finals:
        repeats = trial.held_in_climbs(found.bound_ms)
        spread = f"{min(repeats, default=0):.0f} to {max(repeats, default=0):.0f}/s"
        name = escape(str(trial.setting)) + (" [dim](now)[/]" if trial.setting == found.current else "")
        name = f"[green]{name}[/]" if trial.setting == found.best else name
        table.add_row(name, f"{trial.held_per_s(found.bound_ms):.0f}/s", spread, f"{trial.capacity_per_s:.0f}/s")
    _console.print(table)
    for trial in found.finals:
        _console.print(_curve(trial, found.bound_ms))
    if found.skipped:
        _console.print(f"[yellow]{len(found.skipped)} setting(s) not tried for want of time[/]: --budget-s")
    if found.doubtful:
        _console.print(
            "[yellow]the client itself was late[/]: this machine does other things, or is too small for both"
        )
    if found.best is None:
        return
    if found.best == found.current:
        _console.print("[green]the setting of now stays[/]: no other is better in every climb")
        return
    more = f"holds {found.gain:.0%} more than now" if math.isfinite(found.gain) else "holds, which that of now does not"
    _console.print(f"[green]{escape(str(found.best))}[/]: {more}, in every climb")


def _curve(trial: Trial, bound_ms: float) -> Table:
    names = ("offered/s", "p50 ms", "p99 ms", "good/s", "failed")
    table = Table(*names, box=None, padding=(0, 2), header_style="dim", title=str(trial.setting), title_justify="left")
    for point in trial.curve():
        colour = "green" if point.holds(bound_ms) else "red"
        table.add_row(
            f"{point.offered_per_s:.1f}", f"{point.p50_ms:.2f}", f"[{colour}]{point.p99_ms:.2f}[/]",
            f"{point.goodput_per_s:.1f}", str(point.failures or "") if point.sustained else "falls behind",
        )  # fmt: skip
    return table
