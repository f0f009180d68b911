"""A server of several workers is one server: whichever of them answers, the answer is the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from onward.testing import tiny_package
from tests.acceptance.calling import workers_of
from tests.acceptance.conftest import Server, free_port, serving, start, wait_until_ready
from tests.acceptance.deciding import LARGE, Place, Target, audit, until, write_package
from tests.acceptance.test_profiles import write_spending

BODY = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
ORDERS = 60


@pytest.fixture
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@contextlib.contextmanager
def one_client_a_worker(server: Server) -> Iterator[dict[int, httpx.Client]]:
    """A client whose only connection is with one worker, for each of them by its process id."""
    with contextlib.ExitStack() as open_ones:
        found: dict[int, httpx.Client] = {}
        for _ in range(100):
            client = open_ones.enter_context(httpx.Client(base_url=server.url, timeout=30, limits=ONE, verify=False))
            client.get("/v2/health/live")
            port = client._transport._pool.connections[0]._connection._network_stream.get_extra_info("client_addr")[1]  # type: ignore[attr-defined]
            found.setdefault(workers_of(server)[port], client)
            if len(found) == 2:
                break
        yield found


ONE = httpx.Limits(max_connections=1)


def answered(text: str) -> float:
    samples = [sample for family in parse_metrics(text) for sample in family.samples]
    return sum(one.value for one in samples if one.name == "onward_request_duration_seconds_count")


def test_metrics_are_the_sums_on_either_port_and_never_go_back(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--workers", "2") as server:
        with one_client_a_worker(server) as clients:
            for client in clients.values():
                for _ in range(20):
                    assert client.post("/v2/models/tiny/infer", json=BODY).status_code == 200
                assert client.get("/metrics").text.count("# TYPE onward_rows_total counter") == 1
            assert [answered(client.get("/metrics").text) for client in clients.values()] == [40, 40]
            assert answered(httpx.get(server.admin_url + "/metrics").text) == 40
            os.kill(next(iter(clients)), signal.SIGKILL)
        listed = server.admin_url + "/admin/workers"
        until(lambda: httpx.get(listed).json()["replaced"] == 1)
        until(lambda: [one["state"] for one in httpx.get(listed).json()["workers"]] == ["ready", "ready"])
        assert answered(httpx.get(server.admin_url + "/metrics").text) == 40


def test_a_model_is_unloaded_and_loaded_in_every_worker_and_in_those_that_come_later(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    tiny_package(tmp_path / "other" / "1.0.0", name="other")
    with serving(tmp_path, "--workers", "2") as server, httpx.Client(base_url=server.admin_url, timeout=30) as admin:
        commands = "/v2/repository/models/tiny/"
        assert admin.post(commands + "unload").status_code == 200
        with one_client_a_worker(server) as clients:
            for client in clients.values():
                assert client.post("/v2/models/tiny/infer", json=BODY).status_code == 404
                assert client.post("/v2/models/other/infer", json=BODY).status_code == 200
            os.kill(next(iter(clients)), signal.SIGKILL)
        until(lambda: [one["state"] for one in admin.get("/admin/workers").json()["workers"]] == ["ready", "ready"])
        with one_client_a_worker(server) as clients:
            statuses = [client.post("/v2/models/tiny/infer", json=BODY).status_code for client in clients.values()]
            assert statuses == [404, 404]
            assert admin.post(commands + "load").status_code == 200
            for client in clients.values():
                assert client.post("/v2/models/tiny/infer", json=BODY).status_code == 200
                assert client.get("/v2/health/ready").status_code == 200
        assert admin.post("/v2/repository/models/nothing/load").status_code == 404
        assert admin.get("/metrics", headers={"host": "elsewhere.example"}).status_code == 400


async def test_decisions_and_actions_happen_once_whichever_worker_is_asked_and_killed(
    tmp_path: Path, target: Target
) -> None:
    """Every order is sent twice at once, and again after a reset, with its own key; workers are killed meanwhile."""
    write_package(tmp_path / "repository" / "tiny" / "1.0.0")
    place = Place(tmp_path, target)
    decided: dict[str, set[str]] = {}
    resets = 0
    with serving(tmp_path / "repository", "--workers", "2", *place.options) as server:

        async def order(number: int) -> None:
            nonlocal resets
            key = f"order-{number}"
            while True:
                try:  # a connection of its own each time: any worker
                    async with httpx.AsyncClient(base_url=server.url, timeout=30, verify=False) as client:
                        told = await client.post("/models/tiny", json={"x": LARGE}, headers={"idempotency-key": key})
                except httpx.TransportError:
                    resets += 1
                    continue
                assert told.status_code == 200, told.text
                decided.setdefault(key, set()).add(told.json()["decision"]["decision_id"])
                return

        async def kill_some() -> None:
            for slot in (0, 1):
                enough = ORDERS * (slot + 1) // 4
                while len(decided) < enough:
                    await asyncio.sleep(0.005)
                listed = (await asyncio.to_thread(httpx.get, server.admin_url + "/admin/workers")).json()["workers"]
                os.kill(next(one["pid"] for one in listed if one["slot"] == slot), signal.SIGKILL)

        killing = asyncio.create_task(kill_some())
        for start_at in range(0, ORDERS, 12):
            await asyncio.gather(*(order(start_at + index // 2) for index in range(24)))
        await killing
        ids = [decision for one in decided.values() for decision in one]
        assert len(decided) == len(ids) == len(set(ids)) == ORDERS
        await asyncio.to_thread(until, lambda: len(target.effects) >= ORDERS)
        with httpx.Client(base_url=server.admin_url, timeout=30) as admin:
            until(lambda: admin.get("/admin/actions").json()["actions"] == [])
            recorded = Counter(one["subject"] for one in audit(admin) if one["kind"] == "decision")
        assert recorded == Counter(ids)
    assert Counter(effect["decision_id"] for effect in target.effects) == Counter(ids)
    verified = subprocess.run(
        [sys.executable, "-m", "onward", "audit", "verify", "--store", f"sqlite:///{place.store}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_what_one_worker_has_written_of_an_entity_the_other_one_reads_at_once(tmp_path: Path) -> None:
    write_spending(tmp_path / "repository" / "summing" / "1.0.0", policy=False)
    store = ("--store", f"sqlite:///{tmp_path}/onward.db", "--key-file", str(tmp_path / "key"))
    with (
        serving(tmp_path / "repository", "--workers", "2", *store) as server,
        one_client_a_worker(server) as clients,
    ):
        one, other = clients.values()
        for number in range(1, 11):
            writes, reads = (one, other) if number % 2 else (other, one)
            event = {"id": f"e-{number}", "kind": "purchase", "data": {"amount": 10.0}}
            assert writes.post("/profiles/card/events", json=event).status_code == 200
            for client in (reads, writes):
                told = client.post("/models/summing", json={"amount": 1.0, "card": "card"}).json()
                assert told["answer"] == {"total": 1.0 + 10 * number}
        assert one.delete("/profiles/card").status_code == 200
        assert other.post("/models/summing", json={"amount": 1.0, "card": "card"}).json()["answer"] == {"total": 1.0}


def test_a_port_that_another_server_has_is_refused_not_shared(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--workers", "2") as server:
        for port, admin_port in ((server.port, free_port()), (free_port(), int(server.admin_url.rpartition(":")[2]))):
            command = [sys.executable, "-m", "onward", "serve", str(tmp_path), "--workers", "2"]
            command += ["--port", str(port), "--admin-port", str(admin_port)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert ended.returncode == 69 and "cannot listen" in ended.stderr, ended.stderr


def test_while_the_workers_load_the_server_is_live_and_not_ready_on_every_connection(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    running = start(tmp_path, "--workers", "2")
    try:
        seen: list[int] = []
        wait: list[Any] = []
        while not seen or seen[-1] != 200:
            try:
                seen.append(httpx.get(running.url + "/v2/health/ready", timeout=10, verify=False).status_code)
            except httpx.TransportError as refused:
                wait.append(refused)
            assert len(wait) < 5000
        assert set(seen) <= {200, 503} and seen == sorted(seen, reverse=True)  # once ready, on every connection
        for _ in range(20):
            assert httpx.get(running.url + "/v2/health/ready").status_code == 200
            assert httpx.post(running.url + "/v2/models/tiny/infer", json=BODY).status_code == 200
        wait_until_ready(running)
        told = json.loads(httpx.get(running.admin_url + "/admin/models").text)
        assert [one["workers"] for one in told["models"]] == [[0, 1]] or told["models"][0]["workers"] == [1, 0]
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 0, running.log()
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink()
