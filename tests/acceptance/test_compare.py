"""`onward compare` against real servers: two versions of Onward's own, and NVIDIA Triton where the bench has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.layout import MODELS, VENVS
from bench.peers.contender import Launch, Served
from bench.peers.triton.contender import Triton
from bench.processes import Server as Peer
from bench.processes import free_port
from onward.package.pack import pack
from tests import packages
from tests.acceptance.conftest import Server, serving


def compare(folder: Path, old: str, new: str, lines: list[Any], *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what was found, and standard error."""
    file = folder / "requests.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), "utf-8")
    command = [sys.executable, "-m", "onward", "compare", old, new, "--requests", str(file), *options]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return made.returncode, json.loads(made.stdout) if made.stdout else {}, made.stderr


def bodies(count: int, *, name: str = "features", columns: int = 30) -> list[dict[str, Any]]:
    rows = np.random.default_rng(5).normal(size=(count, columns)).round(4).tolist()
    return [{"inputs": [{"name": name, "datatype": "FP32", "shape": [1, columns], "data": row}]} for row in rows]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("repository")
    packages.mlp_package(root / "mlp" / "1.0.0")
    packages.mlp_package(root / "mlp" / "1.0.1", version="1.0.1")
    packages.mlp_package(root / "mlp" / "2.0.0", version="2.0.0", seed=8)
    with serving(root, "--keep-versions", "3") as running:
        yield running


def version(server: Server, number: str) -> str:
    return f"{server.url}/v2/models/mlp/versions/{number}/infer"


def test_the_same_model_agrees_to_the_bit_and_its_cost_is_told(server: Server, tmp_path: Path) -> None:
    code, found, error = compare(
        tmp_path, version(server, "1.0.0"), version(server, "1.0.1"), bodies(40), "--seconds", "1",
        "--old-pid", str(server.process.pid), "--new-price", "1.5", "--max-p99-ratio", "1000",
    )  # fmt: skip
    assert code == 0, error
    assert found["within_bounds"] and found["agreement"]["equal"] == found["agreement"]["requests"] == 40
    assert found["old"]["requests"] > 100 and found["new"]["requests"] > 100
    assert found["old"]["cpu_s_per_1000"] > 0 and found["new"]["cpu_s_per_1000"] is None
    assert found["new"]["cost_per_million"] == pytest.approx(1.5 / 3600 / found["new"]["per_s"] * 1e6, rel=1e-3)


def test_another_model_does_not_and_the_exit_code_says_so(server: Server, tmp_path: Path) -> None:
    urls = version(server, "1.0.0"), version(server, "2.0.0")
    code, found, error = compare(tmp_path, *urls, bodies(10), "--seconds", "0")
    assert code == 65 and "BEYOND_BOUNDS" in error and "line 1.score" in error
    assert found["agreement"]["differing"] == 10 and found["agreement"]["first"][0]["difference"] > 0.001
    assert compare(tmp_path, *urls, bodies(10), "--seconds", "0", "--tolerance", "1")[0] == 0
    code, found, _ = compare(tmp_path, *urls, bodies(10), "--seconds", "0.5", "--min-agreement", "0",
                             "--max-p99-ratio", "0.0001")  # fmt: skip
    assert code == 65 and len(found["beyond"]) == 1


def test_v2_and_plain_are_one_model_in_two_forms(server: Server, tmp_path: Path) -> None:
    plain = f"{server.url}/models/mlp/versions/1.0.0"
    v2 = version(server, "1.0.1")
    items = [{"features": body["inputs"][0]["data"]} for body in bodies(10)]
    for lines in (bodies(10), items, [*bodies(3), *items[:3]]):
        code, found, error = compare(tmp_path, plain, v2, lines, "--seconds", "0")
        assert code == 0 and found["agreement"]["equal"] == len(lines), error


def test_recorded_requests_go_to_their_own_paths(server: Server, tmp_path: Path) -> None:
    path = "/v2/models/mlp/versions/1.0.0/infer"
    lines = [{"path": path, "headers": {"Content-Type": "application/json"}, "body": body} for body in bodies(5)]
    code, found, error = compare(tmp_path, server.url, version(server, "1.0.1"), lines, "--seconds", "0")
    assert code == 0 and found["agreement"]["equal"] == 5, error


def test_a_mistake_is_told_before_anything_is_asked(server: Server, tmp_path: Path) -> None:
    good = version(server, "1.0.0")
    for old, options, said in (
        (good, ("--output", "score"), "not a pair"), (good, ("--output", "a[b]=c"), "not a path"),
        (server.url, (), "which path"),
    ):  # fmt: skip
        code, _, error = compare(tmp_path, old, good, bodies(1), *options)
        assert code == 64 and said in error and "Traceback" not in error


@pytest.mark.long
def test_triton_and_onward_give_the_same_answers(tmp_path: Path) -> None:
    model = MODELS / "mlp-small"
    if not (VENVS / "triton").is_dir() or not (model / "model.onnx").is_file():
        pytest.skip("the bench has no Triton here: make bench")
    triton, served = Triton(), Served(name="mlp-small", folder=model, form="json")
    triton.install()
    port = free_port()
    launch: Launch = triton.launch(served, triton.settings(served)[1], port)
    pack(model / "model.onnx", tmp_path / "repository" / "mlp-small" / "1.0.0", name="mlp-small")
    lines = bodies(100, name="x")
    with Peer(launch, port, tmp_path / "triton.log") as peer, serving(tmp_path / "repository") as server:
        path = "/v2/models/mlp-small/infer"
        peer.wait_answer(path, json.dumps(lines[0]).encode(), {"Content-Type": "application/json"})
        code, found, error = compare(
            tmp_path, f"http://127.0.0.1:{port}{path}", f"{server.url}{path}", lines, "--seconds", "6",
            "--together", "32", "--new-pid", str(server.process.pid), "--old-pid", str(_pid_at(port)),
        )  # fmt: skip
        items = [{"x": line["inputs"][0]["data"]} for line in lines]
        plain = compare(tmp_path, f"http://127.0.0.1:{port}{path}", f"{server.url}/models/mlp-small", items,
                        "--seconds", "0")  # fmt: skip
    assert code == 0 and found["agreement"]["share"] == 1.0, error
    assert plain[0] == 0, plain[2]
    assert not found["old"]["failures"] and not found["new"]["failures"]


def _pid_at(port: int) -> int:
    """The process of this user whose command line names the port."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"--http-port={port}".encode() in (entry / "cmdline").read_bytes():
                    return int(entry.name)
            except OSError:
                continue
    pytest.fail("no process listens there")
