"""What one replica takes: the server is started here, asked its packages' golden examples for a moment, and stopped.

The callers are threads of this process and share its cores, so rates are lower bounds; memory is told by Linux.
"""

from __future__ import annotations

import http.client
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from onward.errors import PackageError
from onward.execute.cores import cores
from onward.package.examples import read_examples
from onward.runners.cloud.deployment import READY, Sizing
from onward.runners.cloud.packages import Packaged, copy

_CALLERS = 4
_ANSWER_TIMEOUT_S = 120.0
_READY_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 60.0
_SETTLED_S = 1.0
_OF_SIZE, _BESIDES_BYTES = 3, 192 << 20


def estimate(packages: tuple[Packaged, ...]) -> Sizing:
    """What one replica may take, going by its packages' sizes."""
    peak = _BESIDES_BYTES + _OF_SIZE * sum(one.size_bytes for one in packages)
    return Sizing(measured=False, peak_bytes=peak, start_s=6.0, cores=cores())


def measure(packages: tuple[Packaged, ...], *, seconds: float, progress: Callable[[str], None]) -> Sizing:
    """Start a server and ask each package for `seconds`. Raises `PackageError` where it does not get ready."""
    with tempfile.TemporaryDirectory(prefix="onward-cloud-") as made:
        folder = Path(made)
        copy(packages, folder / "repository")
        progress("starting a server to measure it")
        started_s = time.monotonic()
        with _server(folder) as (process, ports):
            _wait_until_ready(process, ports, len(packages), folder / "log")
            start_s = time.monotonic() - started_s
            rates: dict[str, float] = {}
            for one in packages:
                progress(f"asking {one.name}")
                rates[one.name] = _rate(one, ports[0], seconds)
            peak = _peak_bytes(process.pid)
    return Sizing(
        measured=True, peak_bytes=peak or estimate(packages).peak_bytes, start_s=round(start_s, 3), cores=cores(),
        answers_per_s={name: round(rate, 1) for name, rate in rates.items()},
    )  # fmt: skip


@contextmanager
def _server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], tuple[int, int]]]:
    port, admin_port = ports = _free_ports()
    command = [sys.executable, "-m", "onward", "serve", str(folder / "repository"), "--port", str(port)]
    command += ["--admin-port", str(admin_port), "--watch-interval", "0", "--no-relay"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONWARD_")}
    environment |= {"ONWARD_STORE": f"sqlite:///{folder / 'store.db'}", "ONWARD_CACHE": str(folder / "cache")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
    try:
        yield process, ports
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], ports: tuple[int, int], count: int, log: Path) -> None:
    """Raises `PackageError` with the reasons once every package is either served or has failed for good."""
    give_up_s, settled_s = time.monotonic() + _READY_TIMEOUT_S, math.inf
    reasons: list[str] = []
    while time.monotonic() < min(give_up_s, settled_s) and process.poll() is None:
        if _get(ports[0], READY)[0] == 200:
            return
        status, body = _get(ports[1], "/admin/models")
        models = msgspec.json.decode(body)["models"] if status == 200 else []
        reasons = [f"{one['name']}: {one['reason']} [{one['code']}]" for one in models if one["state"] == "failed"]
        if not reasons or len(models) < count:
            settled_s = math.inf
        elif settled_s == math.inf:  # a package of stages fails until its stages are there
            settled_s = time.monotonic() + _SETTLED_S
        time.sleep(0.02)
    told = reasons or log.read_text("utf-8", "replace").strip().splitlines()[-3:]
    raise PackageError("the server does not get ready with these packages", found="; ".join(told) or "no reason")


def _get(port: int, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return 0, b""


def _rate(package: Packaged, port: int, seconds: float) -> float:
    """Answers a second in a closed loop; 0 where the package has no examples to ask, or refuses them over HTTP."""
    bodies = [msgspec.json.encode(example.input) for example in read_examples(package.folder)]
    if not bodies:
        return 0.0
    counts, until_s = [0] * _CALLERS, time.monotonic() + seconds
    started_s = time.monotonic()

    def ask(caller: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_TIMEOUT_S)
        with suppress(OSError, http.client.HTTPException):
            for body in itertools.islice(itertools.cycle(bodies), caller, None):
                connection.request("POST", f"/models/{package.name}", body, {"content-type": "application/json"})
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    break
                counts[caller] += 1
                if time.monotonic() >= until_s:
                    break
        connection.close()

    callers = [threading.Thread(target=ask, args=(caller,)) for caller in range(_CALLERS)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return sum(counts) / (time.monotonic() - started_s)


def _peak_bytes(pid: int) -> int:
    """Resident memory at its highest of a process and those it started; 0 where the system does not tell."""
    total = 0
    for one in _family(pid):
        with suppress(OSError, ValueError, StopIteration):
            lines = Path(f"/proc/{one}/status").read_text("ascii", "replace").splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10
    return total


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with suppress(OSError, ValueError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text("ascii").split())
    return found


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])
