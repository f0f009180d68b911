"""Open Inference Protocol V2 as its clients speak it: tritonclient, unchanged, against a real server process."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

import onward
from onward.types import NUMPY_OF_DATATYPE
from tests.acceptance.conftest import Server
from tests.packages import DATATYPES

# Values at the edges of each datatype; three a row.
EDGES: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "FP16": [0.5, -65504.0, 6e-8],
    "FP32": [np.pi, -3.4e38, 1e-45],
    "FP64": [np.pi, -1.7e308, 5e-324],
    "BYTES": ["words", "", "naïve 漢字 \U0001f600 \"quoted\"\n"],
} | {
    kind: [np.iinfo(NUMPY_OF_DATATYPE[kind]).min, np.iinfo(NUMPY_OF_DATATYPE[kind]).max, 1]
    for kind in DATATYPES if "INT" in kind
}  # fmt: skip


@pytest.fixture
def client(tensors: Server) -> Any:
    with triton.InferenceServerClient(tensors.url.removeprefix("http://"), concurrency=4) as opened:
        yield opened


def edges(kind: str, rows: int = 1) -> np.ndarray[Any, Any]:
    """Rows of edge values, each row turned by one; BYTES as bytes."""
    values = [text.encode() for text in EDGES[kind]] if kind == "BYTES" else EDGES[kind]
    array = np.empty((rows, 3), NUMPY_OF_DATATYPE[kind])
    for row in range(rows):
        array[row] = [values[(row + column) % 3] for column in range(3)]
    return array


def tensor(name: str, array: np.ndarray[Any, Any], kind: str, *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), kind)
    return made.set_data_from_numpy(array, binary_data=binary)


def same(found: np.ndarray[Any, Any], sent: np.ndarray[Any, Any], *, text: bool = False) -> None:
    """Equal to the bit; BYTES that came as JSON are text."""
    assert found.shape == sent.shape
    if sent.dtype == object:
        found = np.array([value.encode() if isinstance(value, str) else value for value in found.ravel()], object)
        assert found.tolist() == sent.ravel().tolist()
    else:
        assert found.dtype == sent.dtype
        assert found.tobytes() == sent.tobytes()


def test_the_client_finds_server_and_models_live_ready_and_described(client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata == {"name": "onward", "version": onward.__version__, "extensions": ["binary_tensor_data"]}
    assert client.is_model_ready("mlp") and client.is_model_ready("mlp", "1.0.0")
    assert not client.is_model_ready("nobody") and not client.is_model_ready("mlp", "9.9.9")
    for version in ("", "1.0.0"):
        described = client.get_model_metadata("mlp", version)
        assert described["name"] == "mlp" and described["versions"] == ["1.0.0"]
        assert described["platform"] == "onward_onnx"
        assert described["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 30]}]
        assert described["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]


@pytest.mark.parametrize("kind", DATATYPES)
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("rows", [1, 5])
def test_every_datatype_returns_to_the_bit(
    client: Any, kind: str, binary_in: bool, binary_out: bool, rows: int
) -> None:
    sent = edges(kind, rows)
    asked = [triton.InferRequestedOutput("x_out", binary_data=binary_out)]
    inputs = [tensor("x", sent, kind, binary=binary_in)]
    answer = client.infer(f"echo-{kind.lower()}", inputs, outputs=asked, request_id="mine")
    same(answer.as_numpy("x_out"), sent)
    described = answer.get_response()
    assert described["id"] == "mine"
    assert described["model_name"] == f"echo-{kind.lower()}" and described["model_version"] == "1.0.0"
    output = answer.get_output("x_out")
    assert output["datatype"] == kind and output["shape"] == [rows, 3]
    assert ("data" in output) is not binary_out


@pytest.mark.parametrize("kind", DATATYPES)
def test_outputs_come_binary_when_none_are_named_as_the_client_asks_by_default(client: Any, kind: str) -> None:
    sent = edges(kind, 2)
    answer = client.infer(f"echo-{kind.lower()}", [tensor("x", sent, kind)])
    same(answer.as_numpy("x_out"), sent)
    assert answer.get_output("x_out")["parameters"]["binary_data_size"] > 0


def test_bytes_that_are_not_utf8_are_refused_by_a_graph_and_harm_nobody_else(client: Any) -> None:
    """ONNX strings are UTF-8: a client's other bytes are its own error, whoever shares the batch."""
    whole = tensor("x", edges("BYTES"), "BYTES")
    broken = tensor("x", np.array([[b"\x00\xff", b"\xc3\x28", b"x"]], object), "BYTES")
    pending = [client.async_infer("echo-bytes", [broken if number == 5 else whole]) for number in range(20)]
    for number, one in enumerate(pending):
        if number == 5:
            with pytest.raises(InferenceServerException, match="UTF-8") as caught:
                one.get_result()
            assert caught.value.status() == "400"
        else:
            same(one.get_result().as_numpy("x_out"), edges("BYTES"))


