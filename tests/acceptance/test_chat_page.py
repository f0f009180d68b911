"""The chat on the page, in a real Chromium, with real server, store, relay and shop: what is said is seen to happen."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gallery.builds import is_built
from gallery.support.shop.process import ShopProcess
from tests.acceptance.conftest import Server, start, wait_until_ready

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package (dependency group dev)")
pytestmark = [pytest.mark.browser, pytest.mark.weights]

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "var" / "repository"
SCREENSHOTS = ROOT / "var" / "screenshots"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProcess]:
    if not is_built("support", REPOSITORY):
        pytest.skip("support is not built: make gallery")
    process = ShopProcess(tmp_path_factory.mktemp("shop"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def server(shop: ShopProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = f"sqlite:///{tmp_path_factory.mktemp('place')}/onward.db"
    options = ("--store", store, "--actions", str(shop.actions))
    running = start(REPOSITORY / "support" / "1.0.0", *options, environment={"SHOP_SECRET": shop.secret})
    try:
        wait_until_ready(running)
        for told in shop.get("/events"):
            path = f"{running.url}/profiles/{told['customer']}/events"
            assert httpx.post(path, json=told["event"]).status_code == 200
        yield running
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0, running.log()
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink(missing_ok=True)


@pytest.fixture
def page(server: Server) -> Iterator[Any]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.set_default_timeout(10_000)
        opened.on("console", lambda message: complaints.append(message.text))
        opened.on("pageerror", lambda error: complaints.append(str(error)))
        opened.goto(f"{server.url}/#support")
        opened.get_by_role("heading", level=1, name="support").wait_for()
        yield opened
        browser.close()
    assert complaints == []


def say(page: Any, text: str) -> Any:
    """Send a message and wait for the reply to it."""
    replies = page.locator(".log li.bot")
    before = replies.count()
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send").click()
    replies.nth(before).wait_for()
    return replies.nth(before)


def test_a_refund_is_confirmed_and_seen_to_happen(page: Any, shop: ShopProcess) -> None:
    page.get_by_label("Signed in as").fill("c-cara")
    page.get_by_label("Signed in as").blur()
    asked = say(page, "i want a refund for my last order")
    assert "€15.50" in asked.inner_text() and asked.locator(".chip").count() == 0
    done = say(page, "yes")
    done.locator(".chip.done").wait_for()
    assert "refund · done" in done.inner_text()
    assert [row["cents"] for row in shop.get("/refunds") if row["customer"] == "c-cara"] == [1550]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "chat.png")


def test_a_refund_that_waits_is_seen_to_be_done_once_it_is_approved(
    page: Any, server: Server, shop: ShopProcess
) -> None:
    page.get_by_label("Signed in as").fill("c-anna")
    page.get_by_label("Signed in as").blur()
    say(page, "refund order 10432")
    waiting = say(page, "yes please")
    waiting.locator(".chip.waiting").wait_for()
    (request,) = httpx.get(f"{server.admin_url}/admin/approvals").json()["approvals"]
    answer = httpx.post(
        f"{server.admin_url}/admin/approvals/{request['approval_id']}",
        json={"payload_digest": request["payload_digest"], "granted": True, "by": "test"},
    )
    assert answer.status_code == 200, answer.text
    waiting.locator(".chip.done").wait_for()
    assert [row["cents"] for row in shop.get("/refunds") if row["customer"] == "c-anna"] == [3900]


def test_what_is_said_is_text_and_the_curl_line_asks_the_same(page: Any) -> None:
    say(page, "<img src=x onerror=alert(1)> hello")
    assert "<img src=x" in page.locator(".log li.you").last.inner_text()
    assert page.locator(".log img").count() == 0
    told = subprocess.run(["bash", "-c", page.inner_text("#curl")], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["reply"]


def test_a_new_conversation_begins_anew(page: Any) -> None:
    page.get_by_label("Signed in as").fill("c-ben")
    page.get_by_label("Signed in as").blur()
    say(page, "cancel my subscription")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".log li").count() == 0
    reply = say(page, "yes")
    assert reply.locator(".chip").count() == 0
