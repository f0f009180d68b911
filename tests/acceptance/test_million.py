"""Serving never changes a model: after a million requests its digest and its golden answers are the same to the bit."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
import pytest

from onward.package.digest import read_lock, verify_folder
from tests.acceptance.conftest import Server, serving
from tests.packages import mlp_package

REQUESTS = 1_000_000
CONNECTIONS = 32
PIPELINED = 16
DISTINCT = 64
# Rows of the requests sent in turn.
ROWS = (1, 1, 1, 2, 1, 3, 1, 8)


def golden_answers(server: Server, inputs: np.ndarray) -> list[bytes]:
    """The exact bytes of the score of each input, asked for alone and in binary."""
    answers = []
    with httpx.Client(base_url=server.url) as client:
        for features in inputs:
            tensor = {"name": "features", "shape": [1, 30], "datatype": "FP32", "data": features.tolist()}
            body = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
            answer = client.post("/v2/models/mlp/infer", json=body)
            answers.append(answer.content[int(answer.headers["inference-header-content-length"]) :])
    return answers


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def request(features: np.ndarray) -> bytes:
    tensor = {"name": "features", "shape": list(features.shape), "datatype": "FP32", "data": features.ravel().tolist()}
    text = json.dumps({"inputs": [tensor]}).encode()
    return b"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


@pytest.mark.long
async def test_after_a_million_requests_digest_and_golden_answers_are_the_same_to_the_bit(tmp_path: Path) -> None:
    folder = mlp_package(tmp_path / "mlp" / "1.0.0")
    digest, before_files = read_lock(folder).digest, files(folder)
    session = ort.InferenceSession(str(folder / "model.onnx"))
    rng = np.random.default_rng(3)
    golden = np.concatenate([np.zeros((1, 30)), np.ones((1, 30)), rng.normal(size=(18, 30))]).astype(np.float32)
    inputs = [rng.normal(size=(ROWS[index % len(ROWS)], 30)).astype(np.float32) for index in range(DISTINCT)]
    requests = [request(features) for features in inputs]
    wanted = [session.run(None, {"features": features})[0].ravel() for features in inputs]

    with serving(tmp_path) as server:
        before = golden_answers(server, golden)
        left = REQUESTS
        checked = 0

        async def client(first: int) -> None:
            nonlocal left, checked
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            turn = first
            while left > 0:
                left -= PIPELINED
                numbers = [(turn + index) % DISTINCT for index in range(PIPELINED)]
                writer.write(b"".join(requests[number] for number in numbers))
                for number in numbers:
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 200 "), head
                    at = head.index(b"content-length: ") + 16
                    answer = await reader.readexactly(int(head[at : head.index(b"\r", at)]))
                    if turn % 97 == 0:  # reading every answer's JSON would take longer than making it
                        found = json.loads(answer)["outputs"][0]["data"]
                        np.testing.assert_allclose(found, wanted[number], rtol=1e-5, atol=1e-6)
                        checked += 1
                turn += 1
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(index * 7) for index in range(CONNECTIONS)))
        assert checked > 5000

        counted = httpx.get(server.url + "/metrics").text
        total = next(line for line in counted.splitlines() if line.startswith("onward_request_duration_seconds_count"))
        assert float(total.split()[-1]) >= REQUESTS + len(golden)
        assert "onward_request_failures_total{" not in counted

        assert golden_answers(server, golden) == before
        served = httpx.get(server.url + "/v2/models/mlp").json()["package"]["digest"]
        assert served == digest == read_lock(folder).digest

    verify_folder(folder, read_lock(folder))
    assert files(folder) == before_files
    with serving(tmp_path) as server:  # and a fresh server answers what the tired one did
        assert golden_answers(server, golden) == before
