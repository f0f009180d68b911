"""Profiles while serving: what happened to an entity is in the very next answer and decision, and goes when erased."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper

from onward.package.assembly import assemble
from onward.package.examples import Example, write_examples
from tests.acceptance.conftest import Server, model, serving, tensor
from tests.acceptance.deciding import audit

MANIFEST = """format = 1
[package]
name = "spending"
version = "1.0.0"
task = "tabular"
licence = "Apache-2.0"
[[input]]
name = "amount"
datatype = "FP32"
[[input]]
name = "spent"
datatype = "FP32"
required = false
[[input]]
name = "card"
datatype = "BYTES"
required = false
private = true
[profile]
entity = "card"
ttl_s = 86400
[[feature]]
name = "spent"
kind = "purchase"
function = "sum"
field = "amount"
default = 0.0
[[feature]]
name = "purchases"
kind = "purchase"
function = "count"
default = 0
[[output]]
name = "total"
datatype = "FP32"
[[prepare]]
step = "table"
columns = ["amount", "spent"]
[execute]
backend = "onnx"
file = "model.onnx"
"""
POLICY = """format = 1
[policy]
name = "spending"
version = "1"
default = { outcome = "approve", reasons = ["NO_RULE"] }
fallback = { outcome = "review", reasons = ["MODEL_UNAVAILABLE"] }
[[rule]]
name = "often"
when = "profile.purchases >= 3"
outcome = "review"
reasons = ["OFTEN"]
"""


def write_spending(folder: Path, *, policy: bool) -> None:
    """total = amount + spent, which the caller leaves out and the profile fills in."""
    folder.mkdir(parents=True)
    name = folder.parent.name
    (folder / "onward.toml").write_text(MANIFEST.replace('"spending"', f'"{name}"', 1), "utf-8")
    nodes = [helper.make_node("ReduceSum", ["features", "last"], ["total"], keepdims=0)]
    inputs = [tensor("features", TensorProto.FLOAT, ["n", 2])]
    outputs = [tensor("total", TensorProto.FLOAT, ["n"])]
    made = model(nodes, inputs, outputs, {"last": np.array([1], np.int64)})
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    write_examples(folder, [Example(name="nobody", input={"amount": 2.0}, answer={"total": 2.0})])
    if policy:
        (folder / "policy.toml").write_text(POLICY, "utf-8")
    assemble(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, place = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("place")
    write_spending(root / "spending" / "1.0.0", policy=True)
    write_spending(root / "summing" / "1.0.0", policy=False)
    with serving(root, "--store", f"sqlite:///{place}/onward.db", "--key-file", str(place / "key")) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as opened:
        yield opened


def asked(client: httpx.Client, name: str, tenant: str = "default", **item: Any) -> dict[str, Any]:
    response = client.post(f"/models/{name}", json=item, headers={"x-onward-tenant": tenant})
    assert response.status_code == 200, response.text
    return cast(dict[str, Any], response.json())


def bought(client: httpx.Client, card: str, number: int, amount: float, tenant: str = "default") -> None:
    event = {"id": f"{card}-{number}", "kind": "purchase", "data": {"amount": amount}}
    response = client.post(f"/profiles/{card}/events", json=event, headers={"x-onward-tenant": tenant})
    assert response.status_code == 200 and response.json()["accepted"] == 1, response.text


@pytest.mark.parametrize("name", ["spending", "summing"])
def test_an_event_changes_the_very_next_answer(client: httpx.Client, name: str) -> None:
    card = f"card-{name}"
    assert asked(client, name, amount=1.0, card=card)["answer"] == {"total": 1.0}
    for number in range(1, 6):
        bought(client, card, number, 10.0)
        assert asked(client, name, amount=1.0, card=card)["answer"] == {"total": 1.0 + 10 * number}
    assert asked(client, name, amount=1.0, card=card, spent=5.0)["answer"] == {"total": 6.0}
    assert asked(client, name, amount=1.0)["answer"] == {"total": 1.0}
    many = client.post(f"/models/{name}", json=[{"amount": 1.0, "card": card}, {"amount": 2.0}]).json()
    assert [one["total"] for one in many["answers"]] == [51.0, 2.0]


def test_a_decision_sees_the_profile_and_the_log_has_it_sealed(client: httpx.Client, server: Server) -> None:
    for number in range(3):
        assert asked(client, "spending", amount=1.0, card="often")["decision"]["outcome"] == "approve"
        bought(client, "often", number, 7.0)
    decision = asked(client, "spending", amount=1.0, card="often")["decision"]
    assert (decision["outcome"], decision["reasons"]) == ("review", ["OFTEN"])
    with httpx.Client(base_url=server.admin_url) as admin:
        (entry,) = [one for one in audit(admin) if one["subject"] == decision["decision_id"]]
    assert "profile" in entry["body"]["sealed"] and "often" not in json.dumps(entry["body"]["facts"])


def test_tenants_do_not_see_each_others_entities(client: httpx.Client) -> None:
    bought(client, "shared", 1, 100.0, tenant="acme")
    assert asked(client, "spending", "acme", amount=1.0, card="shared")["answer"] == {"total": 101.0}
    assert asked(client, "spending", "other", amount=1.0, card="shared")["answer"] == {"total": 1.0}


def test_an_erased_entity_is_a_stranger_again_and_its_decisions_stay_in_the_log(client: httpx.Client) -> None:
    bought(client, "leaving", 1, 100.0)
    decision = asked(client, "spending", amount=1.0, card="leaving")["decision"]
    erased = client.delete("/profiles/leaving")
    assert erased.status_code == 200 and erased.json()["erased"]["events"] == 1
    assert asked(client, "spending", amount=1.0, card="leaving")["answer"] == {"total": 1.0}
    told = client.get(f"/decisions/{decision['decision_id']}").json()
    assert told["erased"] is True and told["outcome"] == "approve"


@pytest.mark.parametrize("card", ["", "x" * 1000, 7])
def test_what_names_no_entity_is_an_input_error(client: httpx.Client, card: Any) -> None:
    response = client.post("/models/spending", json={"amount": 1.0, "card": card})
    assert response.status_code in (200, 400)
    if response.status_code == 200:  # an empty name is nobody
        assert card == "" and response.json()["answer"] == {"total": 1.0}
    else:
        assert response.json()["field"] == "card" and "decision" not in response.json()


async def test_many_strangers_at_once_are_each_answered_with_their_own(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        events = [{"id": f"many-{n}", "kind": "purchase", "data": {"amount": float(n)}} for n in range(60)]
        added = await asyncio.gather(*(client.post(f"/profiles/m{n}/events", json=events[n]) for n in range(60)))
        assert {one.status_code for one in added} == {200}
        answers = await asyncio.gather(
            *(client.post("/models/spending", json={"amount": 0.0, "card": f"m{n}"}) for n in range(60))
        )
    assert [one.json()["answer"]["total"] for one in answers] == [float(n) for n in range(60)]
