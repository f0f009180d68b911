"""What `make run` shows: the server up at once, the packages appearing as they are built, a real answer of each.

The server is the ordinary `onward serve` in a process of its own; the answers come from it over HTTP.
"""

from __future__ import annotations

import http.client
import json
import os
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
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gallery.asks import ASKS, Ask
from gallery.builds import NAMES, is_built
from gallery.fraud.payments.process import PaymentsProcess
from gallery.support.shop.process import ShopProcess
from onward.runners.terminal import answer_table

_START_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 60.0
_BUILD_STOP_S = 5.0
_POLL_S = 0.1
_SHOWN_BYTES = 500
# What urllib raises where there is no answer: refused, reset, too late, or half of one.
_NO_ANSWER = (OSError, http.client.HTTPException)


class ShowcaseError(Exception):
    """Why the showcase ends: a line for a person, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
        self._server: subprocess.Popen[bytes] | None = None
        self._build_process: subprocess.Popen[str] | None = None
        self._build_lock = threading.Lock()
        self._leaving = False
        self._shop: ShopProcess | None = None
        self._payments: PaymentsProcess | None = None

    def run(self, *, once: bool) -> int:
        """Serve, build, ask; then serve until Ctrl-C unless `once`. Returns the exit code."""
        for port in (self._port, self._admin_port):
            if _is_taken(port):
                self._console.print(f"[red]error:[/] port {port} is in use; stop what uses it, or name another")
                return 69
        self._repository.mkdir(parents=True, exist_ok=True)
        on_terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave as with Ctrl-C
        try:
            self._shop = self._start_shop()
            if self._shop is not None:
                self._payments = PaymentsProcess(Path("var/payments"))
            self._server = self._start_server()
            self._present(once=once)
        except KeyboardInterrupt:
            self._console.print("\nstopping: requests under way are finished first")
        except ShowcaseError as error:
            self._console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            return error.exit_code
        finally:
            self._stop_building()
            if self._server is not None:
                self._server.terminate()
                self._server.wait()
            for service in (self._shop, self._payments):  # after the server, whose last actions they may carry out
                if service is not None:
                    service.close()
            signal.signal(signal.SIGTERM, on_terminate)
        return 1 if self._failed else 0

    def _present(self, *, once: bool) -> None:
        self._wait_until_live()
        names = [name for name in NAMES if is_built(name, self._repository)]
        for name in names:
            self._show(ASKS[name])
        self._build([name for name in NAMES if name not in names])
        if self._failed:
            return
        self._tell_urls()
        while not once:
            self._check_server()
            time.sleep(_POLL_S)

    def _check_server(self) -> None:
        """Raise where the server has ended: until we leave, it never should."""
        if self._server is not None and (code := self._server.poll()) is not None:
            raise ShowcaseError(f"the server ended (exit code {code}); see {self._log}", 70)

    def _start_shop(self) -> ShopProcess | None:
        """The shop that `support` works for; it begins anew where the server does, since one tells the other."""
        folder = Path("var/shop")
        if not Path("var/onward.db").is_file():
            for file in folder.glob("shop.sqlite*"):
                file.unlink()
        return ShopProcess(folder, tell=self._url)

    def _start_server(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "onward", "serve", str(self._repository)]
        command += ["--port", str(self._port), "--admin-port", str(self._admin_port)]
        environment = dict(os.environ)
        if self._shop is not None and self._payments is not None:
            actions = Path("var/actions.toml")
            texts = [service.actions.read_text(encoding="utf-8") for service in (self._shop, self._payments)]
            actions.write_text("\n".join([texts[0], texts[1].replace("format = 1\n", "", 1)]), encoding="utf-8")
            command += ["--actions", str(actions)]
            environment |= {"SHOP_SECRET": self._shop.secret, "PAYMENTS_SECRET": self._payments.secret}
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches us, and we end the server in order.
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)

    def _wait_until_live(self) -> None:
        until = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until:
            self._check_server()
            try:
                with urllib.request.urlopen(f"{self._url}/v2/health/live", timeout=1):
                    return
            except _NO_ANSWER:
                time.sleep(0.02)
        raise ShowcaseError(f"the server did not answer within {_START_TIMEOUT_S:.0f} s; see {self._log}", 69)

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
                self._check_server()
                try:
                    self._show(ASKS[self._built.get(timeout=_POLL_S)])
                except queue.Empty:
                    continue

    def _build_all(self, names: list[str], progress: Progress, rows: Mapping[str, TaskID]) -> None:
        for name in names:
            progress.start_task(rows[name])
            started = self._start_build(name)
            if started is None:
                return
            with started as build:
                errors: list[str] = []
                reader = threading.Thread(target=lambda p=build, e=errors: e.extend(p.stderr or ()), daemon=True)
                reader.start()
                for line in build.stdout or ():
                    if line.startswith("{"):
                        step = json.loads(line)
                        progress.update(rows[name], completed=step["share"], description=step["step"])
                reader.join()
            if self._leaving:
                return
            if build.returncode:
                self._failed.append(name)
                progress.update(rows[name], description="[red]failed[/]")
                self._console.print(f"[red]{name} was not built:[/]\n{''.join(errors[-12:])}")
            else:
                self._built.put(name)
            progress.stop_task(rows[name])

    def _start_build(self, name: str) -> subprocess.Popen[str] | None:
        """A build in a process group of its own, which `_stop_building` ends; none where we are leaving."""
        with self._build_lock:
            if self._leaving:
                return None
            self._build_process = subprocess.Popen(
                self._build_command(name), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )  # fmt: skip
            return self._build_process

    def _build_command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "gallery", "build", name, "--repository", str(self._repository)]

    def _stop_building(self) -> None:
        """End the build under way, with what it started; as Ctrl-C does, so that it clears what it left half made."""
        with self._build_lock:
            self._leaving = True
            build = self._build_process
        if build is None:
            return
        for number in (signal.SIGINT, signal.SIGKILL):
            if build.poll() is not None:
                return
            os.killpg(build.pid, number)
            try:
                build.wait(_BUILD_STOP_S)
            except subprocess.TimeoutExpired:
                continue

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
        self._console.print(answer_table(answer["answer"]) if "answer" in answer else f"  {escape(answer['reply'])}")

    def _wait_until_ready(self, package: str) -> None:
        until = time.monotonic() + _ANSWER_TIMEOUT_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self._url}/v2/models/{package}/ready", timeout=5):
                    return
            except _NO_ANSWER:
                self._check_server()
                time.sleep(_POLL_S)
        raise ShowcaseError(f"{package} is not served; see {self._log}", 69)

    def _post(self, ask: Ask, body: bytes) -> dict[str, Any]:
        url = f"{self._url}/models/{ask.package}"
        request = urllib.request.Request(url, body, {"Content-Type": ask.content_type})
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(_SHOWN_BYTES).decode("utf-8", "replace").strip()
            raise ShowcaseError(f"{ask.package} answered {error.code}: {said}; see {self._log}", 70) from None
        except _NO_ANSWER as error:
            self._check_server()
            raise ShowcaseError(f"{ask.package} gave no answer: {error}; see {self._log}", 69) from None

    def _tell_urls(self) -> None:
        say = self._console.print
        say(f"\n[bold]page[/]     {self._url}/")
        say(f"[bold]metrics[/]  {self._url}/metrics")
        say(f"[bold]admin[/]    http://127.0.0.1:{self._admin_port}/admin/models")
        say("[bold]try[/]")
        for ask in (ASKS["intent"], ASKS["vision"], ASKS["support"]):
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
