"""Several servers on one PostgreSQL: one log, one outbox, the same caps; and what happens when it stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import serving
from tests.acceptance.deciding import LARGE, SECOND, SMALL, Place, Target, asked, audit, settled, until, write_package
from tests.postgres import Postgres


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    write_package(root / "tiny" / "1.0.0")
    return root


async def test_two_servers_share_caps_keys_and_actions(
    repository: Path,
    tmp_path: Path,
    target: Target,
    postgres_url: str,
) -> None:
    place = Place(tmp_path, target, url=postgres_url)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(repository, *place.options)) for _ in range(2)]
        async with (
            httpx.AsyncClient(base_url=servers[0].url, timeout=60) as one,
            httpx.AsyncClient(base_url=servers[1].url, timeout=60) as other,
        ):
            clients = (one, other)
            answers = await asyncio.gather(
                *(clients[n % 2].post("/models/tiny", json={"x": SECOND}) for n in range(100))
            )
            assert Counter(one.json()["decision"]["outcome"] for one in answers) == {"refund": 20, "review": 80}
            keyed = await asyncio.gather(
                *(
                    clients[n % 2].post("/models/tiny", json={"x": LARGE}, headers={"idempotency-key": "k"})
                    for n in range(20)
                )
            )
        ids = {one.json()["decision"]["decision_id"] for one in keyed}
        assert len(ids) == 1 and sum("idempotent-replayed" not in one.headers for one in keyed) == 1
        paid = [one.json()["decision"] for one in answers if one.json()["decision"]["outcome"] == "refund"]
        with httpx.Client(base_url=servers[0].url, timeout=60) as client:
            for decision_id in (*ids, *(one["decision_id"] for one in paid)):
                assert settled(client, decision_id)["actions"][0]["state"] == "done"
                assert len(target.of(decision_id)) == 1
        with httpx.Client(base_url=servers[1].admin_url) as admin:
            entries = audit(admin)
    assert [entry["sequence"] for entry in entries] == list(range(1, len(entries) + 1))


def test_while_the_database_is_down_nothing_is_decided_and_afterwards_everything_is_as_before(
    repository: Path,
    tmp_path: Path,
    target: Target,
    postgres: Postgres,
    postgres_url: str,
) -> None:
    place = Place(tmp_path, target, url=postgres_url)
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        before = asked(client, LARGE)["decision"]
        assert settled(client, before["decision_id"])["actions"][0]["state"] == "done"
        postgres.stop()
        try:
            for _ in range(3):
                refused = client.post("/models/tiny", json={"x": LARGE}, headers={"idempotency-key": "while-down"})
                assert refused.status_code == 503 and refused.json()["code"] == "STORE_UNAVAILABLE"
            assert client.get(f"/decisions/{before['decision_id']}").status_code == 503
            tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": LARGE}
            assert client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).status_code == 200
            assert client.get("/metrics").status_code == 200
        finally:
            postgres.start()
        headers = {"idempotency-key": "while-down"}
        until(lambda: client.post("/models/tiny", json={"x": LARGE}, headers=headers).status_code == 200)
        again = client.post("/models/tiny", json={"x": LARGE}, headers=headers)
        assert again.headers["idempotent-replayed"] == "true"
        after = settled(client, again.json()["decision"]["decision_id"])
        assert after["actions"][0]["state"] == "done" and len(target.of(after["decision_id"])) == 1
        assert asked(client, SMALL)["decision"]["outcome"] == "approve"
        assert client.get(f"/decisions/{before['decision_id']}").json()["actions"][0]["state"] == "done"


def test_a_server_starts_without_its_database_and_finds_it_later(
    repository: Path,
    tmp_path: Path,
    target: Target,
    postgres: Postgres,
    postgres_url: str,
) -> None:
    place = Place(tmp_path, target, url=postgres_url)
    postgres.stop()
    try:
        with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.post("/models/tiny", json={"x": LARGE}).status_code == 503
            postgres.start()
            until(lambda: client.post("/models/tiny", json={"x": SMALL}).status_code == 200)
    finally:
        postgres.start()
