"""What a person sees in a terminal, drawn with rich. Knows nothing of how answers come about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.types import Blob, Event, Result

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


def show_stream(name: str, events: Iterator[Event], started_s: float) -> None:
    """An answer as it is written, word by word; then what else it holds, and how long it took."""
    _console.print(f"[bold]{escape(_shortened(name))}[/]")
    said = ""
    first_s = 0.0
    for event in events:
        if event.kind == "delta" and event.text:
            first_s = first_s or time.perf_counter() - started_s
            said += event.text
            _console.out(event.text, end="", highlight=False)
        elif event.kind == "notice":
            _console.print(f"[dim]{escape(event.text)}[/]")
        elif event.result is not None:
            _console.print()
            rest = {key: value for key, value in event.result.answer.items() if value != said.strip() and value != said}
            if rest:
                _console.print(answer_table(rest))
            package = event.result.package
            times = f"first word {first_s * 1e3:.0f} ms, all {(time.perf_counter() - started_s) * 1e3:.0f} ms"
            _console.print(f"[dim]{package.name} {package.version} · {times}[/]")


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
                label = next((part for part_name, part in entry.items() if part_name not in ("score", "id")), "")
                table.add_row(f"  {escape(str(label))}", f"{entry['score']:.3f}", _beside(entry))
        else:
            table.add_row(f"  {escape(key)}", escape(_readable(value)))
    return table


def show_package(description: Mapping[str, Any]) -> None:
    """What `onward inspect` shows."""
    package = description["package"]
    _console.print(f"[bold]{package['name']} {package['version']}[/]  [dim]{package['task']}[/]")
    if package.get("description"):
        _console.print(escape(package["description"]))
    _console.print(f"[dim]licence[/]  {escape(package['licence'] or 'not stated')}")
    _console.print(f"[dim]digest[/]   {package['digest']}")
    for part in ("inputs", "outputs"):
        table = Table(title=part, title_justify="left", box=None, padding=(0, 2), header_style="dim")
        for column in ("name", "datatype", "shape", "notes"):
            table.add_column(column)
        for field in description[part]:
            shape = field.get("shape") or []
            notes = " · ".join(filter(None, _notes(field)))
            table.add_row(field["name"], field["datatype"], str(list(shape)) if shape else "", escape(notes))
        _console.print(table)
    steps = Table(title="steps", title_justify="left", box=None, padding=(0, 2), show_header=False)
    for part, value in description["steps"].items():
        for step in value if isinstance(value, list) else [value]:
            steps.add_row(f"[dim]{part}[/]", escape(step_line(step)))
    for part in ("batching", "limits"):
        steps.add_row(f"[dim]{part}[/]", escape(_pairs(description[part])))
    _console.print(steps)
    if "policy" in description:
        _show_policy(description["policy"])


def _show_policy(policy: Mapping[str, Any]) -> None:
    """What a policy decides, first rule first, and from which probability on each outcome is the cheapest."""
    title = f"policy {policy['name']} {policy['version']}"
    table = Table(title=escape(title), title_justify="left", box=None, padding=(0, 2), header_style="dim")
    for column in ("rule", "when", "outcome", "reasons", "actions"):
        table.add_column(column)
    for rule in policy["rules"]:
        cells = (rule["name"], rule["when"], rule["outcome"], ", ".join(rule["reasons"]), ", ".join(rule["actions"]))
        table.add_row(*map(escape, cells))
    for name in ("default", "fallback"):
        verdict = policy[name]
        table.add_row(f"[dim]{name}[/]", "", escape(verdict["outcome"]), escape(", ".join(verdict["reasons"])), "")
    _console.print(table)
    if policy["thresholds"]:
        ranges = (f"{one['outcome']} from {one['from']:.4g}" for one in policy["thresholds"])
        _console.print(f"[dim]cheapest[/]  {escape(' · '.join(ranges))}")
    for cap in policy["caps"]:
        limit = f"{cap['outcome']}: at most {cap['at_most']} in {cap['per_s']:g} s, then {cap['otherwise']}"
        _console.print(f"[dim]cap[/]  {escape(limit)}")
    for action in policy["actions"]:
        arguments = ", ".join(f"{name}: {kind}" for name, kind in action["arguments"].items())
        approval = f" · a person approves when {action['approval']}" if action["approval"] else ""
        line = f"{action['name']}({arguments}){approval}"
        _console.print(f"[dim]action[/]  {escape(line)}")


def _notes(field: Mapping[str, Any]) -> list[str]:
    content = field.get("content", "value")
    notes = ["" if content == "value" else content]
    if "minimum" in field or "maximum" in field:
        notes.append(f"{field.get('minimum', '-∞')} to {field.get('maximum', '∞')}")
    notes += [field.get("units", ""), " | ".join(map(str, field.get("categories", [])))]
    if "default" in field:
        notes.append(f"default {field['default']}")
    elif field.get("required") is False:
        notes.append("optional")
    return [*notes, "on request" if field.get("on_request") else "", field.get("description", "")]


def step_line(step: Mapping[str, Any]) -> str:
    """One step of a package in words: `tokenize  text → input_ids  (tokenizer.json, max_tokens 128)`."""
    kind = step.get("step") or step["backend"]
    if kind == "table":
        return f"table  {len(step['columns'])} columns → {step['output']}" + _aside(
            f"unknown categories: {'NaN' if step['unknown'] == 'nan' else 'an error'}"
        )
    if kind == "tokenize":
        aside = _aside(step["file"], f"max_tokens {step['max_tokens']}")
        return f"tokenize  {step['input']} → {', '.join(step['outputs'])}{aside}"
    if kind == "decode_image":
        return f"decode_image  {step['input']} → {step['output']}"
    if kind == "labels":
        source = ", ".join(filter(None, (step["scores"], step["indices"])))
        return f"labels  {source} → {step['output']}" + _aside(step["file"], f"top_k {step['top_k']}")
    if kind == "named":
        return f"named  {step['input']} → {len(step['names'])} names"
    if kind == "catalogue":
        return f"catalogue  {step['ids']} → {step['output']}" + _aside(step["file"], f"top_k {step['top_k']}")
    if kind == "graph":
        return f"graph  {step['file']}"
    if kind == "stage":
        sources = ", ".join(f"{name} ← {' or '.join(found)}" for name, found in step["inputs"].items())
        condition = f" is {' or '.join(map(str, step['values']))}" if step["values"] else " holds something"
        only = _aside(f"only where {step['when']}{condition}") if step["when"] else ""
        return f"{step['name']}  {step['package']} {step['version']}: {sources}{only}"
    if "backend" not in step:
        settings = {key: value for key, value in step.items() if key != "step"}
        return f"{kind}  {_shortened(_pairs(settings))}"
    source = step["entry"] if kind == "python" else step["file"]
    threads = f"{step['threads']} thread(s)" if step["threads"] else "a thread for every core"
    return f"{kind}  {source}" + _aside(f"{step['instances']} instance(s)", threads, ", ".join(step["providers"]))


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"


def _aside(*words: str) -> str:
    return f"  ({', '.join(words)})"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {_pairs(value) if isinstance(value, Mapping) else value}"
        for key, value in values.items()
        if value not in ("", {}, [])
    )


def show_verified(report: Mapping[str, Any]) -> None:
    """What `onward verify` shows when all is well."""
    _console.print(
        f"[green]verified[/] [bold]{report['name']} {report['version']}[/]: every file as locked, "
        f"{report['examples']} golden examples as promised, {report['seconds']} s"
    )
    if report.get("providers"):
        _console.print(f"[dim]runs on[/] {', '.join(report['providers'])}")
    if report.get("signed_by"):
        _console.print(f"[dim]signed by[/] {report['signed_by']}")
    _console.print(f"[dim]digest[/] {report['digest']}")


def show_agreement(rows: Sequence[Mapping[str, Any]]) -> None:
    """What `onward verify --runners` shows: each runner against the first."""
    table = Table("runner", "inputs", "equal", "agreeing", "largest difference", "refused", "seconds", box=None)
    for row in rows:
        colour = "green" if row["agreeing"] == row["inputs"] else "red"
        table.add_row(row["runner"], str(row["inputs"]), str(row["equal"]), f"[{colour}]{row['agreeing']}[/]",
                      f"{row['difference']:.3g}", str(row["refused"]), f"{row['seconds']:.1f}")  # fmt: skip
    _console.print(table)


def show_exported(report: Mapping[str, Any]) -> None:
    """What `onward edge` shows."""
    _console.print(f"[green]exported[/] [bold]{report['name']} {report['version']}[/] → {escape(report['path'])}")
    if report["target"] == "web":
        _console.print(
            f"{report['size_bytes'] / 1e6:.1f} MB in {report['files']} files; a first visit fetches "
            f"{report['first_visit_bytes'] / 1e6:.1f} MB"
        )
    else:
        _console.print(
            f"{report['size_bytes'] / 1e6:.1f} MB, {report['modules']} modules, first answer after "
            f"{report['first_answer_ms']:.0f} ms, {report['memory_bytes'] / 1e6:.0f} MB of memory; "
            f"{report['examples']} golden examples as promised"
        )
    certificate = report["certificate"]
    if certificate["inputs"]:
        _console.print(
            f"{certificate['agreeing']} of {certificate['inputs']} answers agree with the package's own, "
            f"{certificate['equal']} to the last bit; numbers differ by {certificate['difference']:.1e} at most "
            f"({certificate['runtime']})"
        )
    else:
        _console.print(f"[yellow]not compared with the package's own answers[/]: {certificate['note']}")
    there = (
        f"any static host, or here: python -m http.server --directory {escape(report['path'])}  "
        f"({', '.join(report['libraries'])})"
        if report["target"] == "web"
        else f"there: pip install -r requirements.txt; python run.py INPUT…  ({', '.join(report['requirements'])})"
    )
    _console.print(f"[dim]{there}[/]")


def show_packed(report: Mapping[str, Any]) -> None:
    """What `onward pack` shows."""
    _console.print(f"[green]packed[/] [bold]{report['name']} {report['version']}[/] → {escape(report['path'])}")
    _console.print(f"[dim]digest[/] {report['digest']}")
    if report["compared"]:
        _console.print(f"[dim]compared with the original on {report['rows']} rows[/]")
    else:
        _console.print("[yellow]not compared with the original[/]")


def show_moved(report: Mapping[str, Any]) -> None:
    """What `onward import` shows of one model."""
    if "refused" in report:
        version = f" {report['version']}" if "version" in report else ""
        _console.print(f"[red]refused[/] [bold]{escape(report['source'] + version)}[/]: {escape(report['refused'])}")
    else:
        name = f"{report['name']} {report['version']}"
        _console.print(f"[green]imported[/] [bold]{name}[/] → {escape(report['path'])}")
        compared = f"compared with the original on {report['rows']} rows" if report["compared"] else "not compared"
        _console.print(f"  [dim]{compared}[/]")
    for note in report["notes"]:
        _console.print(f"  [yellow]-[/] {escape(note)}")


def _beside(entry: Mapping[str, Any]) -> str:
    """What stands beside a score: its reason, the part of a text that it is about, else a bar."""
    if "reason" in entry:  # then it is no share of anything: a bar would say nothing
        return f"[dim]{escape(str(entry['reason']))}[/]"
    if "text" in entry and "start" in entry:
        return f"{escape(str(entry['text']))}  [dim]{entry['start']}–{entry['end']}[/]"
    return f"[cyan]{_bar(entry['score'])}[/]"


def _bar(score: float) -> str:
    """A bar for a share from 0 to 1; scores that are no shares get a full one, NaN none."""
    return "█" * max(1, round(min(max(score, 0.0), 1.0) * _BAR_WIDTH)) if score == score else ""


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
    if isinstance(value, Mapping) and value.keys() == {"media_type", "base64"}:  # a blob as HTTP tells it
        return f"{len(value['base64']) * 3 // 4} bytes of {value['media_type']}"
    if isinstance(value, Mapping):
        strongest = sorted(value.items(), key=lambda pair: -abs(pair[1]) if isinstance(pair[1], float) else 0)
        return ", ".join(f"{key} {_readable(part)}" for key, part in strongest[:_SHOWN_NUMBERS])
    return str(value)
