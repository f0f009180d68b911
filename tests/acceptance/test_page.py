"""The page, driven in a real Chromium against a real server, and the curl lines that it shows, executed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onward.runners.serve import app
from tests.acceptance.conftest import Server, png

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package (dependency group dev)")
pytestmark = pytest.mark.browser

PAGE_BYTES = 30_000
SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A fresh page; afterwards nothing may have been said on its console but what failed requests leave there."""
    context = browser.new_context(viewport={"width": 1360, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(5000)
    complaints: list[str] = []
    strangers: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: is_foreign(request.url, server) and strangers.append(request.url))
    opened.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error('CSP: ' + event.violatedDirective))"
    )
    yield opened
    context.close()
    # Chromium itself reports answers of 4xx on the console; the page shows them as errors.
    refused = "Failed to load resource: the server responded with a status of 4"
    assert [text for text in complaints if not text.startswith(refused)] == []
    assert strangers == []


def is_foreign(url: str, server: Server) -> bool:
    """Whether a request leaves the server that is tested."""
    return not url.startswith((server.url, "blob:", "data:"))


def open_model(page: Any, server: Server, name: str) -> None:
    page.goto(f"{server.url}/#{name}")
    page.get_by_role("heading", level=1, name=name).wait_for()


def curl_answer(page: Any, folder: Path) -> Any:
    """The answer of the shown curl line, executed by a shell."""
    line = page.inner_text("#curl")
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    return json.loads(done.stdout)["answer"]


def fill_loan(page: Any) -> None:
    page.get_by_label("amount").fill("9000")
    page.get_by_label("income").fill("3200")
    page.get_by_label("years_employed").fill("6")
    page.get_by_label("purpose").select_option("car")
    page.get_by_label("customer").select_option("yes")


def run(page: Any) -> None:
    page.get_by_role("button", name="Run").click()


def test_a_filled_form_is_answered_with_label_score_latency_and_a_curl_line_that_works(
    page: Any, server: Server, tmp_path: Path
) -> None:
    open_model(page, server, "loan")
    fill_loan(page)
    page.get_by_label("contributions").check()
    run(page)
    assert page.inner_text("#label") == "approve"
    assert page.inner_text("#score") == "76.8 %"
    assert re.fullmatch(r"[\d.]+ ms", page.inner_text("#latency"))
    shown = page.inner_text("#answer")
    assert "190 points" in shown and "-192" in shown and "loan 1.2.0" in shown
    answer = curl_answer(page, tmp_path)
    assert answer["label"] == "approve" and answer["risk"] == pytest.approx(190.0)
    assert answer["contributions"]["income"] == pytest.approx(-192.0)
    save_screenshot(page, "table-light")


def test_an_image_is_answered_and_its_curl_line_works(page: Any, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "it's a meadow.png"
    file.write_bytes(png((30, 190, 60), (480, 320)))
    open_model(page, server, "shade")
    page.get_by_label("image").set_input_files(file)
    run(page)
    assert page.inner_text("#label") == "green"
    assert page.get_by_role("img", name=file.name).evaluate("image => image.naturalWidth") == 480
    assert curl_answer(page, tmp_path)["label"] == "green"
    page.emulate_media(color_scheme="dark")
    save_screenshot(page, "image-dark")


def test_an_example_fills_the_form_and_an_example_file_can_be_saved_for_curl(
    page: Any, server: Server, tmp_path: Path
) -> None:
    open_model(page, server, "shade")
    page.get_by_role("button", name="Example").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save this file").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    run(page)
    assert page.inner_text("#label") == "blue"
    assert curl_answer(page, tmp_path)["label"] == "blue"
    open_model(page, server, "loan")
    page.get_by_role("button", name="Example").click()
    # Not `wait_for_function`: it evaluates a string in the page, which the page's policy forbids.
    sync_api.expect(page.get_by_label("amount")).to_have_value("9000")
    assert page.get_by_label("purpose").input_value() == "car"


def test_a_bad_value_is_named_with_what_was_expected_and_found(page: Any, server: Server) -> None:
    open_model(page, server, "loan")
    fill_loan(page)
    page.get_by_label("amount").fill("70000")
    run(page)
    shown = page.get_by_role("alert").inner_text()
    for part in ("OUT_OF_RANGE", "amount", "100 to 50000", "70000"):
        assert part in shown
    amount = page.get_by_label("amount")
    assert amount.get_attribute("aria-invalid") == "true"
    assert amount.evaluate("field => field === document.activeElement")
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    save_screenshot(page, "error-narrow")
    amount.fill("9000")
    run(page)
    assert page.inner_text("#label") == "approve"
    assert amount.get_attribute("aria-invalid") == "false"


def test_a_missing_value_and_a_corrupt_file_are_named(page: Any, server: Server) -> None:
    open_model(page, server, "loan")
    run(page)
    assert "MISSING_INPUT" in page.get_by_role("alert").inner_text()
    open_model(page, server, "shade")
    page.get_by_label("image").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"not a picture"})
    run(page)
    page.get_by_text("CORRUPT_MEDIA").wait_for()


def test_pasted_json_fills_the_form_and_the_keyboard_is_enough(page: Any, server: Server) -> None:
    open_model(page, server, "loan")
    page.get_by_text("Paste JSON").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    item = {"amount": 40000.5, "income": 900, "years_employed": 0, "purpose": "home", "customer": False}
    page.keyboard.insert_text(json.dumps(item))
    page.get_by_text("5 fields filled in").wait_for()
    page.keyboard.press("Control+Enter")
    assert page.inner_text("#label") == "decline"
    assert '"amount": 40000.5' in page.inner_text("#curl")


def test_the_page_is_small_and_every_part_of_it_has_the_policy(server: Server) -> None:
    size = 0
    for path in ("/", "/page/page.js", "/page/page.css", "/page/icon.svg"):
        with urllib.request.urlopen(server.url + path) as response:
            size += len(response.read())
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
    assert size < PAGE_BYTES


def test_examples_too_large_to_send_a_page_are_left_out(
    server: Server, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    from onward.pipeline import Pipeline

    class Served:
        pipeline = Pipeline.open(repository / "shade" / "1.0.0")
        signature = pipeline.signature

    assert len(json.loads(app.examples_body(Served()))["examples"]) == 1  # type: ignore[arg-type]
    monkeypatch.setattr(app, "_EXAMPLES_BYTES", 100)
    assert json.loads(app.examples_body(Served())) == {"examples": []}  # type: ignore[arg-type]


def save_screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"page-{name}.png", full_page=True)
