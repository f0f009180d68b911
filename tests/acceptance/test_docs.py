"""The documents say what is so: the quickstart runs as written, the README's examples answer, links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route, WebSocketRoute

from onward.runners.serve.admin import make_admin_app
from onward.runners.serve.app import make_app
from onward.runners.serve.voice.measures import VoiceCollector
from onward.telemetry import DecisionCollector, ModelCollector, ModelMetrics, StreamCollector, StreamMetrics

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NEW_EACH_TIME = ("request_id",)
STEP_TIMEOUT_S = 60.0


class Shell:
    """Runs a page's blocks in a folder, with the default ports replaced by free ones."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.admin_port = free_port(), free_port()
        self.server: subprocess.Popen[bytes] | None = None
        scripts = Path(sys.executable).parent
        self.environment = os.environ | {"PATH": f"{scripts}:{os.environ['PATH']}"}

    def run(self, command: str) -> str:
        """The standard output of a block; what serves goes on in the background."""
        command = command.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        if command.startswith("onward serve"):
            command = f"exec {command.strip()} --port {self.port} --admin-port {self.admin_port}"
            with (self.folder / "serve.log").open("wb") as log:
                self.server = subprocess.Popen(
                    ["bash", "-c", command], cwd=self.folder, env=self.environment, stdout=log, stderr=log
                )
            self._wait_until_ready()
            return ""
        made = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=self.folder, env=self.environment, text=True,
            capture_output=True, timeout=STEP_TIMEOUT_S,
        )  # fmt: skip
        assert made.returncode == 0, f"{command}\n{made.stderr}"
        return made.stdout

    def save(self, source: str) -> None:
        """A Python block, under the name in its first line."""
        name = source.splitlines()[0].removeprefix("# ")
        assert re.fullmatch(r"\w+\.py", name), source
        source = source.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        (self.folder / name).write_text(source, "utf-8")

    def stop(self) -> None:
        """End the server as a person would."""
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(STEP_TIMEOUT_S) == 0

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + STEP_TIMEOUT_S
        while time.monotonic() < until:
            assert self.server is not None and self.server.poll() is None, (self.folder / "serve.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v2/health/ready", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        pytest.fail("the server did not become ready")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    try:
        yield shell
        shell.stop()
    finally:
        if shell.server is not None and shell.server.poll() is None:
            shell.server.kill()
            shell.server.wait()


def without_ids(value: dict[str, Any]) -> dict[str, Any]:
    return {key: part for key, part in value.items() if key not in NEW_EACH_TIME}


def nearly(value: Any) -> Any:
    """A JSON value that equals those whose numbers are nearly the same."""
    if isinstance(value, dict):
        return {key: nearly(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, rel=1e-2) if isinstance(value, float) else value


def test_the_quickstart_runs_as_written_and_answers_what_it_shows(shell: Shell) -> None:
    pytest.importorskip("skl2onnx")
    said, shown = "", 0
    for language, block in BLOCK.findall((ROOT / "docs" / "quickstart.md").read_text("utf-8")):
        if language == "python":
            shell.save(block)
        elif language == "bash":
            said = shell.run(block)
        elif language == "json":
            assert without_ids(json.loads(said)) == nearly(without_ids(json.loads(block))), said
            shown += 1
    assert shown >= 4
    assert shell.server is not None


def beside_the_gallery(folder: Path, name: str) -> Shell:
    """A shell in a folder that has the built packages and the environment where the README's reader has them."""
    if not (ROOT / "var" / "repository" / name / "1.0.0" / "onward.lock").is_file():
        pytest.skip(f"{name} is not built: make gallery")
    shell = Shell(ROOT)
    shell.folder = folder
    (folder / "var").symlink_to(ROOT / "var")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    return shell


@pytest.mark.weights
def test_the_examples_of_the_readme_answer(tmp_path: Path) -> None:
    shell = beside_the_gallery(tmp_path, "vision")
    shell.run("onward serve var/repository/vision/1.0.0")
    try:
        blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
        others = ("recommend", "assistant-llm", "onward batch")
        blocks = [(language, block) for language, block in blocks if not any(name in block for name in others)]
        for language, block in blocks:
            if language == "bash":
                assert "espresso" in shell.run(block)
            elif language == "python":
                (tmp_path / "ask.py").write_text(block)
                assert "espresso" in shell.run("python ask.py")
        assert sum(language in ("bash", "python") for language, _ in blocks) == 3
    finally:
        shell.stop()


@pytest.mark.weights
def test_the_readmes_words_and_sounds_are_made_and_heard(shell: Shell) -> None:
    for name in ("assistant-llm", "voice", "transcriber"):
        if not (ROOT / "var" / "repository" / name / "1.0.0" / "onward.lock").is_file():
            pytest.skip(f"{name} is not built: make gallery")
        (shell.folder / "repository").mkdir(exist_ok=True)
        (shell.folder / "repository" / name).symlink_to(ROOT / "var" / "repository" / name)
    shell.run("onward serve repository")
    blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    (block,) = (block for language, block in blocks if language == "bash" and "assistant-llm" in block)
    told = shell.run(block)
    assert "event: end" in told and json.loads(told.splitlines()[-1])["text"] == "Good morning."


@pytest.mark.weights
def test_the_readmes_event_changes_the_recommendation_after_it(shell: Shell) -> None:
    package = ROOT / "var" / "repository" / "recommend" / "1.0.0"
    if not (package / "onward.lock").is_file():
        pytest.skip("recommend is not built: make gallery")
    blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    (block,) = [block for language, block in blocks if language == "bash" and "recommend" in block]
    shell.run(f"onward serve {package}")
    asking = block[block.rindex("curl") :]
    assert "because you watched" not in shell.run(asking)
    assert "because you watched Star Wars" in shell.run(block)


@pytest.mark.weights
def test_the_readmes_file_is_scored_and_its_folder_answers(tmp_path: Path) -> None:
    shell = beside_the_gallery(tmp_path, "intent")
    blocks = BLOCK.findall((ROOT / "README.md").read_text("utf-8"))
    (block,) = [block for language, block in blocks if language == "bash" and "onward batch" in block]
    said = shell.run(block)
    assert said.count('"_row":') == 2
    assert '{"label":"cancel_subscription"' in said  # the folder's answer
    assert (tmp_path / "deploy" / "kubernetes" / "manifests" / "deployment.yaml").is_file()
    assert shell.run(block)  # and once more, over what is there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_inside_the_project_leads_to_a_file(page: Path) -> None:
    text = BLOCK.sub("", page.read_text("utf-8"))
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert missing == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)]+\.md)\)", index)}
    assert listed == {page.resolve() for page in (ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "index.md"}


def test_the_http_page_lists_every_route() -> None:
    text = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `((?:GET|POST|DELETE|WS) [^`]+)`", text, re.M))
    app, admin = make_app(_NoModels()), make_admin_app(_NoModels())  # type: ignore[arg-type]
    routes = {
        f"{method} {route.path}"
        for route in (*app.routes, *admin.routes)
        if isinstance(route, Route)  # what is mounted besides only says that there is no such route
        for method in (route.methods or set()) - {"HEAD"}
    }
    routes |= {f"WS {route.path}" for route in app.routes if isinstance(route, WebSocketRoute)}
    assert listed == routes - {"GET /page/{file}", "GET /voice/{name}"}
    assert "/page/{file}" in text


def test_the_http_page_lists_every_metric() -> None:
    text = (ROOT / "docs" / "reference" / "http.md").read_text("utf-8")
    listed = {name.removesuffix("_total") for name in re.findall(r"^\| `(onward_\w+)`", text, re.M)}
    models = ModelCollector(lambda: [ModelMetrics("m", "1")])
    streams = StreamCollector(lambda: [StreamMetrics("m", "1")])
    collectors = models, streams, DecisionCollector(list, lambda: None), VoiceCollector(list)
    assert listed == {family.name for collector in collectors for family in collector.collect()}


class _NoModels:
    """Enough of a server's models to list its routes."""

    def metrics(self) -> list[ModelMetrics]:
        return []

    stream_metrics = metrics
