"""A server of `fraud` with its payment service, in a folder that goes away afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from gallery.fraud.payments.process import PaymentsProcess

_START_S, _SETTLE_S = 60.0, 60.0


class Installation:
    """`onward serve` on the package, its store and the payment service, all in processes of their own."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self.url = ""

    def __enter__(self) -> Installation:
        self._folder = tempfile.TemporaryDirectory(prefix="onward-fraud-")
        folder = self.folder = Path(self._folder.name)
        self.payments = PaymentsProcess(folder)
        port, admin_port = _free_port(), _free_port()
        self.url, self.admin_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
        command = [sys.executable, "-m", "onward", "serve", str(self._package), "--port", str(port)]
        command += ["--admin-port", str(admin_port), "--store", f"sqlite:///{folder / 'onward.db'}"]
        command += ["--actions", str(self.payments.actions), "--key-file", str(folder / "key")]
        self._log = folder / "serve.log"
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "PAYMENTS_SECRET": self.payments.secret},
            )  # fmt: skip
        self._wait()
        return self

    def _wait(self) -> None:
        until_s = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=1):
                    return
            except OSError:
                if time.monotonic() > until_s or self._server.poll() is not None:
                    said = self._log.read_text("utf-8", "replace")[-2000:]
                    self.__exit__(None, None, None)
                    raise SystemExit(f"error: the server did not start:\n{said}") from None
                time.sleep(0.05)

    def settle(self, actions: int) -> dict[str, Any]:
        """Wait until the payment service has had as many effects as there were actions; how it stands then."""
        until_s = time.monotonic() + _SETTLE_S
        while len(self.payments.get("/effects")) < actions and time.monotonic() < until_s:
            time.sleep(0.1)
        return {
            "actions": actions, "effects": len(self.payments.get("/effects")),
            "holds": len(self.payments.get("/holds")), "cases": len(self.payments.get("/cases")),
        }  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.send_signal(signal.SIGTERM)
        self._server.wait()
        self.payments.close()  # after the server, whose last actions it may have to carry out
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
