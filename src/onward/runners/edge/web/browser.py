"""A bundle's answers, given by a real browser: headless, on this machine, with the folder served on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from onward.errors import ExecutionError, MissingExtra
from onward.runners.agreement.inputs import as_json
from onward.types import Item

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_ARGUMENTS = (
    "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--disable-extensions", "--mute-audio",
)  # fmt: skip
_STOP_S = 10.0
_LOOK_S = 0.1
_PAGE = (
    b"""<!doctype html><meta charset="utf-8"><title>Onward</title><script type="module" src="/.checking.js"></script>"""
)
_SCRIPT = Path(__file__).with_name("checking.js")
# As the service worker adds them: without these, browsers give a page no threads.
_ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a browser answered, {"error": code} where it refused, in which browser, and on what device."""

    answers: list[Mapping[str, Any]]
    browser: str
    device: str
    threads: int
    ms_per_answer: float


def browser() -> str | None:
    """The browser that can be driven here, None where there is none."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def answers_in_browser(bundle: Path, items: Sequence[Item], *, timeout_s: float = 600.0) -> Answered:
    """Open the bundle in a browser and have the items answered, one after another.

    Raises `MissingExtra` where there is no browser, and `ExecutionError` where it does not answer.
    """
    executable = browser()
    if executable is None:
        raise MissingExtra("there is no browser to run the bundle in", expected=f"one of {', '.join(BROWSERS)}")
    questions = msgspec.json.encode([_marked(item) for item in items])
    told = threading.Event()
    results: dict[str, Any] = {}

    def tell(body: bytes) -> None:
        results.update(json.loads(body))
        told.set()

    handler = partial(_Host, directory=str(bundle), questions=questions, tell=tell)
    host = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=host.serve_forever, daemon=True)
    serving.start()
    with tempfile.TemporaryDirectory(prefix="onward-browser-", ignore_cleanup_errors=True) as profile:
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium refuses root
        url = f"http://127.0.0.1:{host.server_address[1]}/.checking.html"
        argv = [executable, *_ARGUMENTS, *sandbox, f"--user-data-dir={profile}", url]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until_s = time.monotonic() + timeout_s
            while not told.wait(_LOOK_S) and process.poll() is None and time.monotonic() < until_s:
                pass
            came, ended = told.is_set(), process.poll()
        finally:
            _end(process)
            host.shutdown()
            host.server_close()
    if not came:
        found = "" if ended is None else f"a browser that ended with {ended}"
        raise ExecutionError("the browser does not answer", expected=f"all answers within {timeout_s:g} s", found=found)
    if "failure" in results:
        raise ExecutionError("the bundle does not run in the browser", found=str(results["failure"])[:1000])
    return Answered(**results)


class _Host(SimpleHTTPRequestHandler):
    """The bundle's folder, and beside it the script that asks, its questions, and where it tells the answers."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {
        ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm",
    }  # fmt: skip

    def __init__(self, *arguments: Any, questions: bytes, tell: Any, **options: Any) -> None:
        self._own = {"/.checking.html": ("text/html", _PAGE), "/.questions.json": ("application/json", questions)}
        self._own["/.checking.js"] = ("text/javascript", _SCRIPT.read_bytes())
        self._tell = tell
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        if self.path not in self._own:
            super().do_GET()
            return
        kind, body = self._own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self._tell(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in _ISOLATED.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: the caller's terminal is not a web server's log."""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _marked(item: Item) -> dict[str, Any]:
    return {
        name: {"base64": value} if isinstance(item[name], bytes) else value for name, value in as_json(item).items()
    }
