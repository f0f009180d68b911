"""What a finished job says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onward.runners.tables import print_json, print_line


def show(report: Mapping[str, Any], *, as_json: bool) -> None:
    """The counts, the speed and the digest: a few lines for a person, an object for a program."""
    if as_json:
        print_json({name: value for name, value in report.items() if name != "job"})
        return
    verb = "was done already" if report.get("repeated") else "done"
    rejects = f", {report['rejects']:,} rejects" if report["rejects"] else ""
    print_line(f"{report['output']['name']} {verb}: {report['answers']:,} answers to {report['rows']:,} rows{rejects}",
               style="green" if not report["rejects"] else "yellow")  # fmt: skip
    print_line(f"{report['elapsed_s']:.1f} s, {report['rows_per_s']:,.0f} rows/s", style="dim")
    print_line(f"sha256 {report['output']['sha256']}", style="dim")
