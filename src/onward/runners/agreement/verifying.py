"""`onward verify --runners`: the same inputs through each runner, and the table of how far they agree."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onward.errors import RunnersDisagree, UsageError
from onward.package.manifest import DIALOGUE_FILE
from onward.package.package import open_package
from onward.runners.agreement.answering import ANSWERING
from onward.runners.agreement.comparison import compare
from onward.runners.agreement.inputs import inputs_of

RUNNERS = tuple(ANSWERING)


def agreements(package: Path, runners: Sequence[str], count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each runner, compared with the first. Raises `UsageError`, and what a runner raises."""
    unknown = [name for name in runners if name not in ANSWERING]
    if unknown or len(runners) < 2 or len(set(runners)) < len(runners):
        expected = f"two or more of {', '.join(RUNNERS)}"
        raise UsageError("not runners to compare", where="--runners", expected=expected, found=",".join(runners))
    opened = open_package(package)
    if (opened.folder / DIALOGUE_FILE).is_file():
        raise UsageError("a package that holds conversations has no answers to compare", where=opened.id.name)
    items = inputs_of(opened, count, seed=seed)
    rows = []
    reference = None
    for name in runners:
        with tempfile.TemporaryDirectory(prefix="onward-verify-") as place:
            started_s = time.monotonic()
            answers = ANSWERING[name](package, items, Path(place))
            elapsed_s = time.monotonic() - started_s
        reference = answers if reference is None else reference
        row = asdict(compare(name, reference, answers))
        rows.append(row | {"refused": sum("error" in one for one in answers), "seconds": round(elapsed_s, 3)})
    return rows


def check(rows: Sequence[dict[str, Any]], *, package: str) -> None:
    """Raise `RunnersDisagree` where one does not agree with the first."""
    for row in rows:
        if row["agreeing"] < row["inputs"]:
            raise RunnersDisagree(
                f"{row['runner']} and {rows[0]['runner']} answer differently", where=package,
                expected=f"all {row['inputs']} answers to agree", found=f"{row['agreeing']}; {row['first']}",
            )  # fmt: skip
