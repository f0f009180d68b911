"""The payment service as a process of its own, with the operator's `actions.toml` for where it listens."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FRAUD = Path(__file__).parents[1]
USUAL_ADDRESS = "127.0.0.1:9103"
_START_S = 20.0


class PaymentsProcess:
    """A running service. `actions` is the file for `onward serve --actions`, `secret` belongs into PAYMENTS_SECRET."""

    def __init__(self, folder: Path) -> None:
        """Start it with its database in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.secret = secrets.token_urlsafe(24)
        self.actions = folder / "actions.toml"
        text = (FRAUD / "actions.toml").read_text(encoding="utf-8")
        self.actions.write_text(text.replace(USUAL_ADDRESS, f"127.0.0.1:{self.port}"), encoding="utf-8")
        command = [sys.executable, "-m", "gallery.fraud.payments", "--database", str(folder / "payments.sqlite")]
        command += ["--port", str(self.port)]
        # A session of its own: Ctrl-C in a terminal reaches whoever started it, who ends it.
        self._process = subprocess.Popen(
            command, cwd=FRAUD.parents[1], env={**os.environ, "PAYMENTS_SECRET": self.secret}, start_new_session=True
        )
        self._wait()

    def _wait(self) -> None:
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
        """What the service answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
            return json.load(response)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
