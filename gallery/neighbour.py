"""A small real service that an example acts on, as a process of its own beside the server."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_START_S = 20.0


class Neighbour:
    """A running service. `actions` is the file for `onward serve --actions`; `secret` is what both sign with."""

    def __init__(
        self, module: str, folder: Path, *, actions: Path, usual_address: str, secret_env: str,
        arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """Start `python -m MODULE --port PORT` with a secret of its own, and write its `actions.toml` into `folder`.

        `actions` is the operator's file, in which the port that is free now takes the place of `usual_address`.
        Raises `OSError` where the service does not answer in time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.secret = secrets.token_urlsafe(24)
        self.actions = folder / "actions.toml"
        text = actions.read_text(encoding="utf-8").replace(usual_address, f"127.0.0.1:{self.port}")
        self.actions.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", module, "--port", str(self.port), *arguments]
        # A session of its own: Ctrl-C in a terminal reaches whoever started it, who ends it.
        self._process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, secret_env: self.secret}, start_new_session=True
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
