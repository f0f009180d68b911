"""The scripted conversations, read from `conversations/*.toml`, and a shop process for them to happen in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gallery.support.shop.catalogue import CUSTOMERS
from gallery.support.shop.database import Books

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_START_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Script:
    """One conversation: `customer` is the one it happens to, a copy of `model` of the shop's own."""

    name: str
    model: str
    customer: str
    turns: Sequence[Mapping[str, Any]]
    after: Mapping[str, Any]


def read_scripts() -> list[Script]:
    """All conversations, each with a customer of its own, so that none changes what another finds."""
    rows = [
        row
        for file in sorted((HERE / "conversations").glob("*.toml"))
        for row in tomllib.loads(file.read_text(encoding="utf-8"))["conversation"]
    ]
    return [
        Script(
            name=row["name"],
            model=row["customer"],
            customer=f"{row['customer']}-{at}" if row["customer"] else "",
            turns=row["turns"],
            after=row.get("after", {}),
        )
        for at, row in enumerate(rows)
    ]


class ShopProcess:
    """The shop in a process of its own, with a copy of a customer for each script, and `actions.toml` for its port."""

    def __init__(self, folder: Path, scripts: Sequence[Script] = ()) -> None:
        self.database = folder / "shop.sqlite"
        models = {customer.customer: customer for customer in CUSTOMERS}
        copies = [replace(models[script.model], customer=script.customer) for script in scripts if script.customer]
        Books(self.database, customers=[*CUSTOMERS, *copies]).close()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.secret = "secret-of-the-test"
        self.actions = folder / "actions.toml"
        text = (HERE / "actions.toml").read_text(encoding="utf-8")
        self.actions.write_text(text.replace("127.0.0.1:9102", f"127.0.0.1:{self.port}"), encoding="utf-8")
        command = [sys.executable, "-m", "gallery.support.shop", "--database", str(self.database)]
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port)], cwd=ROOT, env={**os.environ, "SHOP_SECRET": self.secret}
        )
        until_s = time.monotonic() + _START_S
        while True:
            try:
                self.get("/health")
                return
            except OSError:
                if time.monotonic() > until_s or self._process.poll() is not None:
                    self.close()
                    raise
                time.sleep(0.05)

    def get(self, path: str) -> Any:
        """What the shop answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return json.load(response)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
