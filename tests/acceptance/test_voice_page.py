"""The microphone on the page, in a real Chromium that hears a WAV file: spoken, understood, done, answered aloud."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cel_expr_python", reason="policies need the extra `decide`")
pytest.importorskip("websockets", reason="the extra speech is not installed")

from tests.acceptance.spoken import NAME, Spoken, assistant
from tests.acceptance.voices import RATE_HZ, write_wav

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package (dependency group dev)")
pytestmark = [pytest.mark.browser, pytest.mark.weights]
SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--use-fake-device-for-media-stream",
]  # fmt: skip
ALLOWED = "--use-fake-ui-for-media-stream"
# What the page's own sound has reached: `AudioBufferSourceNode.start` is counted before the page's script runs.
COUNT_SOUND = """
window.played = { pieces: 0, stopped: 0, loudest: 0 };
const start = AudioBufferSourceNode.prototype.start, stop = AudioBufferSourceNode.prototype.stop;
AudioBufferSourceNode.prototype.start = function (...when) {
	played.pieces += 1;
	for (const sample of this.buffer.getChannelData(0)) played.loudest = Math.max(played.loudest, Math.abs(sample));
	return start.apply(this, when);
};
AudioBufferSourceNode.prototype.stop = function (...when) { played.stopped += 1; return stop.apply(this, when); };
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoken]:
    with assistant(tmp_path_factory.mktemp("spoken")) as running:
        yield running


def silence(duration_s: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 8, int(duration_s * RATE_HZ)).astype("<i2")


def until(page: Any, holds: str) -> None:
    """Wait for an expression to hold; Playwright's own way needs what the page's policy forbids."""
    give_up_s = time.monotonic() + 20
    while not page.evaluate(holds):
        assert time.monotonic() < give_up_s, f"{holds}: {page.evaluate('played')}"
        page.wait_for_timeout(50)


@pytest.fixture
def opened(spoken: Spoken, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page in a browser whose microphone hears the sounds given, one after the other."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium here: `apt-get install chromium`")
    complaints: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browsers = []

        def open_page(*sounds: np.ndarray, allowed: bool = True) -> Any:
            write_wav(tmp_path / "microphone.wav", np.concatenate([*sounds, silence(60)]))
            heard = f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}%noloop"
            arguments = [*ARGUMENTS, heard, *([ALLOWED] if allowed else [])]
            browser = playwright.chromium.launch(executable_path=executable, args=arguments)
            browsers.append(browser)
            page = browser.new_page(viewport={"width": 1200, "height": 1000})
            page.set_default_timeout(25_000)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.add_init_script(COUNT_SOUND)
            page.goto(f"{spoken.server.url}/#{NAME}")
            page.get_by_role("heading", level=1, name=NAME).wait_for()
            return page

        yield open_page
        for browser in browsers:
            browser.close()
    assert complaints == []


def test_a_spoken_cancellation_is_confirmed_aloud_and_happens_with_no_button_pressed(
    spoken: Spoken, opened: Callable[..., Any]
) -> None:
    clip = spoken.clip
    page = opened(silence(1.5), clip("Cancel my subscription."), silence(14), clip("Yes please."))
    page.get_by_label("Signed in as").fill("c-anna")
    page.get_by_role("button", name="Start talking").click()
    replies = page.locator(".log li.bot:has(.outcome)")
    replies.nth(0).wait_for()
    assert "ask" in replies.nth(0).inner_text()
    assert "cancel my subscription" in page.locator(".log li.you").first.inner_text().lower()
    replies.nth(1).wait_for()
    assert "cancelled" in replies.nth(1).inner_text()
    page.get_by_text("From the end of speech to the first sound").wait_for()
    until(page, "played.pieces > 10 && played.loudest > 0.05")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "voice.png", full_page=True)
    page.get_by_role("button", name="Stop talking").click()
    page.get_by_text("The microphone is off.").wait_for()
    assert spoken.shop.get("/customers/c-anna")["status"] == "cancelled"


def test_speaking_over_the_reply_silences_the_page(spoken: Spoken, opened: Callable[..., Any]) -> None:
    clip = spoken.clip
    page = opened(
        silence(1.5), clip("How long can I pause my subscription?"), silence(2.5), clip("Cancel my subscription.")
    )  # fmt: skip
    page.get_by_role("button", name="Start talking").click()
    page.locator(".log li.interrupted").wait_for()
    until(page, "played.stopped > 0")
    page.locator(".log li.bot").nth(1).wait_for()


def test_what_is_typed_is_answered_aloud_and_a_button_stops_it(spoken: Spoken, opened: Callable[..., Any]) -> None:
    page = opened()
    page.get_by_role("button", name="Start talking").click()
    page.get_by_label("Or type").fill("<b>How long can I pause?</b>")
    page.get_by_role("button", name="Send").click()
    assert "<b>How long" in page.locator(".log li.you").first.inner_text()
    until(page, "played.pieces > 0")
    page.get_by_role("button", name="Stop the reply").click()
    until(page, "played.stopped > 0")


def test_another_model_shown_turns_the_microphone_off(spoken: Spoken, opened: Callable[..., Any]) -> None:
    page = opened()
    page.get_by_role("button", name="Start talking").click()
    page.get_by_text("Listening.").wait_for()
    page.get_by_role("link", name="support").click()
    page.get_by_role("heading", level=1, name="support").wait_for()
    page.get_by_role("link", name=NAME).click()
    page.get_by_role("button", name="Start talking").wait_for()


def test_without_leave_to_use_the_microphone_the_page_says_so(spoken: Spoken, opened: Callable[..., Any]) -> None:
    page = opened(allowed=False)
    page.get_by_role("button", name="Start talking").click()
    page.get_by_text("There is no microphone").wait_for()
    assert page.get_by_role("button", name="Start talking").is_enabled()
