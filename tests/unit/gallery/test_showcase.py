"""The showcase with servers that fail: what a person is told, and what is left running (nothing)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gallery import showcase
from gallery.asks import Ask
from gallery.showcase import Showcase, ShowcaseError

ASK = Ask(package="tiny", question="?", content_type="text/plain", text="hello")
# Healthy, but every answer is an error; a request for /end ends it.
SERVER = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/end": os._exit(3)
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/models/mute": os._exit(3)
        self.send_response(503); self.end_headers(); self.wfile.write(b"[queue] full")
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Failing(Showcase):
    """The showcase in front of the server above; a build writes its process id and hangs."""

    def _start_shop(self) -> None:
        return None

    def _start_server(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SERVER, str(self._port)], stderr=subprocess.DEVNULL)

    def _build_command(self, name: str) -> list[str]:
        code = (
            f"import os, time; open({str(self._repository / 'pid')!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(60)"
        )
        return [sys.executable, "-c", code]


@pytest.fixture
def failing(tmp_path: Path) -> Failing:
    return Failing(tmp_path, port=free_port(), admin_port=free_port())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def build_pid(folder: Path) -> int:
    """The process id of the build, once it runs."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if (folder / "pid").is_file() and (text := (folder / "pid").read_text()).endswith(" "):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("no build was started")


@pytest.mark.parametrize("end", ["server", "terminate"])
def test_a_showcase_that_ends_leaves_no_build_and_no_server(
    failing: Failing, tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str
) -> None:
    def end_it() -> None:
        build_pid(tmp_path)
        if end == "server":
            assert failing._server is not None
            failing._server.kill()
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    ender = threading.Thread(target=end_it)
    ender.start()
    code = failing.run(once=False)
    ender.join()
    told = capsys.readouterr().out
    if end == "server":
        assert code == 70 and "the server ended" in told and "serve.log" in told
    else:
        assert code == 0 and "stopping" in told
    assert failing._server is not None and failing._server.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(build_pid(tmp_path), 0)


def test_an_answer_that_is_an_error_is_told_in_a_line(failing: Failing) -> None:
    failing._server = failing._start_server()
    try:
        failing._wait_until_live()
        with pytest.raises(ShowcaseError, match=r"tiny answered 503: \[queue\] full; see .*serve\.log"):
            failing._post(ASK, b"hello")
    finally:
        failing._server.kill()
        failing._server.wait()


def test_no_answer_in_time_is_told_in_a_line(failing: Failing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showcase, "_ANSWER_TIMEOUT_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", failing._port))
        silent.listen()
        with pytest.raises(ShowcaseError, match=r"tiny gave no answer: .*timed out"):
            failing._post(ASK, b"hello")