def everything(rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """An input for each datatype: (rows, 2, 2)."""
    made = {}
    for kind in DATATYPES:
        flat = edges(kind, rows * 4).ravel()[: rows * 4]
        made[kind] = flat.reshape(rows, 2, 2)
    return made


@pytest.mark.parametrize("rows", [1, 8, 40])
def test_many_inputs_and_outputs_mix_binary_and_json_in_one_request(client: Any, rows: int) -> None:
    sent = everything(rows)
    inputs = [tensor(f"x_{kind.lower()}", sent[kind], kind, binary=i % 2 == 0) for i, kind in enumerate(DATATYPES)]
    asked = [
        triton.InferRequestedOutput(f"x_{kind.lower()}_out", binary_data=i % 3 == 0) for i, kind in enumerate(DATATYPES)
    ]
    answer = client.infer("echo", inputs[::-1], outputs=asked, model_version="1.0.0")
    for kind in DATATYPES:
        same(answer.as_numpy(f"x_{kind.lower()}_out"), sent[kind])


def test_only_the_outputs_asked_for_are_answered_in_the_order_they_were_asked_for(client: Any) -> None:
    sent = everything(1)
    inputs = [tensor(f"x_{kind.lower()}", sent[kind], kind) for kind in DATATYPES]
    names = ["x_fp16_out", "x_bool_out", "x_bytes_out"]
    answer = client.infer("echo", inputs, outputs=[triton.InferRequestedOutput(name) for name in names])
    assert [output["name"] for output in answer.get_response()["outputs"]] == names
    same(answer.as_numpy("x_fp16_out"), sent["FP16"])


def test_parameters_of_a_request_are_taken(client: Any) -> None:
    sent = edges("FP32")
    answer = client.infer(
        "echo-fp32", [tensor("x", sent, "FP32", binary=False)], priority=3, timeout=5_000_000,
        parameters={"note": "hello", "number": 7}, headers={"x-anything": "1"}, query_params={"a": "b"},
    )  # fmt: skip
    same(answer.as_numpy("x_out"), sent)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_bodies_are_read(client: Any, algorithm: str, binary: bool) -> None:
    sent = edges("FP32", 8)
    answer = client.infer(
        "echo-fp32", [tensor("x", sent, "FP32", binary=binary)],
        request_compression_algorithm=algorithm, response_compression_algorithm=algorithm,
    )  # fmt: skip
    same(answer.as_numpy("x_out"), sent)


def test_the_blocking_client_infers_in_parallel(client: Any) -> None:
    sent = [np.full((1, 3), number, np.float32) for number in range(100)]
    pending = [client.async_infer("echo-fp32", [tensor("x", array, "FP32")]) for array in sent]
    for array, one in zip(sent, pending, strict=True):
        same(one.get_result().as_numpy("x_out"), array)


@pytest.mark.parametrize(
    ("model", "version", "name", "kind", "status", "says"),
    [
        ("nobody", "", "x", "FP32", "404", "no such model"),
        ("echo-fp32", "3.0.0", "x", "FP32", "404", "no such version"),
        ("echo-fp32", "", "y", "FP32", "400", "expected one of x"),
        ("echo-fp32", "", "x", "INT32", "400", "expected FP32"),
        ("echo-bytes", "", "x", "FP64", "400", "expected BYTES"),
    ],
)
def test_the_client_shows_what_was_wrong(
    client: Any, model: str, version: str, name: str, kind: str, status: str, says: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor(name, edges(kind), kind)], model_version=version)
    assert caught.value.status() == status
    assert says in caught.value.message()


