"""Talking with the gallery's `support` over HTTP: understood, decided, done in the shop, and told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from gallery.builds import is_built
from gallery.support.scripts import ShopProcess
from tests.acceptance.conftest import Server, start, wait_until_ready
from tests.acceptance.deciding import audit

REPOSITORY = Path(__file__).parents[2] / "var" / "repository"
ANNA = "c-anna"
pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopProcess]:
    if not is_built("support", REPOSITORY):
        pytest.skip("support is not built: make gallery")
    process = ShopProcess(tmp_path_factory.mktemp("shop"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def server(shop: ShopProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("place")
    options = ("--store", f"sqlite:///{folder}/onward.db", "--actions", str(shop.actions))
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
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


def said(client: httpx.Client, text: str, headers: dict[str, str] | None = None, **more: str) -> dict[str, Any]:
    response = client.post("/models/support", json={"text": text, **more}, headers=headers)
    assert response.status_code == 200, response.text
    return cast(dict[str, Any], response.json())


def test_cancel_my_subscription(client: httpx.Client, server: Server, shop: ShopProcess) -> None:
    asked = said(client, "Cancel my subscription.", customer=ANNA)
    assert asked["intent"] == "cancel_subscription" and asked["actions"] == []
    assert shop.get(f"/customers/{ANNA}")["status"] == "active"  # nothing irreversible without a yes
    done = said(client, "yes", customer=ANNA, conversation=asked["conversation"])
    assert [(one["name"], one["state"]) for one in done["actions"]] == [("cancel_subscription", "done")]
    assert done["decision"]["actions"] == done["actions"] and done["package"] == "support"
    assert shop.get(f"/customers/{ANNA}")["status"] == "cancelled"
    with httpx.Client(base_url=server.admin_url) as admin:
        entries = [one for one in audit(admin) if one["subject"] == done["decision"]["decision_id"]]
    assert [one["kind"] for one in entries] == ["decision"] and ANNA not in str(entries)


def test_a_question_is_answered_from_the_help_centre_as_text_too(client: httpx.Client) -> None:
    headers = {"content-type": "text/plain"}
    told = client.post("/models/support", content="how do I store my beans?", headers=headers).json()
    assert told["article"]["title"] and told["article"]["title"] in told["reply"]


def test_a_message_sent_again_with_its_key_is_taken_once(client: httpx.Client) -> None:
    begun = said(client, "hello", customer=ANNA)
    sent = {"text": "what plan do I have?", "customer": ANNA, "conversation": begun["conversation"]}
    first, again = (
        client.post("/models/support", json=sent, headers={"idempotency-key": "message-2"}) for _ in range(2)
    )
    assert again.headers["idempotent-replayed"] == "true" and "idempotent-replayed" not in first.headers
    assert again.json()["reply"] == first.json()["reply"]
    assert again.json()["decision"]["decision_id"] == first.json()["decision"]["decision_id"]


def test_a_conversation_belongs_to_its_customer_and_tenant(client: httpx.Client) -> None:
    begun = said(client, "hello", customer=ANNA)
    for sent, headers in (
        ({"customer": "c-ben"}, {}), ({}, {}), ({"customer": ANNA}, {"x-onward-tenant": "other"}),
    ):  # fmt: skip
        body = {"text": "hello", "conversation": begun["conversation"], **sent}
        response = client.post("/models/support", json=body, headers=headers)
        if headers:  # another tenant's conversation of that id is another conversation
            assert response.status_code == 200
        else:
            assert response.status_code == 404 and response.json()["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    "body",
    [[{"text": "hi"}], {"text": 3}, {"text": "hi", "conversation": "a b"}, {"text": "hi", "conversation": 7},
     {"text": "hi", "customer": 7}, {"text": "hi", "x": 1}, {}],
)  # fmt: skip
def test_what_is_no_message_is_an_input_error(client: httpx.Client, body: Any) -> None:
    response = client.post("/models/support", json=body)
    assert response.status_code == 400 and response.json()["code"].isupper()


def test_messages_of_one_conversation_sent_at_once_are_taken_one_after_the_other(client: httpx.Client) -> None:
    conversation = said(client, "hello", customer=ANNA)["conversation"]
    with ThreadPoolExecutor(max_workers=6) as pool:
        told = list(pool.map(lambda n: said(client, "thanks", customer=ANNA, conversation=conversation), range(6)))
    assert {one["conversation"] for one in told} == {conversation}
    assert len({one["decision"]["decision_id"] for one in told}) == 6


def test_where_the_deadline_passes_it_says_so_and_nothing_happens(client: httpx.Client) -> None:
    told = said(client, "cancel my subscription", {"x-onward-timeout-ms": "0.001"}, customer="c-ben")
    assert told["failure"] == "DEADLINE_EXCEEDED" and told["actions"] == [] and told["reply"]
