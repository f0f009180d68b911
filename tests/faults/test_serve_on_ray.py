"""The Serve application on a real cluster: its answers are the package's, and no request is lost with a replica."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="Ray is the extra `ray`")

import onward
from tests.faults.ray_cluster import ADDRESS, Node, exported, started
from tests.packages import mlp_package

WIDTH = 30
SIZES = (WIDTH, 2048, 2048, 1)  # a request takes a while: a replica that is killed holds some
CALLERS = 8
INFER = "/v2/models/mlp/infer"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlp_package(tmp_path_factory.mktemp("package") / "mlp", sizes=SIZES)


@pytest.fixture(scope="module")
def node(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = exported(package, tmp_path_factory.mktemp("exported") / "out")
    with started(folder) as node:
        node.deploy()
        node.wait_for_replicas(2)
        yield node


def request(values: Any) -> dict[str, Any]:
    values = np.asarray(values, np.float32).reshape(-1, WIDTH)
    data = {"name": "features", "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}
    return {"inputs": [data]}


def test_answers_through_serves_proxy_are_those_of_the_package_here(node: Node, package: Path) -> None:
    items = np.random.default_rng(3).normal(size=(40, WIDTH)).astype(np.float32)
    with onward.open(package) as pipeline:
        expected = [pipeline({"features": item}).tensors["score"] for item in items]
    for item, here in zip(items, expected, strict=True):
        status, body = node.ask(INFER, json.dumps(request(item)).encode())
        assert status == 200, body
        (output,) = json.loads(body)["outputs"]
        assert np.array_equal(np.asarray(output["data"], np.float32).reshape(output["shape"]), here)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v2/models/none/infer", request([0.0] * WIDTH), 404, "MODEL_NOT_FOUND"),
        (INFER, {"inputs": []}, 400, None),
        (INFER, request([[0.0] * WIDTH] * 2000), 413, None),
    ],
)
def test_errors_are_told_as_behind_onward_serve(
    node: Node, path: str, body: dict[str, Any], status: int, code: str | None
) -> None:
    told, text = node.ask(path, json.dumps(body).encode())
    assert told == status, text
    assert json.loads(text)["code"] == (code or json.loads(text)["code"])


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.long)])
def test_no_request_fails_when_replicas_are_killed_under_load(node: Node, kills: int) -> None:
    with load(node) as told:
        for _ in range(kills):
            killed = kill_one(node)
            node.wait_for_replicas(2, besides=frozenset([killed]))
    assert told.failed == []
    assert told.answered["1.0.0"] > 100


@pytest.mark.long
def test_another_version_takes_over_under_load_from_an_archive_without_a_failed_request(
    node: Node, tmp_path: Path
) -> None:
    archive = tmp_path / "out" / "ray" / "application.zip"
    newer = mlp_package(tmp_path / "mlp", version="1.1.0", seed=8, sizes=SIZES)
    folder = exported(newer, tmp_path / "out", storage_uri=f"file://{archive}")
    before = frozenset(node.replicas())
    with load(node) as told:
        node.deploy(folder)
        node.wait_for_replicas(2, besides=before)
    assert told.failed == []
    assert told.answered["1.0.0"] and told.answered["1.1.0"]
    status, body = node.ask(INFER, json.dumps(request([0.25] * WIDTH)).encode())
    assert (status, json.loads(body)["model_version"]) == (200, "1.1.0")


@pytest.mark.long
def test_the_job_of_the_folder_scores_as_one_without_ray(node: Node, package: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = np.random.default_rng(4).normal(size=(600, WIDTH)).tolist()
    pq.write_table(pa.table({"features": pa.array(values, pa.list_(pa.float64()))}), tmp_path / "in.parquet")
    given = [str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), "--json"]
    node.run("score.sh", *given, RAY_ADDRESS=f"{ADDRESS}:{node.gcs_port}")
    here = str(tmp_path / "here.parquet")
    argv = [sys.executable, "-m", "onward", "batch", str(package), given[0], here, "--json"]
    subprocess.run(argv, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()


class Told:
    """What callers were told: answers by version, and what else."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []
        self.slowest_s = 0.0


@contextlib.contextmanager
def load(node: Node, *, padding: int = 0) -> Iterator[Told]:
    """Callers in closed loops, each with one connection that it keeps, none of which asks twice by itself."""
    told, over = Told(), threading.Event()
    body = json.dumps(request([0.25] * WIDTH)).encode() + b" " * padding

    def ask() -> None:
        headers = {"content-type": "application/json"}
        with httpx.Client(base_url=f"http://127.0.0.1:{node.port}", timeout=60) as client:
            while not over.is_set():
                began_s = time.monotonic()
                try:
                    response = client.post(INFER, content=body, headers=headers)
                    if response.status_code == 200:
                        told.answered[response.json()["model_version"]] += 1
                    else:
                        told.failed.append(f"{response.status_code}: {response.text[:200]}")
                except httpx.HTTPError as error:
                    told.failed.append(repr(error))
                told.slowest_s = max(told.slowest_s, time.monotonic() - began_s)

    callers = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        time.sleep(1)
        yield told
        time.sleep(1)
    finally:
        over.set()
        for caller in callers:
            caller.join()


def kill_one(node: Node) -> int:
    """One of the replicas, which held requests, is no more."""
    killed = random.Random(5).choice(node.replicas())
    os.kill(killed, signal.SIGKILL)
    return killed
