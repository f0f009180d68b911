"""Keeps the raw records as they come, and writes summary, tables and plots at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.measurement import Record
from bench.plots import draw
from bench.summary import markdown, summarise


class Report:
    """One folder of results: raw.jsonl, summary.json, summary.md and a plot per workload."""

    def __init__(self, folder: Path, machine: dict[str, Any], versions: dict[str, str], how: str) -> None:
        self.folder = folder
        self.failed = False
        self._machine, self._versions, self._how = machine, versions, how
        self._records: list[Record] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._raw = (folder / "raw.jsonl").open("a", encoding="utf-8")

    def add(self, record: Record) -> None:
        """Append a record to raw.jsonl at once, and print one line of it."""
        self._records.append(record)
        self._raw.write(json.dumps(record) + "\n")
        self._raw.flush()
        print(_line(record), flush=True)
        self.failed = self.failed or record["kind"] == "failure"

    def write(self) -> None:
        """Write the summary of all records so far."""
        self._raw.close()
        summary = summarise(self._records)
        whole = {"how": self._how, "machine": self._machine, "versions": self._versions, "workloads": summary}
        (self.folder / "summary.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", "utf-8")
        text = markdown(summary, self._machine, self._versions, self._how)
        (self.folder / "summary.md").write_text(text, "utf-8")
        draw(summary, self.folder)
        print("\n" + text)


def _line(record: Record) -> str:
    head = f"round {record['round']} {record['workload']:18} {record['contender']:8}"
    if record["kind"] == "failure":
        return f"{head} FAILED: {record['error'][-600:]}"
    if record["kind"] == "start":
        return f"{head} ready {record['ready_s']:.2f} s, {record['answers_checked']} answers right"
    rate = f"{record['connections']:>4} connections {record['requests_per_s']:>9,.0f}/s"
    latency = f"p50 {record['p50_us'] / 1e3:8.2f} ms  p99 {record['p99_us'] / 1e3:8.2f} ms"
    cores = f"cores: server {record['cpu_cores']:.2f}, generator {record['generator_cpu']:.2f}"
    return f"{head} {rate}  {latency}  errors {record['errors']}  {cores}, others {record['other_cpu']:.2f}"
