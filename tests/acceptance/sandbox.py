"""A process as a container engine would start it, by bubblewrap: a root of its own, read-only, another user, no rights.

It has a network of its own, so that it can listen where its manifest says; `Inside` asks it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_INSTALL = Path(__file__).parents[2] / "tools" / "install_bubblewrap.sh"
_NETWORK = 0x40000000  # CLONE_NEWNET
_TRY = ["--ro-bind", "/", "/", "--unshare-all", "--dev", "/dev", "--proc", "/proc", "true"]


def needed() -> None:
    """Skip the test where this machine cannot do it."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@functools.cache
def why_not() -> str:
    """Why this machine cannot do it; empty where it can. Installs bubblewrap where it may."""
    if os.geteuid() != 0:
        return "needs root, to enter the network of the sandbox"
    if shutil.which("bwrap") is None:
        subprocess.run([str(_INSTALL)], capture_output=True)
    if shutil.which("bwrap") is None:
        return "bubblewrap is not on this machine and could not be installed"
    tried = subprocess.run(["bwrap", *_TRY], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"bubblewrap does not work here: {tried.stderr.strip()[:200]}"


@dataclass(frozen=True, kw_only=True)
class Root:
    """What is where inside: folders of this machine put over its own root, all of it read-only but `writable`."""

    shown: Mapping[str, Path] = field(default_factory=dict)
    writable: Mapping[str, Path] = field(default_factory=dict)
    scratch: Sequence[str] = ("/tmp",)

    def options(self) -> list[str]:
        """As bubblewrap's options; mount points that this machine lacks are made in an empty folder over its own."""
        words = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        covered = sorted({"/" + path.strip("/").split("/")[0] for path in (*self.shown, *self.writable)} - {"/tmp"})
        for path in (*covered, *self.scratch):
            words += ["--tmpfs", path]
        for path in _own():  # the environment's scripts name it, wherever this checkout lies
            if any(path.is_relative_to(place) for place in (*covered, *self.scratch)):
                words += ["--ro-bind", str(path), str(path)]
        for path, source in self.shown.items():
            words += ["--ro-bind", str(source.resolve()), path]
        for path, source in self.writable.items():
            words += ["--bind", str(source), path]
        return words + [word for path in covered for word in ("--remount-ro", path)]


def _own() -> list[Path]:
    """The folders that this Python and these sources are in."""
    return [Path(__file__).resolve().parents[2], Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A running process: `pid` is its own on this machine, `bwrap` what started it."""

    pid: int
    bwrap: subprocess.Popen[bytes]
    log: Path
    asking: ThreadPoolExecutor

    def get(self, port: int, path: str) -> tuple[int, bytes]:
        """GET in the sandbox's network: status and body; status 0 where nobody answers."""
        return self.asking.submit(_ask, "GET", port, path, b"").result()

    def post(self, port: int, path: str, body: Any) -> tuple[int, bytes]:
        """POST of JSON in the sandbox's network."""
        return self.asking.submit(_ask, "POST", port, path, json.dumps(body).encode()).result()

    def run(self, command: Sequence[str]) -> int:
        """Run a command in the sandbox's network; its exit status."""
        return self.asking.submit(subprocess.call, list(command)).result()

    def wait_for(self, port: int, path: str, status: int, timeout_s: float) -> None:
        """Ask until the answer has a status."""
        give_up_s = time.monotonic() + timeout_s
        while (found := self.get(port, path)[0]) != status:
            assert self.bwrap.poll() is None, self.log.read_text("utf-8", "replace")
            assert time.monotonic() < give_up_s, f"{path}: {found}\n{self.log.read_text('utf-8', 'replace')}"
            time.sleep(0.02)

    def status(self, name: str) -> str:
        """A line of the process's status, as the kernel tells it."""
        lines = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def started(command: Sequence[str], root: Root, *, environment: Mapping[str, str], user: int, folder: Path,
            log: Path) -> Iterator[Inside]:  # fmt: skip
    """Start a command as process 1 of a sandbox, with exactly this environment; killed at the end if it still runs."""
    reading, writing = os.pipe()
    words = ["bwrap", "--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session", "--info-fd", str(writing)]
    words += ["--uid", str(user), "--gid", str(user), *root.options(), "--chdir", str(folder), "--clearenv"]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    with log.open("wb") as output:
        bwrap = subprocess.Popen([*words, *command], stdout=output, stderr=subprocess.STDOUT, pass_fds=(writing,))
    os.close(writing)
    try:
        with os.fdopen(reading) as told, ThreadPoolExecutor(1) as asking:
            text = told.read()
            assert text, log.read_text("utf-8", "replace")
            pid = int(json.loads(text)["child-pid"])
            try:
                asking.submit(_enter, pid).result()
            except FileNotFoundError:
                pytest.fail(f"it did not start: {log.read_text('utf-8', 'replace')}")
            yield Inside(pid=pid, bwrap=bwrap, log=log, asking=asking)
    finally:
        if bwrap.poll() is None:
            bwrap.kill()
        bwrap.wait()


def _enter(pid: int) -> None:
    """Move this thread into the network of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as network:
        if libc.setns(network.fileno(), _NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "cannot enter the sandbox's network")


def _ask(method: str, port: int, path: str, body: bytes) -> tuple[int, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        try:
            connection.request(method, path, body or None, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
