"""Bad input gets a 4xx with a stable code, the field, what was expected and what was found; nobody else notices."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Server, png


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=20) as opened:
        yield opened


def tensor(**changed: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]} | changed


def infer(*tensors: dict[str, Any], **request: Any) -> bytes:
    return json.dumps({"inputs": list(tensors), **request}).encode()


def binary(head: dict[str, Any], blob: bytes, *, length: int | str | None = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps({"inputs": [head]}).encode()
    return text + blob, {"Inference-Header-Content-Length": str(len(text) if length is None else length)}


BLOB = tensor(data=None, parameters={"binary_data_size": 12})
del BLOB["data"]
FP32 = "/v2/models/echo-fp32/infer"
DEEP = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":' + b"[" * 20_000 + b"]" * 20_000 + b"}]}"

# path, body (or body and headers), status, code, then what the answer has to say of field, expected and found.
V2: dict[str, tuple[str, Any, int, str, str, str, str]] = {
    "unknown model": ("/v2/models/nobody/infer", infer(tensor()), 404, "MODEL_NOT_FOUND", "nobody", "echo-fp32", ""),
    "unknown version": ("/v2/models/mlp/versions/7.7/infer", infer(tensor()), 404,
                        "MODEL_NOT_FOUND", "7.7", "1.0.0", ""),
    "no such path": ("/v2/models/mlp/infect", b"{}", 404, "NOT_FOUND", "", "", ""),
    "wrong name": (FP32, infer(tensor(name="y")), 400, "UNKNOWN_INPUT", "y", "one of x", "'y'"),
    "twice": (FP32, infer(tensor(), tensor()), 400, "UNKNOWN_INPUT", "inputs", "once", "x, x"),
    "wrong datatype": (FP32, infer(tensor(datatype="INT64")), 400, "WRONG_DATATYPE", "x", "FP32", "INT64"),
    "no datatype of ours": (FP32, infer(tensor(datatype="FP8")), 400, "WRONG_DATATYPE", "x", "FP32", "FP8"),
    "wrong shape": (FP32, infer(tensor(shape=[1, 4])), 400, "WRONG_SHAPE", "x", "[-1, 3]", "[1, 4]"),
    "wrong rank": (FP32, infer(tensor(shape=[3])), 400, "WRONG_SHAPE", "x", "[-1, 3]", "[3]"),
    "no rows": (FP32, infer(tensor(shape=[0, 3], data=[])), 400, "WRONG_SHAPE", "x", "[-1, 3]", "[0, 3]"),
    "too few values": (FP32, infer(tensor(data=[1, 2])), 400, "WRONG_SHAPE", "x", "3 elements", "2 elements"),
    "too many values": (FP32, infer(tensor(data=[1] * 4)), 400, "WRONG_SHAPE", "x", "3 elements", "4 elements"),
    "text for a number": (FP32, infer(tensor(data=[1, "2", 3])), 400, "WRONG_DATATYPE", "x[1]", "number", "str"),
    "nothing for a number": (FP32, infer(tensor(data=[1, None, 3])), 400,
                             "WRONG_DATATYPE", "x[1]", "number", "NoneType"),
    "out of range": ("/v2/models/echo-int8/infer", infer(tensor(datatype="INT8", data=[1, 300, 3])), 400,
                     "OUT_OF_RANGE", "x", "-128 to 127", ""),
    "missing tensor": ("/v2/models/echo/infer", infer(tensor(name="x_fp32", shape=[1, 2, 2], data=[1] * 4)), 400,
                       "MISSING_INPUT", "x_bool", "BOOL", ""),
    "no tensors": (FP32, infer(), 400, "MISSING_INPUT", "x", "FP32", ""),
    "no data": (FP32, infer(BLOB | {"parameters": {}}), 400, "MALFORMED_BODY", "x", "data", "no data"),
    "unknown output": (FP32, infer(tensor(), outputs=[{"name": "z"}]), 400, "UNKNOWN_OUTPUT", "z", "x_out", "'z'"),
    "an output twice": (FP32, infer(tensor(), outputs=[{"name": "x_out"}] * 2), 400,
                        "UNKNOWN_OUTPUT", "outputs", "once", "2 outputs"),
    "too many rows": (FP32, infer(tensor(shape=[1025, 3], data=[1] * 3075)), 413,
                      "TOO_LARGE", "x", "1024 rows", "1025"),
    "empty body": (FP32, b"", 400, "MALFORMED_BODY", "body", "JSON", ""),
    "broken JSON": (FP32, infer(tensor())[:-3], 400, "MALFORMED_BODY", "body", "JSON", ""),
    "another JSON": (FP32, b"[1, 2, 3]", 400, "MALFORMED_BODY", "body", "V2", ""),
    "no UTF-8": (FP32, infer(tensor()).replace(b"FP32", b"\xff\xfe"), 400, "MALFORMED_BODY", "body", "JSON", ""),
    "deep JSON": (FP32, DEEP, 400, "MALFORMED_BODY", "body", "JSON", ""),
    "truncated binary": (FP32, binary(BLOB, b"x" * 11), 400, "MALFORMED_BODY", "x", "12 bytes", "11 bytes"),
    "too much binary": (FP32, binary(BLOB, b"x" * 13), 400, "MALFORMED_BODY", "body", "12 bytes", "13 bytes"),
    "wrong binary size": (FP32, binary(BLOB | {"parameters": {"binary_data_size": 8}}, b"x" * 8), 400,
                          "WRONG_SHAPE", "x", "12 bytes", "8 bytes"),
    "negative binary size": (FP32, binary(BLOB | {"parameters": {"binary_data_size": -1}}, b""), 400,
                             "MALFORMED_BODY", "x", "binary_data_size", "-1"),
    "data both ways": (FP32, binary(tensor(parameters={"binary_data_size": 12}), b"x" * 12), 400,
                       "MALFORMED_BODY", "x", "either", ""),
    "header too long": (FP32, binary(BLOB, b"x" * 12, length=10_000), 400, "MALFORMED_BODY",
                        "Inference-Header-Content-Length", "1 to", "10000"),
    "header of no length": (FP32, binary(BLOB, b"x" * 12, length="many"), 400, "MALFORMED_BODY",
                            "nference-", "", "many"),
    "header of endless length": (FP32, binary(BLOB, b"x" * 12, length="9" * 5000), 400, "MALFORMED_BODY",
                                 "nference-", "", ""),
    "broken strings": ("/v2/models/echo-bytes/infer", binary(BLOB | {"datatype": "BYTES"},
                       struct.pack("<III", 9, 9, 9)),
                       400, "MALFORMED_BODY", "x", "9 bytes", "8 bytes"),
    "unknown encoding": (FP32, (infer(tensor()), {"Content-Encoding": "br"}), 415, "UNSUPPORTED_MEDIA",
                         "Content-Encoding", "gzip", "br"),
    "not what the encoding says": (FP32, (infer(tensor()), {"Content-Encoding": "gzip"}), 400, "MALFORMED_BODY",
                                   "body", "gzip", ""),
    "half a compressed body": (FP32, (zlib.compress(infer(tensor()))[:-6], {"Content-Encoding": "deflate"}), 400,
                               "MALFORMED_BODY", "body", "whole", ""),
    "a compressed bomb": (FP32, (zlib.compress(b" " * (64 << 20)), {"Content-Encoding": "deflate"}), 413,
                          "TOO_LARGE", "body", "8388608 bytes", ""),
}  # fmt: skip


def check(answer: httpx.Response, status: int, code: str, field: str, expected: str, found: str) -> None:
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code), told
    assert field in told.get("field", ""), told
    assert expected in told.get("expected", ""), told
    assert found in told.get("found", ""), told
    assert told["error"] and told["request_id"] == answer.headers["x-request-id"]
    assert len(answer.content) < 3000 and "Traceback" not in answer.text


@pytest.mark.parametrize("case", V2)
@pytest.mark.parametrize("escaped", [False, True], ids=["fast path", "ASGI path"])
def test_a_bad_v2_request_is_told_what_would_be_right(
    client: httpx.Client, tensors: Server, case: str, escaped: bool
) -> None:
    path, sent, status, code, field, expected, found = V2[case]
    body, headers = sent if isinstance(sent, tuple) else (sent, {})
    if escaped:
        path = path.replace("/models/", "/mod%65ls/")
    check(client.post(tensors.url + path, content=body, headers=headers), status, code, field, expected, found)


def loan(**changed: Any) -> dict[str, Any]:
    item = {"amount": 9000.0, "income": 3200.0, "years_employed": 6, "purpose": "car", "customer": True}
    return {name: value for name, value in (item | changed).items() if value is not ...}


def broken_png(how: str) -> bytes:
    whole = png((20, 70, 210))
    if how == "cut":
        return whole[: len(whole) // 2]
    if how == "flipped":
        middle = len(whole) // 2
        return whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 20]) + whole[middle + 20 :]
    raise AssertionError(how)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that claims to be huge, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


JSON = {"content-type": "application/json"}
IMAGE = {"content-type": "image/png"}


def as_json(item: Any) -> tuple[bytes, dict[str, str]]:
    return json.dumps(item).encode(), JSON


PLAIN: dict[str, tuple[str, tuple[bytes, dict[str, str]], int, str, str, str, str]] = {
    "unknown model": ("/models/nobody", as_json(loan()), 404, "MODEL_NOT_FOUND", "nobody", "loan", ""),
    "unknown version": ("/models/loan/versions/9", as_json(loan()), 404, "MODEL_NOT_FOUND", "9", "1.2.0", ""),
    "missing field": ("/models/loan", as_json(loan(income=...)), 400, "MISSING_INPUT", "income", "", ""),
    "unknown field": ("/models/loan", as_json(loan(incme=1)), 400, "UNKNOWN_INPUT", "incme", "income", ""),
    "text for a number": ("/models/loan", as_json(loan(income="much")), 400, "WRONG_DATATYPE", "income", "", ""),
    "a list for a number": ("/models/loan", as_json(loan(income=[1])), 400, "", "income", "", ""),
    "below the range": ("/models/loan", as_json(loan(amount=5)), 400, "OUT_OF_RANGE", "amount", "100", "5"),
    "above the range": ("/models/loan", as_json(loan(years_employed=61)), 400,
                        "OUT_OF_RANGE", "years_employed", "60", "61"),
    "an unknown category": ("/models/loan", as_json(loan(purpose="boat")), 400,
                            "WRONG_DATATYPE", "purpose", "car", "boat"),
    "one bad item of three": ("/models/loan", as_json([loan(), loan(amount=5), loan()]), 400, "OUT_OF_RANGE",
                              "[1] amount", "100", ""),
    "no items": ("/models/loan", as_json([]), 400, "MALFORMED_BODY", "body", "at least one", ""),
    "too many items": ("/models/loan", as_json([{}] * 1025), 413, "TOO_LARGE", "body", "1024 items", "1025"),
    "a number": ("/models/loan", as_json(5), 400, "MALFORMED_BODY", "body", "amount", "int"),
    "broken JSON": ("/models/loan", (b'{"amount": ', JSON), 400, "MALFORMED_BODY", "body", "JSON", ""),
    "no UTF-8": ("/models/loan", (b'{"purpose": "\xff\xff"}', JSON), 400, "MALFORMED_BODY", "body", "JSON", ""),
    "deep JSON": ("/models/loan", (b'{"amount":' + b"[" * 30_000 + b"]" * 30_000 + b"}", JSON), 400,
                  "MALFORMED_BODY", "body", "JSON", ""),
    "nothing": ("/models/loan", (b"", JSON), 400, "MALFORMED_BODY", "body", "JSON", ""),
    "an image for a table": ("/models/loan", (png((1, 2, 3)), IMAGE), 415, "UNSUPPORTED_MEDIA", "Content-Type",
                             "application/json", "image/png"),
    "an unknown output": ("/models/loan?outputs=dreams", as_json(loan()), 400, "UNKNOWN_OUTPUT", "dreams", "risk", ""),
    "an image cut short": ("/models/shade", (broken_png("cut"), IMAGE), 400, "CORRUPT_MEDIA", "image", "", ""),
    "an image with flipped bits": ("/models/shade", (broken_png("flipped"), IMAGE), 400,
                                   "CORRUPT_MEDIA", "image", "", ""),
    "no image": ("/models/shade", (b"hello", IMAGE), 400, "CORRUPT_MEDIA", "image", "JPEG", "5 bytes"),
    "an empty image": ("/models/shade", (b"", IMAGE), 400, "CORRUPT_MEDIA", "image", "", "no bytes"),
    "a huge image": ("/models/shade", (huge_png(60_000, 60_000), IMAGE), 413, "TOO_LARGE", "image", "40000000 pixels",
                     "60000x60000"),
    "no base64": ("/models/shade", as_json({"image": "%%%"}), 400, "MALFORMED_BODY", "image", "base64", ""),
    "a number for an image": ("/models/shade", as_json({"image": 5}), 400, "WRONG_DATATYPE", "image", "base64", "int"),
    "a web form for an image": ("/models/shade", (b"a=b", {"content-type": "application/x-www-form-urlencoded"}), 415,
                                "UNSUPPORTED_MEDIA", "Content-Type", "image/*", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", PLAIN)
@pytest.mark.parametrize("escaped", [False, True], ids=["fast path", "ASGI path"])
def test_a_bad_plain_request_is_told_what_would_be_right(
    client: httpx.Client, server: Server, case: str, escaped: bool
) -> None:
    path, (body, headers), status, code, field, expected, found = PLAIN[case]
    if escaped:
        path = path.replace("/models/", "/mod%65ls/")
    answer = client.post(server.url + path, content=body, headers=headers)
    check(answer, status, code or answer.json()["code"], field, expected, found)


@pytest.mark.parametrize("how", ["content-length", "chunked"])
@pytest.mark.parametrize("path", ["/models/shade", "/v2/models/shade/infer", "/mod%65ls/shade"])
def test_a_body_beyond_the_limit_is_a_413_that_reaches_the_client(server: Server, path: str, how: str) -> None:
    """64 MiB, of which the client has sent a part when the answer comes."""

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 20)

    size = {"content-length": str(64 << 20)} if how == "content-length" else {}
    answer = httpx.post(server.url + path, content=chunks(), headers=IMAGE | size, timeout=20)
    assert answer.status_code == 413 and answer.json()["code"] == "TOO_LARGE"


@pytest.mark.parametrize("how", ["content-length", "chunked"])
def test_a_multipart_body_beyond_the_limit_is_a_413(server: Server, how: str) -> None:
    edge = "frontier"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'.encode()
    tail = f"\r\n--{edge}--\r\n".encode()
    size = 32 << 20

    def chunks() -> Iterator[bytes]:
        yield head
        for _ in range(32):
            yield b"x" * (1 << 20)
        yield tail

    headers = {"content-type": f"multipart/form-data; boundary={edge}"}
    if how == "content-length":
        headers["content-length"] = str(size + len(head) + len(tail))
    answer = httpx.post(server.url + "/models/shade", content=chunks(), headers=headers, timeout=20)
    assert answer.status_code == 413 and answer.json()["code"] == "TOO_LARGE"


FORM = "multipart/form-data; boundary=x"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"--x\r\n\r\n", "multipart/form-data"),
        (b"nonsense", FORM),
        (b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n', FORM),
        (
            b'--x\r\nContent-Disposition: form-data; name="nobody"\r\n\r\na\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=["no boundary", "nonsense", "cut short", "unknown field"],
)
def test_a_broken_form_is_a_4xx(client: httpx.Client, server: Server, body: bytes, content_type: str) -> None:
    answer = client.post(server.url + "/models/shade", content=body, headers={"content-type": content_type})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["code"] in ("MALFORMED_BODY", "MISSING_INPUT", "UNKNOWN_INPUT", "WRONG_DATATYPE")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_on_an_infer_path_is_a_405_that_names_the_right_one(
    client: httpx.Client, tensors: Server, method: str
) -> None:
    answer = client.request(method, tensors.url + FP32)
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    if method != "HEAD":
        assert answer.json()["code"] == "METHOD_NOT_ALLOWED"
        assert answer.json()["error"]


async def test_bad_requests_harm_no_others(tensors: Server) -> None:
    """Every bad request of the table, again and again, beside good ones that share the queue with them."""
    bad = [case for case in V2.values() if case[2] != 404 and "echo-fp32" in case[0] and len(str(case[1])) < 60_000]
    async with httpx.AsyncClient(base_url=tensors.url, timeout=20) as client:

        async def good(number: int) -> None:
            answer = await client.post(FP32, content=infer(tensor(data=[number, 1, 2])))
            assert answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [number, 1, 2]

        async def wrong(number: int) -> None:
            path, sent, status, *_ = bad[number % len(bad)]
            body, headers = sent if isinstance(sent, tuple) else (sent, {})
            assert (await client.post(path, content=body, headers=headers)).status_code == status

        await asyncio.gather(*(turn(number) for number in range(120) for turn in (good, wrong)))


def test_after_all_of_this_the_servers_are_well(tensors: Server, server: Server) -> None:
    for running in (tensors, server):
        assert running.process.poll() is None
        assert httpx.get(running.url + "/v2/health/ready").status_code == 200
        assert "Traceback" not in running.log()
