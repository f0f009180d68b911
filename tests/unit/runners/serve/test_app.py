"""Both ways through the server, fast path and ASGI, answer alike: the same status, the same body, but for the id."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
import uvicorn
from onnx import TensorProto, helper
from uvicorn.server import ServerState

from onward.errors import Cancelled, DeadlineExceeded
from onward.package.repository import Repository
from onward.runners.serve.app import make_app
from onward.runners.serve.exchange import Exchange, Route
from onward.runners.serve.http import protocol_for
from onward.runners.serve.models import Models
from onward.runners.serve.served import ServedModel
from onward.runners.serve.speed import INLINE_BELOW_S, Speed
from tests import packages
from tests.packages import echo_package, mlp_package, padded_package, reader_package
from tests.unit.runners.serve.test_http import Transport, parse

FEATURES = np.linspace(-1, 1, 60).reshape(2, 30).astype(np.float32)


def v2(data: Any = None, **changed: Any) -> bytes:
    tensor = {"name": "features", "shape": [2, 30], "datatype": "FP32", "data": FEATURES.ravel().tolist()}
    return json.dumps({"id": "7", "inputs": [tensor | changed]}).encode()


def v2_binary(*, output: bool, cut: int = 0) -> tuple[bytes, dict[str, str]]:
    blob = FEATURES.tobytes()
    head = {"name": "features", "shape": [2, 30], "datatype": "FP32", "parameters": {"binary_data_size": len(blob)}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": output}}).encode()
    return text + blob[: len(blob) - cut], {"inference-header-content-length": str(len(text))}


MLP = "/v2/models/mlp/infer"
# path, body, headers
REQUESTS: dict[str, tuple[str, bytes, dict[str, str]]] = {
    "JSON": (MLP, v2(), {}),
    "with a version": ("/v2/models/mlp/versions/1.0.0/infer", v2(), {}),
    "nested JSON": (MLP, v2(data=FEATURES.tolist()), {}),
    "binary in": (MLP, *v2_binary(output=False)),
    "binary both ways": (MLP, *v2_binary(output=True)),
    "binary cut": (MLP, *v2_binary(output=True, cut=3)),
    "a query": (MLP + "?a=b", v2(), {}),
    "padded": ("/v2/models/padded/infer", json.dumps(
        {"inputs": [{"name": "ids", "shape": [2, 3], "datatype": "INT64", "data": [1, 2, 3, 4, 5, 6]}]}
    ).encode(), {}),
    "texts": ("/v2/models/reader/infer", json.dumps(
        {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["é", "b"]}]}
    ).encode(), {}),
    "an unknown name": (MLP, v2(name="x"), {}),
    "a wrong datatype": (MLP, v2(datatype="INT8"), {}),
    "a wrong shape": (MLP, v2(shape=[60]), {}),
    "broken JSON": (MLP, v2()[:-2], {}),
    "an empty body": (MLP, b"", {}),
    "a broken header length": (MLP, v2(), {"inference-header-content-length": "x"}),
    "a broken timeout": (MLP, v2(), {"x-onward-timeout-ms": "x"}),
    "an endless timeout": (MLP, v2(), {"x-onward-timeout-ms": "1e300"}),
    "an unknown model": ("/v2/models/nobody/infer", v2(), {}),
    "an unknown version": ("/v2/models/mlp/versions/2/infer", v2(), {}),
    "plain JSON": ("/models/mlp", json.dumps({"features": [0.5] * 30}).encode(), {"content-type": "application/json"}),
    "plain, several": ("/models/mlp", json.dumps([{"features": [x] * 30} for x in range(3)]).encode(), {}),
    "plain, wrong": ("/models/mlp", json.dumps({"features": [0.5] * 29}).encode(), {}),
    "plain, with a version": ("/models/mlp/versions/1.0.0", json.dumps({"features": [1] * 30}).encode(), {}),
    "plain, outputs": ("/models/mlp?outputs=score", json.dumps({"features": [1] * 30}).encode(), {}),
    "plain, unknown output": ("/models/mlp?outputs=x", json.dumps({"features": [1] * 30}).encode(), {}),
    "plain text": ("/models/reader", "grüße".encode(), {"content-type": "text/plain"}),
    "text for numbers": ("/models/mlp", b"hello", {"content-type": "text/plain"}),
    "an unknown type": ("/models/mlp", b"hello", {"content-type": "video/mp4"}),
    "larger than the limit": (MLP, b"x" * ((8 << 20) + 1), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    mlp_package(root / "mlp" / "1.0.0")
    padded_package(root / "padded" / "1.0.0")
    reader_package(root / "reader" / "1.0.0")
    echo_package(root / "echo" / "1.0.0", {"x": "FP16"}, name="echo")
    return root


@pytest.fixture
async def models(repository: Path) -> AsyncIterator[Models]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        served = Models(Repository(repository), pool)
        await served.scan()
        yield served
        await served.close()


async def on_the_fast_path(
    models: Models, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    """The answer on the wire of a protocol with the server's table."""
    app = make_app(models)
    config = uvicorn.Config(app, http=protocol_for(models.routes), ws="none", lifespan="off", log_config=None)
    protocol = protocol_for(models.routes)(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    lines = [f"POST {path} HTTP/1.1", "host: here", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    protocol.data_received("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    for _ in range(2000):
        if transport.written:
            break
        await asyncio.sleep(0.002)
    protocol.connection_lost(None)
    (answer,) = parse(transport.written)
    return answer


def comparable(body: bytes, headers: Any) -> Any:
    """A body without its request id."""
    length = headers.get("inference-header-content-length")
    if length is not None:
        return json.loads(body[: int(length)]), body[int(length) :]
    told = json.loads(body)
    told.pop("request_id", None)
    return told


@pytest.mark.parametrize("case", REQUESTS)
async def test_both_paths_answer_alike(models: Models, case: str) -> None:
    path, body, headers = REQUESTS[case]
    status, fast_headers, fast_body = await on_the_fast_path(models, path, body, headers)
    transport = httpx.ASGITransport(make_app(models))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        slow = await client.post(path, content=body, headers=headers)
    assert slow.status_code == status, slow.text
    assert slow.headers["content-type"] == fast_headers["content-type"]
    told, slow_told = comparable(fast_body, fast_headers), comparable(slow.content, slow.headers)
    if status == 413:  # how much was found depends on how it was read
        told.pop("found"), slow_told.pop("found"), told.pop("error"), slow_told.pop("error")
    assert slow_told == told
    assert fast_headers["x-request-id"] and slow.headers["x-request-id"]


async def test_the_fast_path_knows_every_served_model(models: Models) -> None:
    for name in ("mlp", "padded", "reader", "echo"):
        for version in ("", "/versions/1.0.0"):
            assert f"/v2/models/{name}{version}/infer".encode() in models.routes
            assert f"/models/{name}{version}".encode() in models.routes


async def test_no_answer_differs_from_the_pipelines_own(models: Models) -> None:
    served = models.get("mlp")
    (result,) = await served.answer([{"features": FEATURES[0].tolist()}])
    direct = served.pipeline({"features": FEATURES[0].tolist()})
    assert result.answer == direct.answer
    assert np.array_equal(result.tensors["score"], direct.tensors["score"])


async def test_a_server_that_stops_accepting_is_not_ready_but_answers(models: Models) -> None:
    assert models.ready
    models.stop_accepting()
    assert not models.ready
    status, _, _ = await on_the_fast_path(models, MLP, v2(), {})
    assert status == 200


def pair_package(folder: Path) -> Path:
    """Two tensors of one sequence, `ids` and `mask`, padded both; answers the sum of the ids."""
    value, field = packages.value, packages.field_toml
    made = packages.graph(
        [helper.make_node("ReduceSum", ["ids", "axis"], ["total"], keepdims=0),
         helper.make_node("ReduceMax", ["mask", "axis"], ["most"], keepdims=0)],
        [value(name, TensorProto.INT64, ["n", name]) for name in ("ids", "mask")],
        [value(name, TensorProto.INT64, ["n"]) for name in ("total", "most")], {"axis": np.array([1], np.int64)},
    )  # fmt: skip
    fields = [field("input", name, "INT64", (-1,)) for name in ("ids", "mask")]
    fields += [field("output", name, "INT64", ()) for name in ("total", "most")]
    text = packages.manifest("pair", fields, more="[batching]\npad = { ids = 0, mask = 0 }\n")
    return packages.write(folder, text, {"model.onnx": made})


def tensors(*named: tuple[str, int]) -> bytes:
    inputs = [{"name": name, "shape": [1, n], "datatype": "INT64", "data": [1] * n} for name, n in named]
    return json.dumps({"inputs": inputs}).encode()


async def test_a_padded_tensor_of_no_length_is_a_wrong_shape(models: Models) -> None:
    status, _, body = await on_the_fast_path(models, "/v2/models/padded/infer", tensors(("ids", 0)), {})
    told = json.loads(body)
    assert (status, told["code"], told["field"]) == (400, "WRONG_SHAPE", "ids")
    assert told["expected"] == "length at least 1" and told["found"] == "length 0"


async def test_padded_tensors_that_disagree_in_length_are_a_wrong_shape_whoever_shares_the_batch(
    tmp_path: Path,
) -> None:
    pair_package(tmp_path / "pair" / "1.0.0")
    with ThreadPoolExecutor(max_workers=1) as pool:
        models = Models(Repository(tmp_path), pool)
        await models.scan()
        path = "/v2/models/pair/infer"
        assert (await on_the_fast_path(models, path, tensors(("ids", 5), ("mask", 5)), {}))[0] == 200
        status, _, body = await on_the_fast_path(models, path, tensors(("ids", 5), ("mask", 7)), {})
        told = json.loads(body)
        assert (status, told["code"], told["field"]) == (400, "WRONG_SHAPE", "mask")
        assert "length 5" in told["expected"] and told["found"] == "length 7"
        await models.close()


async def test_preparation_of_what_nobody_waits_for_is_skipped(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    served = models.get("reader")
    prepared: list[Any] = []
    monkeypatch.setattr(served, "_prepare_columns", lambda items: prepared.append(items))
    gone = Exchange(cast(Any, None), Route(served.handle_plain, max_body_bytes=10), {}, b"", True)
    gone.disconnected = True
    later = time.monotonic() + 10
    with pytest.raises(Cancelled):
        served._prepare_in_time([{}], later, gone)
    gone.disconnected = False
    with pytest.raises(DeadlineExceeded):
        served._prepare_in_time([{}], time.monotonic() - 0.001, gone)
    assert not prepared
    served._prepare_in_time([{}], later, gone)
    assert prepared == [[{}]]


async def test_preparation_is_refused_where_the_queue_is_full_of_it(models: Models) -> None:
    served = models.get("reader")
    limit = served.pipeline.manifest.limits.queue_rows
    served.lane.admit(limit, 0)
    texts = json.dumps([{"text": "a"}, {"text": "b"}]).encode()
    status, headers, body = await on_the_fast_path(models, "/models/reader", texts, {})
    assert (status, json.loads(body)["code"]) == (429, "QUEUE_FULL") and headers["retry-after"]
    served.lane.admit(-limit, 0)
    assert (await on_the_fast_path(models, "/models/reader", texts, {}))[0] == 200
    assert served.lane.preparing_rows == 0


async def test_only_what_was_measured_and_always_takes_as_long_runs_on_the_loop(models: Models) -> None:
    assert not models.get("padded").lane.inline  # a longer sequence takes longer
    served = models.get("reader")
    unmeasured = Speed(served.pipeline, [])
    assert not unmeasured.prepare_s < INLINE_BELOW_S
    unmeasured.prepare_s = unmeasured.batch_s = 0.0
    pool = DeferredPool()
    quick = ServedModel(served.pipeline, unmeasured, cast(Any, pool))
    headers = {b"content-type": b"text/plain"}
    for size, on_pool in ((100, 0), (100_000, 1)):
        exchange = Exchange(cast(Any, None), Route(quick.handle_plain, max_body_bytes=1 << 20), headers, b"", True)
        exchange.body, exchange.arrived_s = b"x" * size, time.monotonic()
        quick.handle_plain(exchange)
        assert len(pool.jobs) == on_pool
        exchange.abandon()
    pool.jobs[0].cancel()


class DeferredPool:
    """A pool that is always busy."""

    def __init__(self) -> None:
        self.jobs: list[Future[Any]] = []

    def submit(self, *call: Any) -> Future[Any]:
        self.jobs.append(Future())
        return self.jobs[-1]
