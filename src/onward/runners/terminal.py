"""What a person sees in a terminal, drawn with rich. Knows nothing of how answers come about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.types import Blob, Result

_console = Console(highlight=False)
_BAR_WIDTH = 24
_SHOWN_NUMBERS = 6


def show_answer(name: str, result: Result, elapsed_s: float) -> None:
    """One answer: label and scores, or named fields, and how long it took."""
    shown = name if len(name) <= 80 else name[:77] + "..."
    identity = f"{result.package.name} {result.package.version}"
    _console.print(f"[bold]{escape(shown)}[/]  [dim]{identity} · {elapsed_s * 1e3:.1f} ms[/]")
    _console.print(answer_table(result.answer))
    if result.decision is not None:
        reasons = ", ".join(result.decision.reasons)
        _console.print(f"  decision [bold]{escape(result.decision.outcome)}[/]  [dim]{escape(reasons)}[/]")


def answer_table(answer: Mapping[str, Any]) -> Table:
    """An answer's fields, with bars where they are scored labels."""
    table = Table.grid(padding=(0, 2))
    scored = {key for key, value in answer.items() if _is_scored(value)}
    covered = {"score"} | {key.removesuffix("s") for key in scored} if scored else set()
    for key, value in answer.items():
        if key in covered:
            continue
        if key in scored:
            for entry in value:
                label = next(part for part_name, part in entry.items() if part_name != "score")
                bar = "█" * max(1, round(entry["score"] * _BAR_WIDTH))
                table.add_row(f"  {escape(str(label))}", f"{entry['score']:.3f}", f"[cyan]{bar}[/]")
        else:
            table.add_row(f"  {escape(key)}", _readable(value))
    return table


def show_package(description: Mapping[str, Any]) -> None:
    """What `onward inspect` shows."""
    package = description["package"]
    _console.print(f"[bold]{package['name']} {package['version']}[/]  [dim]{package['task']}[/]")
    if package["description"]:
        _console.print(escape(package["description"]))
    _console.print(f"[dim]licence[/] {escape(package['licence'] or 'not stated')}   [dim]digest[/] {package['digest']}")
    for part in ("inputs", "outputs"):
        table = Table(title=part, title_justify="left", box=None, padding=(0, 2), header_style="dim")
        for column in ("name", "datatype", "shape", "notes"):
            table.add_column(column)
        for field in description[part]:
            notes = [field.get("units", ""), field.get("description", "")]
            if "minimum" in field or "maximum" in field:
                notes.insert(0, f"{field.get('minimum', '-∞')} to {field.get('maximum', '∞')}")
            if field.get("on_request"):
                notes.append("on request")
            shape = field.get("shape") or []
            table.add_row(field["name"], field["datatype"], str(shape) if shape else "", ", ".join(filter(None, notes)))
        _console.print(table)
    for step, value in description["steps"].items():
        _console.print(f"[dim]{step}[/] {escape(str(value))}")
    for part in ("batching", "limits"):
        _console.print(f"[dim]{part}[/] {escape(str(description[part]))}")


def show_verified(report: Mapping[str, Any]) -> None:
    """What `onward verify` shows when all is well."""
    _console.print(
        f"[green]verified[/] [bold]{report['name']} {report['version']}[/]: every file as locked, "
        f"{report['examples']} golden examples as promised, {report['seconds']} s"
    )
    _console.print(f"[dim]digest[/] {report['digest']}")


def show_packed(report: Mapping[str, Any]) -> None:
    """What `onward pack` shows."""
    _console.print(f"[green]packed[/] [bold]{report['name']} {report['version']}[/] → {escape(report['path'])}")
    _console.print(f"[dim]digest[/] {report['digest']}")


def _is_scored(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "score" in value[0]


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Blob):
        return f"{len(value.data)} bytes of {value.media_type}"
    if isinstance(value, list):
        shown = ", ".join(_readable(element) for element in value[:_SHOWN_NUMBERS])
        return f"[{shown}, … {len(value)} in all]" if len(value) > _SHOWN_NUMBERS else f"[{shown}]"
    if isinstance(value, Mapping):
        strongest = sorted(value.items(), key=lambda pair: -abs(pair[1]) if isinstance(pair[1], float) else 0)
        return ", ".join(f"{key} {_readable(part)}" for key, part in strongest[:_SHOWN_NUMBERS])
    return str(value)
