"""A server of one package, started here for a while: a process of its own, on free ports, with a store of its own."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from onward.errors import ExecutionError
from onward.package.trust import TRUST_VARIABLE

_READY_S = 120.0
_STOP_S = 30.0
_LOOK_S = 0.05


class LocalServer(NamedTuple):
    """Where it listens, its process, and the name of the model that it serves."""

    port: int
    pid: int
    name: str


@contextmanager
def local_server(package: Path, place: Path, *, verified: bool = False) -> Iterator[LocalServer]:
    """A server of the package, ready, until the end of the block; its log and store lie in `place`.

    A package that was made here, of one that was `verified`, needs no signature of its own. Raises `ExecutionError`
    with the end of its log where it does not get ready.
    """
    port, admin_port = _free_ports()
    argv = [sys.executable, "-P", "-m", "onward", "serve", str(package)]  # -P: no modules of the current folder
    argv += ["--port", str(port), "--admin-port", str(admin_port), "--watch-interval", "0", "--no-relay"]
    log = place / f"serve-{port}.log"
    left_out = {"ONWARD_STORE", "ONWARD_KEY", *([TRUST_VARIABLE] if verified else [])}
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment["ONWARD_STORE"] = f"sqlite:///{place.resolve() / f'store-{port}.db'}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield LocalServer(port, process.pid, _ready(process, port, log))
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    until_s = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < until_s:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READY_S)
        try:
            connection.request("GET", "/v2/health/ready")
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                connection.request("GET", "/models")
                models = msgspec.json.decode(connection.getresponse().read())
                return str(models["models"][0]["name"])
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(_LOOK_S)
    raise ExecutionError("the server did not become ready", found=log.read_text("utf-8", "replace")[-1000:])


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
