"""The page shows what was decided and how far its actions are, and /docs what the server takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.conftest import Server, serving
from tests.acceptance.deciding import Place, Target, write_package
from tests.acceptance.test_page import browser, open_model, page, run, save_screenshot  # noqa: F401

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    target = Target()
    root = tmp_path_factory.mktemp("repository")
    write_package(root / "tiny" / "1.0.0")
    with serving(root, *Place(tmp_path_factory.mktemp("place"), target).options) as running:
        yield running
    target.close()


def test_an_answer_shows_its_decision_and_its_action_until_it_is_done(page: Any, server: Server) -> None:  # noqa: F811
    open_model(page, server, "tiny")
    page.get_by_label("x", exact=True).fill("10 0 0")
    run(page)
    page.locator("#actions .done").wait_for()
    shown = page.inner_text("#answer")
    assert page.inner_text("#label") == "decline" and "LARGE" in shown and "hold" in shown
    save_screenshot(page, "decision")


def test_what_waits_for_a_person_and_what_is_denied_say_so(page: Any, server: Server) -> None:  # noqa: F811
    open_model(page, server, "tiny")
    for x, state in (("100 0 0", "waiting"), ("0 0 10", "denied")):
        page.get_by_label("x", exact=True).fill(x)
        run(page)
        page.locator(f"#actions .{state}").wait_for()


def test_docs_tell_every_operation(page: Any, server: Server) -> None:  # noqa: F811
    page.goto(f"{server.url}/docs")
    page.get_by_role("heading", level=1, name="API").wait_for()
    shown = page.inner_text("#main")
    assert "/models/tiny" in shown and "idempotency-key" in shown and "/decisions/{id}" in shown
    assert page.locator("section.card").count() > 10
    save_screenshot(page, "docs")
