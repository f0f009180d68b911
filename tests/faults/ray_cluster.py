"""A Ray cluster of one node, started and deployed to by the scripts of an exported folder, as its notes say."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from onward.runners.cloud.deployment import READY
from onward.runners.cloud.export import CloudOptions, export
from onward.runners.cloud.yaml_text import document
from tests.acceptance.conftest import free_port

ADDRESS = "127.0.0.2"  # Ray takes 127.0.0.1 for another address of the machine
START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A running node; `folder` is what was exported, `port` where Serve's proxy listens."""

    folder: Path
    port: int
    gcs_port: int
    dashboard: str
    environment: dict[str, str]

    def run(self, *argv: str, **more: str) -> str:
        """What a script of the folder says; raises where it fails."""
        made = subprocess.run([str(self.folder / argv[0]), *argv[1:]], env=self.environment | more, text=True,
                              capture_output=True, timeout=120, check=False)  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    def deploy(self, folder: Path | None = None) -> None:
        """Deploy what a folder has, by default this one's; comes back at once."""
        path = (folder or self.folder) / "serve.yaml"
        value = yaml.safe_load(path.read_text("utf-8"))
        value["http_options"] = {"host": "127.0.0.1", "port": self.port}
        path.write_text(document(value), "utf-8")
        argv = ["deploy.sh", "--address", self.dashboard]
        (self if folder is None else _at(self, folder)).run(*argv)

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET" if body is None else "POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()

    def replicas(self) -> list[int]:
        """The processes of the replicas that are up."""
        return [pid for pid, name in self._processes() if name.startswith("ray::ServeReplica")]

    def wait_for_replicas(self, count: int, *, besides: frozenset[int] = frozenset()) -> list[int]:
        """Until so many run and are ready, of which none is one of `besides`."""
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            found = self.replicas()
            if len(found) >= count and not besides & set(found) and self._running() >= count and self._is_ready():
                return found
            time.sleep(0.1)
        raise TimeoutError(f"{self.replicas()}: {self.status()}")

    def status(self) -> dict[str, Any] | None:
        """What the controller says of the applications; None while nobody does."""
        headers = {"authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        asked = urllib.request.Request(f"{self.dashboard}/api/serve/applications/", headers=headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=30) as response:
            told: dict[str, Any] = json.load(response)
            return told
        return None

    def _running(self) -> int:
        applications = (self.status() or {}).get("applications", {})
        deployments = [one for app in applications.values() for one in app["deployments"].values()]
        return sum(replica["state"] == "RUNNING" for one in deployments for replica in one["replicas"])

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask(READY)[0] == 200
        return False

    def _processes(self) -> list[tuple[int, str]]:
        """Ours with their command lines: by the environment, or, where a title was written over that, by the parent."""
        own = self.environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"].encode()
        found: set[int] = set()
        parents: dict[int, int] = {}
        lines: dict[int, str] = {}
        for one in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(one.name)
                parents[pid] = int((one / "stat").read_text().rpartition(")")[2].split()[1])
                lines[pid] = (one / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if own in (one / "environ").read_bytes():
                    found.add(pid)
        grown = -1
        while grown != len(found):
            grown = len(found)
            found |= {pid for pid, parent in parents.items() if parent in found}
        return [(pid, lines[pid]) for pid in sorted(found) if pid in lines]


def exported(package: Path, out: Path, **more: Any) -> Path:
    """The folder that `onward cloud --target ray` writes: two replicas of a tenth of a core."""
    usual = {"min_replicas": 2, "max_replicas": 2, "cpus": 0.1, "measure": False, "name": "onward-served"}
    return export(CloudOptions(source=str(package), out=out, targets=("ray",), **(usual | more))).out / "ray"


@contextlib.contextmanager
def started(folder: Path, **more: str) -> Iterator[Node]:
    """The node with an environment of its own: token, ports, places; `more` besides."""
    place = Path(tempfile.mkdtemp(prefix="onward-ray-"))  # sockets' names must be short
    gcs_port, dashboard_port = free_port(), free_port()
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{place}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{place}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(place),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{place}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
    } | more  # fmt: skip
    node = Node(folder=folder, port=free_port(), gcs_port=gcs_port, environment=environment,
                dashboard=f"http://127.0.0.1:{dashboard_port}")  # fmt: skip
    argv = [
        str(folder / "node.sh"), "--head", "--block", "--node-ip-address", ADDRESS, "--port", str(gcs_port),
        "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port), "--num-cpus", "2",
        "--ray-client-server-port", str(free_port()), "--temp-dir", str(place / "ray"),
    ]  # fmt: skip
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait_for_dashboard(node, process, place / "log")
        yield node
    finally:
        for pid, _ in node._processes():  # nobody waits for what Ray would put away
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(place, ignore_errors=True)


def _wait_for_dashboard(node: Node, process: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while node.status() is None:
        if process.poll() is not None or time.monotonic() > until_s:
            raise AssertionError(log.read_text("utf-8", "replace")[-4000:])
        time.sleep(0.2)


def _at(node: Node, folder: Path) -> Node:
    return Node(folder=folder, port=node.port, gcs_port=node.gcs_port, dashboard=node.dashboard,
                environment=node.environment)  # fmt: skip
