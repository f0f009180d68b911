"""The page's chat with a language model, in a real Chromium: its text as it is written, and the button that stops it.

The page is the server's own; the model behind it writes a word whenever the test lets it, so that nothing here depends
on how fast one is.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from onward.errors import Overloaded
from onward.runners.serve.app import error_response, make_app
from onward.runners.serve.sent_events import SentEvents, sent_events
from onward.types import Event, PackageId, Result
from tests.acceptance.conftest import free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package (dependency group dev)")
pytestmark = pytest.mark.browser
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
WORDS = ["Once ", "upon ", "a <b>time</b>."]


class Writer:
    """Serves one language model's metadata and its answers; each word waits for `words.release()`."""

    def __init__(self) -> None:
        self.words = threading.Semaphore(0)
        self.bodies: list[Any] = []
        self.ended = 0
        self.full = False
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        routes = [
            Route("/models", self._models), Route("/models/writer", self._answer, methods=["POST"]),
            Mount("/", make_app(_NoModels())),  # type: ignore[arg-type]
        ]  # fmt: skip
        config = uvicorn.Config(Starlette(routes=routes), port=port, lifespan="off", log_config=None, ws="none")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    async def _models(self, request: Request) -> Response:
        messages = {"name": "messages", "datatype": "BYTES", "shape": [], "content": "chat", "required": True}
        package = {"version": "1.0.0", "digest": "0" * 64, "task": "chat", "licence": "MIT", "description": "Writes."}
        fields = {"inputs": [messages | {"on_request": False}], "outputs": []}
        model = {"name": "writer", "versions": ["1.0.0"], "package": package, "talks": False, "fields": fields}
        return JSONResponse({"models": [model]})

    async def _answer(self, request: Request) -> Response:
        if self.full:
            return error_response(Overloaded())
        self.bodies.append(await request.json())
        return SentEvents(sent_events(self._events(), b"r1"), b"r1")

    async def _events(self) -> AsyncGenerator[Event, None]:
        try:
            for word in WORDS:
                while not self.words.acquire(blocking=False):
                    await asyncio.sleep(0.01)
                yield Event(kind="delta", text=word)
            identity = PackageId(name="writer", version="1.0.0", digest="")
            yield Event(kind="end", result=Result(answer={"text": "".join(WORDS)}, tensors={}, package=identity))
        finally:
            self.ended += 1


class _NoModels:
    def metrics(self) -> list[Any]:
        return []

    stream_metrics = metrics


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.server.should_exit = True
    made.thread.join(10)


@pytest.fixture
def page(writer: Writer) -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        opened = browser.new_page()
        opened.set_default_timeout(10_000)
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(f"{writer.url}/#writer")
        opened.get_by_role("heading", level=1, name="writer").wait_for()
        yield opened
        browser.close()
    assert [said for said in complaints if "429" not in said] == []


def say(page: Any, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()


def answers(page: Any) -> Any:
    return page.locator(".log li.bot p")


def test_the_text_is_shown_word_by_word_as_text_and_the_conversation_goes_on(page: Any, writer: Writer) -> None:
    say(page, "Tell me a story")
    for count in range(1, len(WORDS) + 1):
        writer.words.release()
        sync_api.expect(answers(page)).to_have_text("".join(WORDS[:count]).strip())
    assert page.locator(".log b", has_text="time").count() == 0
    sync_api.expect(page.get_by_role("button", name="Send")).to_be_enabled()
    assert "first words after" in page.get_by_role("status").inner_text()
    say(page, "Go on")
    answers(page).nth(1).wait_for()
    writer.words.release()
    sync_api.expect(answers(page).nth(1)).to_have_text("Once")
    roles = [(one["role"], one["content"]) for one in writer.bodies[1]["messages"]]
    assert roles == [("user", "Tell me a story"), ("assistant", "".join(WORDS)), ("user", "Go on")]


def test_stop_ends_the_writing_here_and_there_and_keeps_what_was_written(page: Any, writer: Writer) -> None:
    say(page, "Tell me a story")
    writer.words.release()
    sync_api.expect(answers(page)).to_have_text("Once")
    page.get_by_role("button", name="Stop").click()
    sync_api.expect(page.get_by_role("button", name="Send")).to_be_enabled()
    give_up_s = time.monotonic() + 5
    while not writer.ended:
        assert time.monotonic() < give_up_s, "the model still writes"
        page.wait_for_timeout(20)
    assert answers(page).inner_text().strip() == "Once"
    say(page, "Go on")
    sync_api.expect(answers(page)).to_have_count(2)
    page.wait_for_timeout(50)
    assert [one["content"] for one in writer.bodies[1]["messages"]] == ["Tell me a story", "Once ", "Go on"]


def test_a_refusal_is_told_and_the_message_is_not_asked_again(page: Any, writer: Writer) -> None:
    writer.full = True
    say(page, "one")
    assert "queue is full" in page.get_by_role("alert").inner_text()
    writer.full = False
    say(page, "two")
    writer.words.release()
    answers(page).get_by_text("Once").wait_for()
    assert [one["content"] for one in writer.bodies[0]["messages"]] == ["two"]


def test_the_curl_line_asks_the_same(page: Any, writer: Writer) -> None:
    page.get_by_label("Message").fill("It's me")
    for _ in WORDS:
        writer.words.release()
    told = subprocess.run(["bash", "-c", page.inner_text("#curl")], capture_output=True, text=True, check=True).stdout
    assert told.count("event: delta") == 3 and "event: end" in told
    assert writer.bodies == [{"messages": [{"role": "user", "content": "It's me"}]}]
    assert json.loads(told.split("data: ")[-1])["answer"]["text"] == "".join(WORDS)