def test_what_is_an_extension_of_tritons_is_a_clear_error(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_config("mlp")
    assert caught.value.status() == "404"
    assert "nothing of that name" in caught.value.message()


async def test_the_asyncio_client_works_alike(tensors: Server) -> None:
    async with triton_aio.InferenceServerClient(tensors.url.removeprefix("http://")) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready("echo") and not await client.is_model_ready("nobody")
        assert (await client.get_server_metadata())["name"] == "onward"
        assert (await client.get_model_metadata("mlp"))["inputs"][0]["shape"] == [-1, 30]
        for kind in DATATYPES:
            for binary_in in (True, False):
                for binary_out in (True, False):
                    sent = edges(kind, 4)
                    answer = await client.infer(
                        f"echo-{kind.lower()}", [tensor("x", sent, kind, binary=binary_in)],
                        outputs=[triton_aio.InferRequestedOutput("x_out", binary_data=binary_out)], request_id="é",
                    )  # fmt: skip
                    same(answer.as_numpy("x_out"), sent)
                    assert answer.get_response()["id"] == "é"
        for algorithm in ("gzip", "deflate"):
            sent = edges("INT64", 3)
            answer = await client.infer(
                "echo-int64", [tensor("x", sent, "INT64")], request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )  # fmt: skip
            same(answer.as_numpy("x_out"), sent)
        with pytest.raises(InferenceServerException, match="no such model"):
            await client.infer("nobody", [tensor("x", edges("FP32"), "FP32")])

        async def one(number: int) -> None:
            array = np.full((number % 5 + 1, 3), number, np.int32)
            same((await client.infer("echo-int32", [tensor("x", array, "INT32")])).as_numpy("x_out"), array)

        await asyncio.gather(*(one(number) for number in range(200)))


async def test_rows_of_different_lengths_are_padded_together(tensors: Server) -> None:
    rng = np.random.default_rng(1)
    async with triton_aio.InferenceServerClient(tensors.url.removeprefix("http://")) as client:

        async def one(rows: int, length: int) -> None:
            ids = rng.integers(-(2**40), 2**40, (rows, length))
            answer = await client.infer("padded", [tensor("ids", ids, "INT64", binary=length % 2 == 0)])
            assert answer.as_numpy("total").tolist() == ids.sum(axis=1).tolist()

        await asyncio.gather(*(one(number % 3 + 1, number + 1) for number in range(60)))


def test_json_data_may_be_nested_by_rows_or_flat(tensors: Server) -> None:
    for data in ([1.5, 2, 3, 4, 5, 6], [[1.5, 2, 3], [4, 5, 6]]):
        body = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": data}]}
        answer = httpx.post(f"{tensors.url}/v2/models/echo-fp32/infer", json=body)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        output = answer.json()["outputs"][0]
        assert output == {"name": "x_out", "datatype": "FP32", "shape": [2, 3], "data": [1.5, 2, 3, 4, 5, 6]}


def test_a_binary_answer_says_where_its_json_ends_and_carries_little_endian_numbers(tensors: Server) -> None:
    body = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "INT16", "data": [1, -2, 258]}],
        "parameters": {"binary_data_output": True},
    }
    answer = httpx.post(f"{tensors.url}/v2/models/echo-int16/infer", json=body)
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    head = json.loads(answer.content[:length])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 6}
    assert struct.unpack("<hhh", answer.content[length:]) == (1, -2, 258)
