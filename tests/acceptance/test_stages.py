"""Packages made of other packages: packed, verified, run and served as any other, and told what is wrong with them."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.package.assembly import assemble
from tests.acceptance.conftest import Server, serving, start, wait_until_ready
from tests.acceptance.deciding import audit
from tests.packages import CHAIN, staged_packages

GALLERY = Path(__file__).parents[2] / "var" / "repository"
BEN = "c-ben"
DESK = """format = 1
[package]
name = "desk"
version = "1.0.0"
task = "dialogue"
description = "Answers what customers write, and counts the letters of nothing."
[[input]]
name = "text"
datatype = "BYTES"
content = "text"
[[input]]
name = "customer"
datatype = "BYTES"
required = false
default = ""
private = true
[[input]]
name = "conversation"
datatype = "BYTES"
required = false
default = ""
[[output]]
name = "reply"
datatype = "BYTES"
content = "text"
[[output]]
name = "outcome"
datatype = "BYTES"
[[output]]
name = "conversation"
datatype = "BYTES"
[[output]]
name = "decision_id"
datatype = "BYTES"
[[stage]]
name = "understand"
package = "support"
version = "1.0.0"
inputs = { text = "text", customer = "customer", conversation = "conversation" }
[answer]
reply = "understand.reply"
outcome = "understand.outcome"
conversation = "understand.conversation"
decision_id = "understand.decision_id"
"""


def onward(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onward", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)


def test_a_folder_is_packed_verified_and_run_with_its_stages(tmp_path: Path) -> None:
    staged_packages(tmp_path / "repository")
    source = tmp_path / "source"
    source.mkdir()
    (source / "onward.toml").write_text(CHAIN.replace('version = "1.0.0"\nlicence', 'version = "2.0.0"\nlicence'))
    out = tmp_path / "repository" / "chain" / "2.0.0"
    packed = onward("pack", source, out, "--repository", tmp_path / "repository")
    assert json.loads(packed.stdout)["version"] == "2.0.0"
    assert json.loads(onward("verify", tmp_path / "repository" / "chain" / "1.0.0").stdout)["examples"] == 1
    told = json.loads(onward("run", out, '{"x": [1, 2, 3], "way": "long"}', "--outputs", "stages_ms").stdout)
    assert told["answer"]["y"] == [12.0, 14.0, 16.0] and set(told["answer"]["stages_ms"]) == {"double", "far"}
    shown = json.loads(onward("inspect", out).stdout)
    assert [stage["package"] for stage in shown["steps"]["stages"]] == ["double", "plus"]
    shutil.rmtree(tmp_path / "repository" / "plus")
    failed = onward("run", out, '{"x": [1, 2, 3]}', check=False)
    assert failed.returncode == 65 and 'stage "far"' in failed.stderr
    refused = onward("pack", source, tmp_path / "again", "--repository", tmp_path / "repository", check=False)
    assert refused.returncode == 65 and 'stage "far"' in refused.stderr and not (tmp_path / "again").exists()


def test_stages_are_served_with_one_id_and_a_missing_one_is_named_until_it_comes(tmp_path: Path) -> None:
    staged_packages(tmp_path / "repository")
    shutil.move(tmp_path / "repository" / "plus", tmp_path / "plus")
    with (
        serving(tmp_path / "repository", "--watch-interval", "0.2", ready=False) as server,
        httpx.Client(base_url=server.url, timeout=10) as client,
    ):
        until(lambda: client.get("/v2/models/double/ready").status_code == 200)
        missing = client.get("/v2/models/chain/ready")
        assert missing.status_code == 503 and client.get("/v2/health/ready").status_code == 503
        failed = {one["name"]: one for one in httpx.get(f"{server.admin_url}/admin/models").json()["models"]}
        assert 'stage "far"' in failed["chain"]["reason"]
        shutil.move(tmp_path / "plus", tmp_path / "repository" / "plus")
        until(lambda: client.get("/v2/models/chain/ready").status_code == 200)
        answer = client.post("/models/chain?outputs=stages_ms", json={"x": [1, 2, 3], "way": "long"})
        assert answer.json()["answer"]["y"] == [12.0, 14.0, 16.0]
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
        assert answer.headers["server-timing"].startswith("double;dur=")
        assert client.get("/v2/models/chain").json()["platform"] == "onward_stages"
        counted = 'onward_stage_duration_seconds_count{model="chain",stage="far",version="1.0.0"} 1.0'
        assert counted in client.get("/metrics").text
        assert client.post("/v2/models/chain/infer", json={"inputs": []}).status_code == 400
        assert "/models/chain" in client.get("/openapi.json").json()["paths"]
        assert client.get("/models/chain/example").json()["examples"][0]["input"]["way"] == "long"
        shutil.rmtree(tmp_path / "repository" / "plus")
        until(lambda: client.get("/v2/models/chain/ready").status_code == 503)
        assert 'stage \\"far\\"' in client.post("/models/chain", json={"x": [1, 2, 3], "way": "long"}).text


def test_events_tell_the_way_and_its_end_and_what_is_wrong_before_the_first(tmp_path: Path) -> None:
    staged_packages(tmp_path / "repository")
    events = {"accept": "text/event-stream"}
    with serving(tmp_path / "repository") as server, httpx.Client(base_url=server.url, timeout=10) as client:
        told = client.post("/models/chain", json={"x": [1, 2, 3], "way": "long"}, headers=events)
        assert told.status_code == 200 and told.headers["content-type"].startswith("text/event-stream")
        kind, data = told.text.strip().split("\n")
        end = json.loads(data.removeprefix("data: "))
        assert kind == "event: end" and end["answer"] == {"y": [12.0, 14.0, 16.0]} and end["package"] == "chain"
        assert set(end["stages_ms"]) == {"double", "far"} and end["request_id"] == told.headers["x-request-id"]
        assert client.post("/models/chain", json={"x": [1]}, headers=events).json()["code"] == "WRONG_SHAPE"
        assert client.post("/models/chain", json=[{"x": [1, 2, 3]}], headers=events).status_code == 400


def test_many_clients_at_once_get_their_own_answers(tmp_path: Path) -> None:
    staged_packages(tmp_path / "repository")
    with serving(tmp_path / "repository") as server, httpx.Client(base_url=server.url, timeout=30) as client:

        def ask(number: int) -> bool:
            answer = client.post("/models/chain", json={"x": [number] * 3, "way": "long" if number % 2 else ""})
            wanted = [2.0 * number + (10.0 if number % 2 else 0.0)] * 3
            return bool(answer.json().get("answer") == {"y": wanted})

        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(ask, range(400)))


# --- A stage that talks ---


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("cel_expr_python", reason="policies need the extra `decide`")
    if not (GALLERY / "support" / "1.0.0" / "onward.lock").is_file():
        pytest.skip("support is not built: make gallery")
    from gallery.support.shop.process import ShopProcess

    process = ShopProcess(tmp_path_factory.mktemp("shop"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with `support` and `desk`, which is made of it."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(GALLERY / "support" / "1.0.0", root / "support" / "1.0.0")
    folder = root / "desk" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "onward.toml").write_text(DESK)
    assemble(folder, repositories=[root])
    return root


@pytest.fixture(scope="module")
def served(shop: Any, desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("place")
    options = ("--store", f"sqlite:///{place}/onward.db", "--actions", str(shop.actions))
    running = start(desk, *options, environment={"SHOP_SECRET": shop.secret})
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


@pytest.mark.weights
def test_a_stage_that_talks_acts_once_and_the_action_is_its_own(served: Server, shop: Any) -> None:
    customers = {one["customer"]: one for one in shop.get("/customers")}
    assert customers[BEN]["status"] == "active"
    with httpx.Client(base_url=served.url, timeout=30) as client:
        asked = client.post("/models/desk", json={"text": "cancel my subscription", "customer": BEN}).json()["answer"]
        assert (
            asked["outcome"] == "ask" and asked["conversation"] and shop.get(f"/customers/{BEN}")["status"] == "active"
        )
        yes = {"text": "yes", "customer": BEN, "conversation": asked["conversation"]}
        key = {"idempotency-key": "yes-1"}
        done = client.post("/models/desk", json=yes, headers=key).json()["answer"]
        again = client.post("/models/desk", json=yes, headers=key).json()["answer"]
        assert done["outcome"] == "cancel" and again == done
        told = client.get(f"/decisions/{done['decision_id']}", params={"wait_s": "10"}).json()
        assert [(one["name"], one["state"]) for one in told["actions"]] == [("cancel_subscription", "done")]
        assert told["package"] == "support"
        nobody = client.post("/models/desk", json={"text": "hello"}).json()["answer"]
        assert nobody["reply"] and nobody["outcome"] == "answer"
        stranger = client.post("/models/desk", json={**yes, "customer": "c-anna"})
        assert stranger.status_code == 404
    assert shop.get(f"/customers/{BEN}")["status"] == "cancelled"
    with httpx.Client(base_url=served.admin_url) as admin:
        entries = [one for one in audit(admin) if one["subject"] == done["decision_id"]]
    assert [one["kind"] for one in entries] == ["decision"]


@pytest.mark.weights
def test_without_a_server_a_stage_that_talks_understands_and_does_nothing(desk: Path) -> None:
    package = desk / "desk" / "1.0.0"
    told = json.loads(onward("run", package, "cancel my subscription").stdout)["answer"]
    assert told["reply"] and told["outcome"] and told["conversation"] == "" and told["decision_id"] == ""
    refused = onward("run", package, '{"text": "yes", "conversation": "c_1"}', check=False)
    assert refused.returncode == 65 and "on a server" in refused.stderr


def until(holds: Any, within_s: float = 20.0) -> None:
    give_up_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(httpx.ConnectError):  # it is only just starting
            if holds():
                return
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
