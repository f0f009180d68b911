"""What a person sees of a comparison in a terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.runners.endpoints.report import Comparison, Side

_console = Console(highlight=False)
_FULL = 0.9


def show_comparison(found: Comparison) -> None:
    """Agreement first, since nothing else matters without it; then both sides beside each other."""
    agreement = found.agreement
    colour = "green" if agreement.share >= found.bounds.agreement else "red"
    _console.print(
        f"[{colour}]{agreement.share:.2%} of {agreement.requests} requests answered alike[/]: "
        f"{agreement.equal} equal to the bit, {agreement.within_tolerance} within {found.bounds.tolerance:g}, "
        f"{agreement.refused_by_both} refused by both; {agreement.differing} differ, {agreement.failed} failed; "
        f"numbers by {agreement.largest_difference:.3g} at most"
    )
    for one in agreement.first[:5]:
        by = f" (by {one.difference:.3g})" if one.difference else ""
        _console.print(f"  [red]line {one.line}[/]{escape(one.where)}{by}")
    if found.seconds:
        _console.print(f"[dim]old[/] {escape(found.old.url)}\n[dim]new[/] {escape(found.new.url)}", soft_wrap=True)
        _console.print(_both(found))
        if found.client_share > _FULL:
            _console.print(f"[yellow]this client took {found.client_share:.0%} of a core[/]: it may be the limit")
    for words in found.beyond:
        _console.print(f"[red]beyond bounds[/] {escape(words)}")


def _both(found: Comparison) -> Table:
    old, new = found.old, found.new
    table = Table("", "old", "new", "new / old", box=None, padding=(0, 2), header_style="dim")
    rows: list[tuple[str, Callable[[Side], float | None], str]] = [
        (f"requests/s, {found.together} at a time", lambda side: side.per_s, ".1f"),
        ("p50 ms", lambda side: side.p50_ms, ".3f"),
        ("p95 ms", lambda side: side.p95_ms, ".3f"),
        ("p99 ms", lambda side: side.p99_ms, ".3f"),
        ("CPU s / 1,000", lambda side: side.cpu_s_per_1000, ".3f"),
        ("cost / million", lambda side: side.cost_per_million, ".4g"),
    ]
    for name, value, form in rows:
        one, other = value(old), value(new)
        if one is not None or other is not None:
            ratio = f"{other / one:.2f}" if one and other is not None else ""
            table.add_row(name, *("" if x is None else format(x, form) for x in (one, other)), ratio)
    spread = [f"{min(side.p99_ms_rounds):.3f} to {max(side.p99_ms_rounds):.3f}" for side in (old, new)]
    table.add_row("[dim]p99 of the rounds[/]", *spread, "")
    failed = [", ".join(f"{count} × {status}" for status, count in side.failures.items()) for side in (old, new)]
    table.add_row("failures", *(f"[red]{one}[/]" if one else "none" for one in failed), "")
    return table
