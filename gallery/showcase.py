"""What `make run` shows: the server up at once, the packages appearing as they are built, a real answer of each.

The server is the ordinary `onward serve` in a process of its own; the answers come from it over HTTP.
"""

from __future__ import annotations

import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gallery.asks import ASKS, Ask
from gallery.builds import NAMES, is_built
from onward.runners.terminal import answer_table

_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 60.0
_POLL_S = 0.1


class Showcase:
    """One run of the gallery."""

    def __init__(self, repository: Path, *, port: int, admin_port: int) -> None:
        self._repository = repository
        self._port = port
        self._admin_port = admin_port
        self._url = f"http://127.0.0.1:{port}"
        self._console = Console(highlight=False)
        self._log = Path("var/serve.log")
        self._built: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failed: list[str] = []

    def run(self, *, once: bool) -> int:
        """Serve, build, ask; then serve until Ctrl-C unless `once`. Returns the exit code."""
        for port in (self._port, self._admin_port):
            if _is_taken(port):
                self._console.print(f"[red]error:[/] port {port} is in use; stop what uses it, or name another")
                return 69
        self._repository.mkdir(parents=True, exist_ok=True)
        with self._start_server() as server:
            try:
                self._wait_until_live(server)
                names = [name for name in NAMES if is_built(name, self._repository)]
                for name in names:
                    self._show(ASKS[name])
                self._build([name for name in NAMES if name not in names])
                if not self._failed:
                    self._tell_urls()
                    if not once:
                        server.wait()
            except KeyboardInterrupt:
                self._console.print("\nstopping: requests under way are finished first")
            finally:
                server.send_signal(signal.SIGTERM)
                server.wait()
        return 1 if self._failed else 0

    def _start_server(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "onward", "serve", str(self._repository)]
        command += ["--port", str(self._port), "--admin-port", str(self._admin_port)]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches us, and we end the server in order.
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _wait_until_live(self, server: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until:
            if server.poll() is not None:
                raise SystemExit(f"error: the server did not start; see {self._log}")
            try:
                with urllib.request.urlopen(f"{self._url}/v2/health/live", timeout=1):
                    return
            except OSError:
                time.sleep(0.02)
        raise SystemExit(f"error: the server did not answer within {_START_TIMEOUT_S:.0f} s; see {self._log}")

    def _build(self, names: list[str]) -> None:
        """Build packages one after the other, with bars, and show each one's answer as soon as it is served."""
        if not names:
            return
        columns = (TextColumn("{task.fields[name]:<11}"), BarColumn(30), TextColumn("{task.description}"),
                   TimeElapsedColumn())  # fmt: skip
        with Progress(*columns, console=self._console) as progress:
            rows = {name: progress.add_task("waiting", name=name, total=1.0, start=False) for name in names}
            builder = threading.Thread(target=self._build_all, args=(names, progress, rows), daemon=True)
            builder.start()
            while builder.is_alive() or not self._built.empty():
                try:
                    self._show(ASKS[self._built.get(timeout=_POLL_S)])
                except queue.Empty:
                    continue

    def _build_all(self, names: list[str], progress: Progress, rows: Mapping[str, TaskID]) -> None:
        for name in names:
            progress.start_task(rows[name])
            command = [sys.executable, "-m", "gallery", "build", name, "--repository", str(self._repository)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as build:
                errors: list[str] = []
                reader = threading.Thread(target=lambda p=build, e=errors: e.extend(p.stderr or ()), daemon=True)
                reader.start()
                for line in build.stdout or ():
                    if line.startswith("{"):
                        step = json.loads(line)
                        progress.update(rows[name], completed=step["share"], description=step["step"])
                reader.join()
            if build.returncode:
                self._failed.append(name)
                progress.update(rows[name], description="[red]failed[/]")
                self._console.print(f"[red]{name} was not built:[/]\n{''.join(errors[-12:])}")
            else:
                self._built.put(name)
            progress.stop_task(rows[name])

    def _show(self, ask: Ask) -> None:
        """Ask one package over HTTP and print its answer with its latency, second time asked (the first warms up)."""
        self._wait_until_ready(ask.package)
        body = ask.body(self._repository)
        for _ in range(2):
            started = time.perf_counter()
            answer = self._post(ask, body)
            elapsed_s = time.perf_counter() - started
        self._console.print(
            f"\n[bold]{ask.package} {answer['version']}[/]  {ask.question}  [dim]{elapsed_s * 1e3:.1f} ms[/]"
        )
        self._console.print(answer_table(answer["answer"]))

    def _wait_until_ready(self, package: str) -> None:
        until = time.monotonic() + _ANSWER_TIMEOUT_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self._url}/v2/models/{package}/ready", timeout=5):
                    return
            except urllib.error.URLError:
                time.sleep(_POLL_S)
        raise SystemExit(f"error: {package} is not served; see {self._log}")

    def _post(self, ask: Ask, body: bytes) -> dict[str, Any]:
        url = f"{self._url}/models/{ask.package}"
        request = urllib.request.Request(url, body, {"Content-Type": ask.content_type})
        with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def _tell_urls(self) -> None:
        say = self._console.print
        say(f"\n[bold]page[/]     {self._url}/")
        say(f"[bold]metrics[/]  {self._url}/metrics")
        say(f"[bold]admin[/]    http://127.0.0.1:{self._admin_port}/admin/models")
        say("[bold]try[/]")
        for ask in (ASKS["intent"], ASKS["vision"]):
            say(f"  {ask.curl(self._url, self._repository)}", soft_wrap=True, markup=False)
        say(f"[dim]the server's log: {self._log}; Ctrl-C ends it[/]")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
