"""What the operator's commands print: tables for a person at a terminal, JSON lines for the next program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec


def is_for_reading(as_json: bool) -> bool:
    """Whether a person reads the output: a terminal, and no `--json`."""
    return sys.stdout.isatty() and not as_json


def print_json(*values: Mapping[str, Any]) -> None:
    """Each value as one line, written out at once."""
    for value in values:
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table whose cells are shown as they are, whatever they contain."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, padding=(0, 2), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    _console().print(table)


def print_line(text: str, *, style: str = "") -> None:
    """A line of text, as it is; the terminal wraps it where it is too long."""
    from rich.text import Text

    _console().print(Text(shown(text), style=style), soft_wrap=True)


def shown(value: Any) -> str:
    """A value in a terminal: nothing in it can move the cursor or change colours."""
    text = value if isinstance(value, str) else str(value)
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def moment(at_s: float) -> str:
    """A time for reading: ISO 8601, UTC, to the millisecond."""
    try:
        return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{at_s} s"


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False)
