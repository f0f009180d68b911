from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from onward.errors import OnwardError
from onward.package.manifest import Feature, ProfileSource
from onward.prepare.profile import Features
from onward.runners.serve.app import on_onward_error
from onward.runners.serve.profile_routes import MAX_EVENTS, routes
from onward.store.memory import MemoryStore
from onward.store.profiles import Profiles
from onward.store.writer import Writer

NOW = 1_700_000_000.0
SPENT = Feature(name="spent", kinds=("purchase",), function="sum", field="amount", default=0.0)


@pytest.fixture
def client() -> Iterator[httpx.AsyncClient]:
    store = MemoryStore()
    writer = Writer(store)
    features = Features(ProfileSource(entity="card"), [SPENT])
    mounted = routes(Profiles(store, writer), lambda: {"fraud": features, "other": features})
    app = Starlette(routes=mounted, exception_handlers={OnwardError: on_onward_error})
    yield httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://onward")
    writer.close()


def purchase(number: int, amount: float = 2.0) -> dict[str, Any]:
    return {"id": f"p{number}", "kind": "purchase", "at": NOW + number, "data": {"amount": amount}}


async def test_events_are_counted_and_the_next_read_knows_them(client: httpx.AsyncClient) -> None:
    posted = await client.post("/profiles/c%201/events", json=purchase(1))
    assert (posted.status_code, posted.json()) == (200, {"accepted": 1, "duplicate": 0})
    posted = await client.post("/profiles/c%201/events", json=[purchase(n) for n in range(100)])
    assert posted.json() == {"accepted": 99, "duplicate": 1}
    read = (await client.get("/profiles/c%201")).json()
    assert read["entity"] == "c 1"
    assert read["profiles"] == {"fraud": {"spent": 200.0}, "other": {"spent": 200.0}}
    read = (await client.get("/profiles/c%201", params={"as_of": NOW + 3, "package": "fraud"})).json()
    assert (read["as_of"], read["profiles"]) == (NOW + 3, {"fraud": {"spent": 6.0}})
    read = (await client.get("/profiles/c%201", params={"as_of": "2023-11-14T22:13:22Z"})).json()
    assert read["profiles"]["fraud"] == {"spent": 4.0}


async def test_events_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    await client.post("/profiles/c/events", json=[purchase(n) for n in range(5)] + [{"kind": "view", "at": NOW}])
    shown = (await client.get("/profiles/c/events", params={"kind": "purchase", "limit": 2, "before": NOW + 4})).json()
    assert [event["id"] for event in shown["events"]] == ["p3", "p2"]
    assert shown["events"][0]["data"] == {"amount": 2.0}


async def test_a_tenant_neither_sees_nor_deletes_what_is_another_ones(client: httpx.AsyncClient) -> None:
    acme, other = {"x-onward-tenant": "acme"}, {"x-onward-tenant": "other"}
    await client.post("/profiles/c/events", json=purchase(1), headers=acme)
    await client.post("/profiles/c/events", json=purchase(1, 5.0), headers=other)
    assert (await client.get("/profiles/c")).json()["profiles"]["fraud"] == {"spent": 0.0}
    assert (await client.get("/profiles/c", headers=other)).json()["profiles"]["fraud"] == {"spent": 5.0}
    deleted = (await client.delete("/profiles/c", headers=other)).json()
    assert deleted == {"erased": {"keys": 0, "events": 1, "conversations": 0, "recordings": 0}}
    assert (await client.get("/profiles/c", headers=acme)).json()["profiles"]["fraud"] == {"spent": 2.0}
    assert (await client.get("/profiles/c/events", headers=other)).json()["events"] == []


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "MALFORMED_BODY", None),
        (b"[" * 100_000, 400, "MALFORMED_BODY", None),
        (b'"text"', 400, "INVALID_INPUT", None),
        (b'[{"kind": "a"}, {"kind": "a", "at": "x"}]', 400, "INVALID_INPUT", "[1].at"),
        (b'{"kind": "a", "data": {"a": "%b"}}' % (b"x" * 20_000), 413, "TOO_LARGE", "data"),
        (b"[%b]" % b",".join([b'{"kind":"a"}'] * (MAX_EVENTS + 1)), 413, "TOO_LARGE", None),
        (b" " * (9 << 20), 413, "TOO_LARGE", "body"),
    ],
)
async def test_a_body_that_is_no_event_is_refused(
    client: httpx.AsyncClient, body: bytes, status: int, code: str, field: str | None
) -> None:
    refused = await client.post("/profiles/c/events", content=body)
    assert (refused.status_code, refused.json()["code"], refused.json().get("field")) == (status, code, field)
    assert (await client.get("/profiles/c/events")).json()["events"] == []


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/profiles/c?as_of=now", 400, "INVALID_INPUT"),
        ("/profiles/c?as_of=nan", 400, "INVALID_INPUT"),
        ("/profiles/c?package=absent", 404, "MODEL_NOT_FOUND"),
        ("/profiles/c/events?limit=1001", 400, "INVALID_INPUT"),
        ("/profiles/c/events?limit=0", 400, "INVALID_INPUT"),
        ("/profiles/c/events?kind=A", 400, "INVALID_INPUT"),
        (f"/profiles/{'x' * 257}", 400, "INVALID_INPUT"),
        ("/profiles/a%00b", 400, "INVALID_INPUT"),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    refused = await client.get(path)
    assert (refused.status_code, refused.json()["code"]) == (status, code)


async def test_a_tenant_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    assert (await client.get("/profiles/c", headers={"x-onward-tenant": "a b"})).status_code == 400
