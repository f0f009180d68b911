"""Decisions through crashes, a store that is away, and the server's end: what was told is not lost, nor done twice."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from onward.testing import tiny_package
from tests.acceptance.conftest import Server, serving, start, wait_until_ready
from tests.acceptance.deciding import LARGE, POLICY, SMALL, Place, Target, asked, audit, settled, until, write_package


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


@contextlib.contextmanager
def crashing(repository: Path, place: Place, point: str) -> Iterator[Server]:
    running = start(repository, *place.options, environment={"ONWARD_CRASH_AT": point})
    try:
        wait_until_ready(running)
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink(missing_ok=True)


@pytest.mark.parametrize(("point", "recorded"), [("desk.writing", False), ("desk.committed", True)])
def test_a_server_killed_around_the_commit_does_it_once_after_a_restart(
    repository: Path, tmp_path: Path, target: Target, point: str, recorded: bool
) -> None:
    place = Place(tmp_path, target)
    headers = {"idempotency-key": f"killed-{point}"}
    with crashing(repository, place, point) as server:
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{server.url}/models/tiny", json={"x": LARGE}, headers=headers, timeout=20)
        assert server.process.wait(10) == -signal.SIGKILL
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        with httpx.Client(base_url=server.admin_url) as admin:
            decided = [entry["subject"] for entry in audit(admin) if entry["kind"] == "decision"]
        assert len(decided) == recorded
        if recorded:  # it happens although nobody asks again
            until(lambda: len(target.of(decided[0])) == 1)
        again = client.post("/models/tiny", json={"x": LARGE}, headers=headers)
        assert ("idempotent-replayed" in again.headers) == recorded
        decision_id = again.json()["decision"]["decision_id"]
        assert settled(client, decision_id)["actions"][0]["state"] == "done"
        assert len(target.of(decision_id)) == 1 and target.posts[target.of(decision_id)[0]["key"]] == 1


@pytest.mark.long  # a lease has to run out
@pytest.mark.parametrize("point", ["relay.leased", "relay.executing", "relay.sent", "relay.answered"])
def test_a_server_killed_while_it_acts_has_acted_once_after_a_restart(
    repository: Path, tmp_path: Path, target: Target, point: str
) -> None:
    place = Place(tmp_path, target)
    with crashing(repository, place, point) as server:
        with contextlib.suppress(httpx.HTTPError):  # it may be killed before it has told of the decision
            httpx.post(f"{server.url}/models/tiny", json={"x": LARGE}, timeout=20)
        assert server.process.wait(10) == -signal.SIGKILL
    with serving(repository, *place.options) as server:
        with httpx.Client(base_url=server.admin_url) as admin:
            (decided,) = [entry["subject"] for entry in audit(admin) if entry["kind"] == "decision"]
        with httpx.Client(base_url=server.url, timeout=60) as client:
            until(lambda: client.get(f"/decisions/{decided}").json()["actions"][0]["state"] == "done", within_s=60)
    assert len(target.of(decided)) == 1


def test_a_store_that_is_away_refuses_decisions_and_the_server_lives_on(
    repository: Path, tmp_path: Path, target: Target
) -> None:
    place = Place(tmp_path, target)
    place.store.parent.write_text("in the way")  # no folder can be made here
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        refused = client.post("/models/tiny", json={"x": LARGE})
        assert refused.status_code == 503 and refused.json()["code"] == "STORE_UNAVAILABLE"
        assert client.post("/models/plain", json={"x": LARGE}).status_code == 200
        assert client.get("/metrics").status_code == 200
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": LARGE}
        assert client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).status_code == 200
        place.store.parent.unlink()
        until(lambda: client.post("/models/tiny", json={"x": SMALL}).status_code == 200)


def test_a_full_disk_refuses_decisions_and_loses_none_that_was_told(
    repository: Path, tmp_path: Path, target: Target
) -> None:
    place = Place(tmp_path, target)
    told: list[str] = []
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        told.append(asked(client, SMALL)["decision"]["decision_id"])
        # Beyond this size no file of the process can grow, as if the disk were full.
        largest = max(path.stat().st_size for path in place.store.parent.iterdir())
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest + 100_000, resource.RLIM_INFINITY))
        for _ in range(500):
            response = client.post("/models/tiny", json={"x": SMALL})
            if response.status_code != 200:
                break
            told.append(response.json()["decision"]["decision_id"])
        assert (response.status_code, response.json()["code"]) == (503, "STORE_UNAVAILABLE") and len(told) > 5
        assert client.post("/models/plain", json={"x": SMALL}).status_code == 200
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: client.post("/models/tiny", json={"x": SMALL}).status_code == 200)
        for decision_id in told:
            assert client.get(f"/decisions/{decision_id}").status_code == 200
    done = subprocess.run(
        [sys.executable, "-m", "onward", "audit", "verify", *place.options[:2]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_version_that_is_loaded_anew_decides_by_its_new_policy_and_counts_on(tmp_path: Path, target: Target) -> None:
    place, folder = Place(tmp_path, target), tmp_path / "repository" / "tiny" / "1.0.0"
    write_package(folder)
    with serving(tmp_path / "repository", *place.options, "--watch-interval", "0.1") as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            assert asked(client, SMALL)["decision"]["outcome"] == "approve"
            shutil.rmtree(folder)
            write_package(folder, POLICY.replace('default = { outcome = "approve"', 'default = { outcome = "review"'))
            until(lambda: asked(client, SMALL)["decision"]["outcome"] == "review")
            counted = [line for line in client.get("/metrics").text.splitlines() if "onward_decisions_total{" in line]
            assert len(counted) == 2 == len({line.partition("}")[0] for line in counted})
        with httpx.Client(base_url=server.admin_url) as admin:
            digests = {one["body"]["policy"]["digest"] for one in audit(admin) if one["kind"] == "decision"}
        assert len(digests) == 2


def test_sigterm_answers_what_is_under_way_and_finishes_what_it_does(
    repository: Path, tmp_path: Path, target: Target
) -> None:
    place = Place(tmp_path, target)
    target.delay_s = 1.0
    try:
        with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
            decision = asked(client, LARGE)["decision"]
            time.sleep(0.3)  # it is being sent
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(20) == 0
    finally:
        target.delay_s = 0.0
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        told = client.get(f"/decisions/{decision['decision_id']}").json()
        assert told["actions"][0]["state"] == "done"
    assert len(target.of(decision["decision_id"])) == 1


def test_a_server_without_a_relay_records_and_leaves_acting_to_another(
    repository: Path, tmp_path: Path, target: Target
) -> None:
    place = Place(tmp_path, target)
    options = (*place.options, "--no-relay")
    with serving(repository, *options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        decision = asked(client, LARGE)["decision"]
        time.sleep(1.0)
        assert client.get(f"/decisions/{decision['decision_id']}").json()["actions"][0]["state"] == "pending"
    assert not target.of(decision["decision_id"])
    with serving(repository, *place.options) as server, httpx.Client(base_url=server.url, timeout=30) as client:
        assert settled(client, decision["decision_id"])["actions"][0]["state"] == "done"
