"""Starts a server as a process group of its own, measures its process tree, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench.layout import ROOT
from bench.peers.contender import Launch

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.004
STOP_S = 15.0


class StartError(Exception):
    """A server ended, or did not become ready in time."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process tree has used: processor seconds so far, and memory now (shared pages counted once)."""

    cpu_s: float
    memory_bytes: int
    processes: int


def machine_cpu_s() -> float:
    """Return the processor seconds that everything on this machine has used so far, stolen time included."""
    ticks = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / TICKS_PER_S


def free_port() -> int:
    """Return a port that is free now, with the next one free too (for metrics or administration)."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Server:
    """One running server. Use as a context manager: it is stopped on the way out."""

    def __init__(self, launch: Launch, port: int, log: Path) -> None:
        self.port = port
        self._log_path = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("wb")
        self.started_at = time.perf_counter()
        self._process = subprocess.Popen(
            launch.argv,
            cwd=ROOT,
            env=os.environ | launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_ready(self, path: str, timeout_s: float = 60.0) -> float:
        """Poll `path` until its first 200; return the seconds since the process was spawned."""
        return self._wait("GET", path, None, {}, timeout_s)

    def wait_answer(self, path: str, body: bytes, headers: dict[str, str], timeout_s: float = 60.0) -> float:
        """Post a request until its first 200; return the seconds since the process was spawned."""
        return self._wait("POST", path, body, headers, timeout_s)

    def _wait(self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float) -> float:
        seen = "no answer"
        while time.perf_counter() - self.started_at < timeout_s:
            if self._process.poll() is not None:
                break
            connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                if response.status == 200:
                    return time.perf_counter() - self.started_at
                seen = f"{response.status} {response.read()[:300]!r}"
            except (OSError, HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(POLL_S)
        tail = self._log_path.read_text("utf-8", "replace")[-1500:]
        elapsed_s = time.perf_counter() - self.started_at
        raise StartError(f"{method} {path} not 200 after {elapsed_s:.1f} s, last {seen}; the log ends:\n{tail}")

    def usage(self) -> Usage:
        """Sum processor time and memory over the processes of this server's session that live now."""
        cpu_ticks, memory, count = 0, 0, 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) != self._process.pid:  # session id: a new session was started for the server
                    continue
                cpu_ticks += int(fields[11]) + int(fields[12])
                memory += proportional_bytes(entry)
                count += 1
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return Usage(cpu_s=cpu_ticks / TICKS_PER_S, memory_bytes=memory, processes=count)

    def stop(self) -> None:
        """End the server with SIGTERM, and what is left of its process group with SIGKILL."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._log.close()


def proportional_bytes(entry: Path) -> int:
    """Return the memory of a process by its folder in /proc, shared pages counted in part."""
    for line in (entry / "smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
