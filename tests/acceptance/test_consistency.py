"""Each of ten thousand concurrent requests gets its own answer, whoever shared its batch."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_metrics

from tests.acceptance.conftest import Server, serving
from tests.packages import mlp_package

REQUESTS = 10_000
CONNECTIONS = 80


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> ort.InferenceSession:
    """The model as onnxruntime answers it, in this process."""
    folder = mlp_package(tmp_path_factory.mktemp("mlp") / "1.0.0")
    return ort.InferenceSession(str(folder / "model.onnx"))


def v2_request(number: int, features: np.ndarray, *, binary: bool) -> bytes:
    """A whole HTTP request: JSON, or binary both ways."""
    tensor = {"name": "features", "shape": list(features.shape), "datatype": "FP32"}
    head = {"id": str(number), "inputs": [tensor]}
    blob, more = b"", ""
    if binary:
        blob = features.tobytes()
        tensor["parameters"] = {"binary_data_size": len(blob)}
        head["parameters"] = {"binary_data_output": True}
    else:
        tensor["data"] = features.ravel().tolist()
    text = json.dumps(head).encode()
    if binary:
        more = f"Inference-Header-Content-Length: {len(text)}\r\n"
    length = len(text) + len(blob)
    line = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: here\r\n{more}Content-Length: {length}\r\n\r\n"
    return line.encode() + text + blob


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def scores(headers: dict[str, str], body: bytes, number: int, rows: int) -> np.ndarray:
    """The answer's scores, after checking whose they are."""
    length = headers.get("inference-header-content-length")
    head = json.loads(body if length is None else body[: int(length)])
    assert head["id"] == str(number) and head["model_name"] == "mlp"
    (output,) = head["outputs"]
    assert output["name"] == "score" and output["shape"] == [rows, 1]
    return np.array(output["data"], np.float32) if length is None else np.frombuffer(body[int(length) :], np.float32)


async def test_ten_thousand_concurrent_requests_each_get_their_own_answer(
    tensors: Server, session: ort.InferenceSession
) -> None:
    rng = np.random.default_rng(42)
    sizes = rng.integers(1, 9, REQUESTS)
    inputs = [rng.normal(size=(rows, 30)).astype(np.float32) for rows in sizes]
    wanted = [session.run(None, {"features": features})[0].ravel() for features in inputs]
    numbers = iter(range(REQUESTS))
    right = 0

    async def client() -> None:
        nonlocal right
        reader, writer = await asyncio.open_connection("127.0.0.1", tensors.port)
        for number in numbers:
            writer.write(v2_request(number, inputs[number], binary=number % 2 == 0))
            status, headers, body = await asyncio.wait_for(read_answer(reader), 20)
            assert status == 200, body
            found = scores(headers, body, number, len(inputs[number]))
            np.testing.assert_allclose(found, wanted[number], rtol=1e-5, atol=1e-6)
            right += 1
        writer.close()
        await writer.wait_closed()

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    assert right == REQUESTS
    assert time.monotonic() - started < 30


async def test_a_request_that_fails_in_the_runtime_fails_alone(tensors: Server) -> None:
    """An index beyond the table fails its whole batch; the others of the batch are run again and answered."""

    def body(index: int) -> bytes:
        tensor = {"name": "index", "shape": [1], "datatype": "INT64", "data": [index]}
        text = json.dumps({"inputs": [tensor]}).encode()
        return b"POST /v2/models/lookup/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", tensors.port)
        for turn in range(50):
            broken = (number + turn) % 7 == 0
            index = 99 if broken else (number + turn) % 4
            writer.write(body(index))
            status, _, answer = await read_answer(reader)
            if broken:
                assert status == 500 and json.loads(answer)["code"] == "EXECUTION_FAILED"
            else:
                assert status == 200 and json.loads(answer)["outputs"][0]["data"] == [10 + index]
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(40)))


async def test_batches_form_under_load_and_are_counted(tmp_path: Path) -> None:
    mlp_package(tmp_path / "mlp" / "1.0.0")
    features = np.zeros((2, 30), np.float32)
    with serving(tmp_path) as server:

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(v2_request(number, features, binary=False) * 20)  # pipelined
            for _ in range(20):
                assert (await read_answer(reader))[0] == 200
            writer.close()
            await writer.wait_closed()

        await asyncio.gather(*(client(number) for number in range(50)))
        samples = {
            (sample.name, sample.labels.get("le", "")): sample.value
            for family in parse_metrics(httpx.get(server.url + "/metrics").text)
            for sample in family.samples
        }
    assert samples["onward_rows_total", ""] == 2000
    assert samples["onward_request_duration_seconds_count", ""] == 1000
    batches = samples["onward_batch_rows_count", ""]
    assert batches < 500, "nothing shared a batch"
    assert samples["onward_batch_rows_sum", ""] == 2000
    assert samples["onward_batch_rows_bucket", "64"] == batches
