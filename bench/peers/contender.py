"""What the bench needs to know of every server that it measures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.layout import PEERS

Setting = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model to be served: its public name, its folder, and in which form requests carry the input."""

    name: str
    folder: Path
    form: str  # json | binary | image | text


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A command that becomes a server, and the variables it needs beside the inherited ones."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)


class Contender(Protocol):
    """A server under measurement."""

    name: str

    def install(self) -> None:
        """Make the server startable; quick when it already is."""

    def version(self) -> str:
        """Name what is measured, with its version."""

    def settings(self, served: Served) -> list[Setting]:
        """List the settings worth trying for this model, a sensible default first."""

    def launch(self, served: Served, setting: Setting, port: int) -> Launch:
        """Write what the server reads and return the command that starts it on 127.0.0.1:`port`."""

    def ready_path(self, served: Served) -> str:
        """The path whose first 200 means ready."""

    def dialect(self, served: Served, setting: Setting) -> str:
        """How the input is put into a request: `v2`, `plain`, `msgpack` or `onward` (see bench.exchange)."""


def best_setting(contender: Contender, workload: str, served: Served) -> Setting:
    """Return the setting kept by the last tuning pass for this workload, else the default."""
    path = PEERS / contender.name / "settings.json"
    if path.exists():
        kept = json.loads(path.read_text("utf-8")).get(workload)
        if kept:
            best: Setting = kept["best"]
            return best
    return contender.settings(served)[0]
