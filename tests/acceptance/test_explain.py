"""`onward explain`: what a server knows of a request that it answered, refused or decided."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from onward.errors import NotFound
from onward.runners.explaining import asked
from tests import packages
from tests.acceptance.conftest import Server, serving
from tests.acceptance.deciding import LARGE, Place, Target, audit, write_package


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, target = tmp_path_factory.mktemp("repository"), Target()
    write_package(root / "tiny" / "1.0.0")
    packages.sleeper_package(root / "sleeper" / "1.0.0", max_batch_size=8, queue_rows=8)
    packages.padded_package(root / "padded" / "1.0.0")
    place = Place(tmp_path_factory.mktemp("place"), target)
    try:
        with serving(root, *place.options) as running:
            yield running
    finally:
        target.close()


def ask(server: Server, path: str, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=30)


def explained(server: Server, answer: httpx.Response) -> dict[str, Any]:
    told = httpx.get(f"{server.admin_url}/admin/requests/{answer.headers['x-request-id']}")
    assert told.status_code == 200, told.text
    found: dict[str, Any] = told.json()
    return found


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onward", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def v2(name: str, datatype: str, values: list[Any], shape: list[int]) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": values}]}


def test_times_add_up_and_the_command_tells_the_same(server: Server) -> None:
    answer = ask(server, "/models/sleeper", {"x": [0.1]})
    told = explained(server, answer)
    times = told["times_ms"]
    assert times["run"] > 95 and times["total"] < 10_000
    assert times["total"] == pytest.approx(sum(took for name, took in times.items() if name != "total"), abs=1.0)
    assert (told["package"], told["batch"]["mates"], told["outcome"]) == ("sleeper", 0, "answered")
    digest = httpx.get(f"{server.url}/v2/models/sleeper").json()["package"]["digest"]
    assert told["digest"] == digest
    made = explain(answer.headers["x-request-id"], "--url", server.admin_url)
    assert made.returncode == 0 and json.loads(made.stdout) == told | {
        "arrived_s": json.loads(made.stdout)["arrived_s"]
    }


def test_who_waited_sees_it_and_who_shared_a_batch_sees_with_whom(server: Server) -> None:
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(ask, server, "/models/sleeper", {"x": [1.0]})
        time.sleep(0.3)  # it runs
        rest = [threads.submit(ask, server, "/models/sleeper", {"x": [0.01]}) for _ in range(3)]
        answers = [one.result() for one in (first, *rest)]
    told = [explained(server, answer) for answer in answers]
    slow = [one for one in told if one["times_ms"]["run"] > 990]
    waited = [one for one in told if one["times_ms"]["queue"] > 200]
    assert len(slow) >= 1 and len(waited) >= 2
    assert {one["batch"]["mates"] for one in waited} == {len(waited) - 1}
    assert sorted(one["batch"]["first_row"] for one in waited) == list(range(len(waited)))


def test_padding_is_told_in_lengths(server: Server) -> None:
    answer = ask(server, "/v2/models/padded/infer", v2("ids", "INT64", [1, 2, 3, 4, 5], [1, 5]))
    batch = explained(server, answer)["batch"]
    assert (batch["length"], batch["length_bucket"], batch["padding_share"]) == (5, 8, 0.0)


def test_refusals_are_explained_with_their_code(server: Server) -> None:
    wrong = ask(server, "/models/sleeper", {"y": 1})
    assert explained(server, wrong)["outcome"] == wrong.json()["code"] == "UNKNOWN_INPUT"
    late = ask(server, "/models/sleeper", {"x": [0.0]}, **{"x-onward-timeout-ms": "0.001"})
    assert explained(server, late)["outcome"] == "DEADLINE_EXCEEDED"
    oversize = httpx.post(f"{server.url}/models/sleeper", content=b"[" + b"1," * 20_000_000)
    assert explained(server, oversize)["outcome"] == "TOO_LARGE"


def test_a_decision_is_told_with_its_rule_actions_and_proof(server: Server) -> None:
    answer = ask(server, "/models/tiny", {"x": LARGE}, **{"x-onward-tenant": "acme"})
    said = answer.json()["decision"]
    told = explained(server, answer)
    (decision,) = told["decisions"]
    assert (decision["rule"], decision["outcome"], decision["decision_id"]) == (
        "large", "decline", said["decision_id"],
    )  # fmt: skip
    assert [one["name"] for one in decision["actions"]] == ["hold"]
    with httpx.Client(base_url=server.admin_url) as admin:
        entry = next(one for one in audit(admin) if one["subject"] == said["decision_id"])
    proof = decision["proof"]
    assert proof["holds"] is True and (proof["sequence"], proof["digest"]) == (entry["sequence"], entry["digest"])
    assert told["times_ms"]["decide"] > 0 and told["batch"]["own_rows"] == 1


def test_who_is_unknown_is_said_so(server: Server) -> None:
    made = explain("00000000-1", "--url", server.admin_url)
    assert made.returncode == 66 and "no trace" in made.stderr and "Traceback" not in made.stderr
    nobody = explain("00000000-1", "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 69
    assert explain("x", "--url", "https://127.0.0.1:9").returncode == 64


def test_request_ids_are_no_paths(server: Server) -> None:
    for given in ("../models", "a/b", "%2e%2e", "x" * 5000, "ä"):
        with pytest.raises(NotFound):
            asked(given, server.admin_url)


def test_what_is_kept_is_bounded_and_nothing_of_a_body_is_in_it(server: Server, tmp_path: Path) -> None:
    secret = "a-name-nobody-else-has"
    answer = ask(server, "/models/tiny", {"x": [1, 0, 0], "card": secret})
    assert secret not in json.dumps(explained(server, answer))
