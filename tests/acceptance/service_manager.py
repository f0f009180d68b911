"""systemd's part, for machines where it does not run: sockets that are held, servers that say they are ready."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from onward.runners.cloud.export import Export
from tests.acceptance.conftest import STOP_TIMEOUT_S


class Manager:
    """systemd's part: it holds a replica's socket, hands it to each server that it starts, hears when it is ready."""

    def __init__(self, made: Export, replica: str, port: int, folder: Path) -> None:
        self.listening = socket.socket()
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.listening.bind(("127.0.0.1", port))
        self.listening.listen(4096)
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(folder / f"notify-{replica}"))
        self._heard.settimeout(60)
        self._folder, self._replica = folder, replica
        text = (made.out / "systemd" / "onward-tiny@.service").read_text("utf-8").replace("%i", replica)
        lines = [line.partition("=") for line in text.splitlines() if "=" in line]
        self._command = next(shlex.split(value) for key, _, value in lines if key == "ExecStart")
        self._environment = dict(value.split("=", 1) for key, _, value in lines if key == "Environment")
        self._kill = next(value for key, _, value in lines if key == "KillSignal")

    def start(self) -> None:
        """Start the server and wait until it says that it is ready, as `Type=notify` does."""
        program = str(self._folder / "opt" / "onward-tiny" / "current" / "venv" / "bin" / "onward")
        command = [program, *[word.replace("/opt/", f"{self._folder}/opt/") for word in self._command[1:]]]
        environment = {"PATH": os.environ["PATH"], "LISTEN_FDS": "1", **self._environment}
        environment["NOTIFY_SOCKET"] = str(self._folder / f"notify-{self._replica}")
        handed = self.listening.fileno()
        with (self._folder / f"log-{self._replica}").open("ab") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh", *command], env=environment, stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=lambda: os.dup2(handed, 3), close_fds=False,
            )  # fmt: skip
        assert self._heard.recv(100) == b"READY=1"

    def stop(self) -> int:
        """Stop it as the unit says; its exit status."""
        self._process.send_signal(signal.Signals[self._kill])
        assert self._heard.recv(100) == b"STOPPING=1"
        return self._process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        """Kill what still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.listening.close()
        self._heard.close()
