"""A package with a policy: every answer is a durable decision, and what it wants done is done exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.testing import tiny_package
from tests.acceptance.conftest import Server, serving
from tests.acceptance.deciding import (
    LARGE,
    SECOND,
    SMALL,
    THIRD,
    Place,
    Target,
    asked,
    audit,
    settled,
    write_package,
)  # fmt: skip


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_package(root / "tiny" / "1.0.0")
    tiny_package(root / "plain" / "1.0.0", name="plain")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, target: Target) -> Place:
    return Place(tmp_path_factory.mktemp("place"), target)


@pytest.fixture(scope="module")
def server(repository: Path, place: Place) -> Iterator[Server]:
    with serving(repository, *place.options) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


@pytest.fixture
def admin(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.admin_url, timeout=30) as opened:
        yield opened


# --- An answer is a decision ---


def test_an_answer_comes_with_a_recorded_decision_whose_action_happens_once(
    client: httpx.Client, admin: httpx.Client, target: Target
) -> None:
    told = asked(client, LARGE)
    assert told["answer"] == {"y": [21.0, 1.0, 1.0]} and told.keys() == {
        "answer", "decision", "package", "version", "request_id",
    }  # fmt: skip
    decision = told["decision"]
    assert (decision["outcome"], decision["rule"], decision["reasons"]) == ("decline", "large", ["LARGE"])
    assert decision["arguments"] == {"amount": 21.0}
    (action,) = decision["actions"]
    assert (action["name"], action["state"]) == ("hold", "pending")
    after = settled(client, decision["decision_id"])
    assert after["actions"] == [action | {"state": "done"}] and after["outcome"] == "decline"
    (effect,) = target.of(decision["decision_id"])
    assert effect["arguments"] == {"amount": 21.0, "card": "none"} and effect["package"]["name"] == "tiny"
    kinds = [entry["kind"] for entry in audit(admin) if decision["decision_id"] in (
        entry["subject"], entry["body"].get("decision_id"))]  # fmt: skip
    assert kinds == ["decision", "action.pending", "action.leased", "action.executing", "action.done"]


def test_a_decision_without_actions_is_recorded_too(client: httpx.Client, admin: httpx.Client) -> None:
    decision = asked(client, SMALL)["decision"]
    assert decision["outcome"] == "approve" and decision["actions"] == []
    assert any(entry["subject"] == decision["decision_id"] for entry in audit(admin))
    assert settled(client, decision["decision_id"])["policy"]["name"] == "tiny"


def test_a_list_is_decided_one_by_one_and_recorded_together(client: httpx.Client, target: Target) -> None:
    told = client.post("/models/tiny", json=[{"x": SMALL}, {"x": LARGE}, {"x": SMALL}]).json()
    assert [one["outcome"] for one in told["decisions"]] == ["approve", "decline", "approve"]
    assert [one["y"][0] for one in told["answers"]] == [3.0, 21.0, 3.0]
    settled(client, told["decisions"][1]["decision_id"])
    assert len(target.of(told["decisions"][1]["decision_id"])) == 1


def test_an_action_that_the_operator_did_not_allow_is_denied(client: httpx.Client, admin: httpx.Client) -> None:
    decision = asked(client, THIRD)["decision"]
    (action,) = decision["actions"]
    assert (decision["outcome"], action["state"]) == ("route:nobody", "denied")
    assert settled(client, decision["decision_id"])["actions"] == [action]
    (denied,) = [entry for entry in audit(admin) if entry["subject"] == action["action_id"]]
    assert denied["kind"] == "action.denied" and denied["body"]["why"] == "NO_TARGET"


def test_private_values_stand_in_the_log_only_sealed(
    client: httpx.Client, admin: httpx.Client, target: Target, place: Place
) -> None:
    secret = "card-4711-secret"
    decision = asked(client, LARGE, card=secret)["decision"]
    settled(client, decision["decision_id"])
    assert target.of(decision["decision_id"])[0]["arguments"]["card"] == secret
    (entry,) = [entry for entry in audit(admin) if entry["subject"] == decision["decision_id"]]
    assert entry["key_id"] and secret not in json.dumps(entry)
    with contextlib.closing(sqlite3.connect(place.store)) as database:
        for table in ("audit", "actions"):
            rows = database.execute(f"SELECT * FROM {table}").fetchall()
            assert rows and secret not in repr(rows)
    shown = admin.get(f"/admin/actions/{decision['actions'][0]['action_id']}").json()
    assert shown["payload"]["arguments"]["card"] == secret  # the operator sees what was sent


def test_a_form_is_decided_like_any_other_body(client: httpx.Client) -> None:
    response = client.post("/models/tiny", files={"card": (None, "c9")}, data={"x": "[10, 0, 0]"})
    assert response.status_code == 400  # a form has no lists: nothing is decided on what is no input
    assert "decision" not in response.text


def test_raw_tensors_make_no_decision(client: httpx.Client, admin: httpx.Client) -> None:
    before = len(audit(admin))
    tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": LARGE}
    told = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]})
    assert told.status_code == 200 and told.json()["outputs"][0]["data"][0] == 21.0
    assert len(audit(admin)) == before


def test_a_package_without_a_policy_answers_as_ever(client: httpx.Client) -> None:
    told = client.post("/models/plain", json={"x": LARGE}).json()
    assert told.keys() == {"answer", "package", "version", "request_id"}


@pytest.mark.parametrize("body", [{"x": [1.0]}, {"x": "a"}, {"z": 1}, {}])
def test_what_is_no_input_is_an_error_and_never_a_decision(
    client: httpx.Client, admin: httpx.Client, body: dict[str, Any]
) -> None:
    before = len(audit(admin))
    response = client.post("/models/tiny", json=body)
    assert response.status_code == 400 and "decision" not in response.json()
    assert len(audit(admin)) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-onward-tenant", "a b"), ("x-onward-tenant", ""), ("x-onward-tenant", "x" * 65), ("idempotency-key", ""),
     ("idempotency-key", "a b"), ("idempotency-key", "k" * 256)],
)  # fmt: skip
def test_a_header_that_is_not_valid_is_refused(client: httpx.Client, name: str, value: str) -> None:
    response = client.post("/models/tiny", json={"x": SMALL}, headers={name: value})
    assert response.status_code == 400
    assert (response.json()["code"], response.json()["field"]) == ("MALFORMED_BODY", name)


# --- Without an answer ---


def test_where_the_deadline_passes_the_fallback_is_decided_and_recorded(
    client: httpx.Client, admin: httpx.Client
) -> None:
    response = client.post("/models/tiny", json={"x": LARGE}, headers={"x-onward-timeout-ms": "0.0001"})
    told = response.json()
    assert response.status_code == 200 and told["answer"] is None and told["failure"] == "DEADLINE_EXCEEDED"
    decision = told["decision"]
    assert (decision["outcome"], decision["reasons"]) == ("review", ["MODEL_UNAVAILABLE"])
    assert settled(client, decision["decision_id"])["failure"] == "DEADLINE_EXCEEDED"
    assert any(entry["subject"] == decision["decision_id"] for entry in audit(admin))


def test_an_answer_that_is_no_number_is_no_answer(client: httpx.Client) -> None:
    told = asked(client, [3e38, 0.0, 0.0])  # twice that is beyond what FP32 holds
    assert told["answer"] is None and told["failure"] == "EXECUTION_FAILED"
    assert told["decision"]["outcome"] == "review"


# --- Idempotency keys and tenants ---


def test_a_repeated_request_gets_its_decision_again_and_nothing_happens_twice(
    client: httpx.Client, admin: httpx.Client, target: Target
) -> None:
    headers = {"idempotency-key": "order-1"}
    first = client.post("/models/tiny", json={"x": LARGE}, headers=headers)
    assert "idempotent-replayed" not in first.headers
    decision = first.json()["decision"]
    settled(client, decision["decision_id"])
    entries = len(audit(admin))
    for _ in range(3):
        again = client.post("/models/tiny", json={"x": LARGE}, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        told = again.json()
        assert told["answer"] == first.json()["answer"]
        assert told["decision"] == decision | {"actions": [decision["actions"][0] | {"state": "done"}]}
    assert len(audit(admin)) == entries and len(target.of(decision["decision_id"])) == 1


def test_a_key_with_another_input_is_refused(client: httpx.Client) -> None:
    headers = {"idempotency-key": "order-2"}
    first = asked(client, LARGE, headers)["decision"]
    refused = client.post("/models/tiny", json={"x": SMALL}, headers=headers)
    assert refused.status_code == 422 and refused.json()["code"] == "IDEMPOTENCY_KEY_REUSED"
    other = asked(client, SMALL, headers | {"x-onward-tenant": "other"})["decision"]
    assert other["decision_id"] != first["decision_id"]


async def test_the_same_request_sent_many_times_at_once_is_decided_once(server: Server, target: Target) -> None:
    headers = {"idempotency-key": "order-3"}
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/models/tiny", json={"x": LARGE}, headers=headers) for _ in range(30))
        )
        ids = {answer.json()["decision"]["decision_id"] for answer in answers}
        assert {answer.status_code for answer in answers} == {200} and len(ids) == 1
        assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
        (decision_id,) = ids
        assert (await client.get(f"/decisions/{decision_id}?wait_s=10")).json()["settled"]
    assert len(target.of(decision_id)) == 1


def test_a_decision_is_told_to_its_own_tenant_only(client: httpx.Client) -> None:
    decision = asked(client, SMALL, {"x-onward-tenant": "acme"})["decision"]
    path = f"/decisions/{decision['decision_id']}"
    assert client.get(path, headers={"x-onward-tenant": "acme"}).status_code == 200
    for headers in ({}, {"x-onward-tenant": "other"}):
        response = client.get(path, headers=headers)
        assert response.status_code == 404 and response.json()["code"] == "NOT_FOUND"
    assert client.get("/decisions/nothing").status_code == 404
    assert client.get(path, params={"wait_s": "soon"}).status_code == 400


async def test_a_cap_holds_exactly_however_many_ask_at_once(server: Server, target: Target) -> None:
    headers = {"x-onward-tenant": "capped"}
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        answers = await asyncio.gather(
            *(client.post("/models/tiny", json={"x": SECOND}, headers=headers) for _ in range(200))
        )
        decisions = [answer.json()["decision"] for answer in answers]
        assert Counter(one["outcome"] for one in decisions) == {"refund": 20, "review": 180}
        capped = [one for one in decisions if one["outcome"] == "review"]
        assert all(one["reasons"] == ["RATE_CAP"] and not one["actions"] for one in capped)
        paid = [one["decision_id"] for one in decisions if one["outcome"] == "refund"]
        for decision_id in paid:
            told = (await client.get(f"/decisions/{decision_id}?wait_s=20", headers=headers)).json()
            assert [one["state"] for one in told["actions"]] == ["done"]
    assert [len(target.of(decision_id)) for decision_id in paid] == [1] * 20


# --- People: approvals, retries, the kill switch ---


def test_what_needs_a_person_waits_and_happens_once_it_is_approved(
    client: httpx.Client, admin: httpx.Client, target: Target
) -> None:
    decision = asked(client, [100.0, 0.0, 0.0])["decision"]
    assert [one["state"] for one in decision["actions"]] == ["waiting"]
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "waiting"
    (wanted,) = [
        one
        for one in admin.get("/admin/approvals").json()["approvals"]
        if one["decision_id"] == decision["decision_id"]
    ]
    assert wanted["payload"]["arguments"]["amount"] == 201.0 and wanted["name"] == "hold"
    path = f"/admin/approvals/{wanted['approval_id']}"
    said = {"payload_digest": "0" * 64, "granted": True, "by": "ann"}
    assert admin.post(path, json=said).status_code == 409
    said["payload_digest"] = wanted["payload_digest"]
    assert admin.post(path, json={**said, "by": " "}).status_code == 400
    assert admin.post(path, content=json.dumps(said)).status_code == 415  # as a form of another site would
    assert not target.of(decision["decision_id"])
    granted = admin.post(path, json=said)
    assert granted.status_code == 200 and granted.json()["state"] == "granted"
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "done"
    assert len(target.of(decision["decision_id"])) == 1
    assert admin.post(path, json=said).status_code == 409


def test_what_is_refused_never_happens(client: httpx.Client, admin: httpx.Client, target: Target) -> None:
    decision = asked(client, [150.0, 0.0, 0.0])["decision"]
    (wanted,) = [
        one
        for one in admin.get("/admin/approvals").json()["approvals"]
        if one["decision_id"] == decision["decision_id"]
    ]
    said = {"payload_digest": wanted["payload_digest"], "granted": False, "by": "bob", "note": "too much"}
    assert admin.post(f"/admin/approvals/{wanted['approval_id']}", json=said).json()["state"] == "refused"
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "refused"
    time.sleep(0.5)
    assert not target.of(decision["decision_id"])


def test_while_the_kill_switch_is_on_nothing_begins_and_later_everything_does(
    client: httpx.Client, admin: httpx.Client, target: Target
) -> None:
    assert admin.post("/admin/kill-switch", json={"on": True, "by": "ann", "note": "a drill"}).json()["on"]
    decision = asked(client, LARGE)["decision"]
    time.sleep(1.0)
    assert not target.of(decision["decision_id"])
    listed = admin.get("/admin/actions", params={"state": "pending"}).json()["actions"]
    assert any(one["decision_id"] == decision["decision_id"] for one in listed)
    assert admin.get("/admin/kill-switch").json()["switches"][0]["by"] == "ann"
    assert not admin.post("/admin/kill-switch", json={"on": False, "by": "ann"}).json()["on"]
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "done"
    assert len(target.of(decision["decision_id"])) == 1


def test_an_action_can_be_discarded_and_tried_again_by_a_person(
    client: httpx.Client, admin: httpx.Client, target: Target
) -> None:
    admin.post("/admin/kill-switch", json={"on": True, "by": "ann"})
    decision = asked(client, LARGE)["decision"]
    path = f"/admin/actions/{decision['actions'][0]['action_id']}"
    assert admin.post(f"{path}/confirm", json={"by": "ann"}).status_code == 409
    assert admin.post(f"{path}/discard", json={"by": "ann", "note": "a mistake"}).json()["state"] == "dead"
    admin.post("/admin/kill-switch", json={"on": False, "by": "ann"})
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "dead"
    assert not target.of(decision["decision_id"])
    assert admin.post(f"{path}/retry", json={"by": "ann"}).json()["state"] == "pending"
    assert settled(client, decision["decision_id"])["actions"][0]["state"] == "done"
    history = [entry["kind"] for entry in admin.get(path).json()["history"]]
    assert history[:3] == ["action.pending", "action.dead", "action.pending"] and history[-1] == "action.done"
    assert admin.post("/admin/actions/a_nothing/retry", json={"by": "ann"}).status_code == 404
    assert admin.post(f"{path}/explode", json={"by": "ann"}).status_code == 404


def test_the_admin_port_is_not_for_pages_of_other_sites(admin: httpx.Client) -> None:
    assert admin.get("/admin/audit", headers={"host": "rebound.example:8002"}).status_code == 400
    assert admin.get("/admin/audit", headers={"host": "localhost:8002"}).status_code == 200


def test_metrics_and_openapi_know_the_decisions(client: httpx.Client) -> None:
    asked(client, SMALL)
    text = client.get("/metrics").text
    assert 'onward_decisions_total{failure="",model="tiny",outcome="approve",version="1.0.0"}' in text
    assert "onward_decision_commit_duration_seconds_bucket" in text and "onward_outbox_oldest_seconds" in text
    told = client.get("/openapi.json").json()
    operation = told["paths"]["/models/tiny"]["post"]
    assert {one["name"] for one in operation["parameters"]} >= {"x-onward-tenant", "idempotency-key"}
    plain = told["paths"]["/models/plain"]["post"]
    assert "idempotency-key" not in {one["name"] for one in plain["parameters"]}
    assert client.get("/docs").status_code == 200


def test_each_line_of_a_body_is_decided_and_the_whole_sent_again_decides_nothing_new(client: httpx.Client) -> None:
    items: list[Any] = [{"x": LARGE}, {"x": [1.0]}, {"x": SMALL}, {"x": LARGE}]
    content = b"".join(json.dumps(item).encode() + b"\n" for item in items)
    headers = {"content-type": "application/x-ndjson", "idempotency-key": "file-1"}
    first, again = (
        [json.loads(line) for line in client.post("/models/tiny", content=content, headers=headers).text.splitlines()]
        for _ in range(2)
    )
    assert [line.get("code") for line in first] == [None, "WRONG_SHAPE", None, None]
    assert [line["decision"]["outcome"] for line in first if "decision" in line] == ["decline", "approve", "decline"]
    ids = [[line["decision"]["decision_id"] for line in lines if "decision" in line] for lines in (first, again)]
    assert ids[0] == ids[1] and len(set(ids[0])) == 3
