"""Hostile and unlucky clients do not hurt the server: torn, slow, endless and senseless connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from onward.testing import tiny_package
from tests.acceptance.conftest import Server, free_port, serving
from tests.packages import sleeper_package

TEXT = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
WHOLE = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(TEXT), TEXT)
CHUNKED = (
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\n0\r\n\r\n" % (len(TEXT), TEXT)
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    tiny_package(root / "tiny" / "1.0.0")
    sleeper_package(root / "sleeper" / "1.0.0")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(autouse=True)
def well(server: Server) -> Iterator[None]:
    """After each test the server answers, quickly, and holds no more files than a few."""
    yield
    started = time.monotonic()
    answer = httpx.post(server.url + "/v2/models/tiny/infer", content=TEXT)
    assert answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [3, 5, 7]
    assert time.monotonic() - started < 1.0
    give_up_s = time.monotonic() + 5
    while len(os.listdir(f"/proc/{server.process.pid}/fd")) > 80:
        assert time.monotonic() < give_up_s, "connections are not let go"
        time.sleep(0.05)


def connect(server: Server) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    return opened


def reset(opened: socket.socket) -> None:
    """Close with a reset instead of a farewell."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def answer_of(opened: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    file = opened.makefile("rb")
    status = int(file.readline().split()[1])
    length = 0
    while (line := file.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return status, file.read(length)


@pytest.mark.parametrize("data", [WHOLE, CHUNKED], ids=["with a length", "chunked"])
def test_a_request_may_come_byte_by_byte(server: Server, data: bytes) -> None:
    with connect(server) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(data)):
            opened.sendall(data[index : index + 1])
        status, body = answer_of(opened)
    assert status == 200 and json.loads(body)["outputs"][0]["data"] == [3, 5, 7]


def test_connections_torn_at_any_byte_leave_nothing_behind(server: Server) -> None:
    for cut in range(1, len(WHOLE), 2):
        opened = connect(server)
        opened.sendall(WHOLE[:cut])
        reset(opened) if cut % 4 == 1 else opened.close()


def test_a_client_that_resets_while_its_answer_is_made_is_forgotten(server: Server) -> None:
    text = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0.05]}]}).encode()
    for _ in range(5):
        opened = connect(server)
        head = b"POST /v2/models/sleeper/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
        opened.sendall(head + text)
        reset(opened)


def test_random_bytes_get_a_400_or_nothing(server: Server) -> None:
    dice = random.Random(5)
    for _ in range(150):
        with connect(server) as opened:
            opened.sendall(dice.randbytes(dice.randrange(1, 400)) + b"\r\n\r\n")
            opened.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(OSError):
                while piece := opened.recv(65536):
                    received += piece
            assert received == b"" or received.startswith(b"HTTP/1.1 400 ")


def test_mutated_requests_never_crash_a_handler(server: Server) -> None:
    dice = random.Random(6)
    for _ in range(300):
        data = bytearray(dice.choice([WHOLE, CHUNKED]))
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with connect(server) as opened, contextlib.suppress(OSError):
            opened.sendall(bytes(data))
            opened.shutdown(socket.SHUT_WR)
            received = opened.recv(65536)
            assert b"500 Internal" not in received, bytes(data)


def test_a_thousand_idle_connections_do_not_slow_the_others(server: Server) -> None:
    idle = [connect(server) for _ in range(1000)]
    for index, opened in enumerate(idle):
        if index % 3 == 0:
            opened.sendall(WHOLE[: index % len(WHOLE)] or b"P")
    started = time.monotonic()
    with httpx.Client() as client:
        for _ in range(100):
            assert client.post(server.url + "/v2/models/tiny/infer", content=TEXT).status_code == 200
    assert time.monotonic() - started < 2.0
    for opened in idle:
        opened.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_other_methods_on_an_infer_path_keep_the_connection(server: Server, method: str) -> None:
    with connect(server) as opened:
        opened.sendall(method.encode() + b" /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\n\r\n")
        file = opened.makefile("rb")
        assert b"405" in file.readline()
        length = 0
        while (line := file.readline().strip()) != b"":
            if line.lower().startswith(b"content-length"):
                length = int(line.split(b":")[1])
        if method == "GET":
            assert json.loads(file.read(length))["code"] == "METHOD_NOT_ALLOWED"
        opened.sendall(WHOLE)
        assert b"200" in file.readline()


async def test_ten_thousand_pipelined_requests_on_one_connection_are_answered_in_order(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async def send() -> None:
        for start in range(0, 10_000, 100):
            batch = b""
            for number in range(start, start + 100):
                tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [number, 0, 0]}
                text = json.dumps({"id": str(number), "inputs": [tensor]}).encode()
                head = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
                batch += head + text
            writer.write(batch)
            await writer.drain()

    sending = asyncio.create_task(send())
    for number in range(10_000):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        told = json.loads(await reader.readexactly(length))
        assert told["id"] == str(number) and told["outputs"][0]["data"][0] == 2 * number + 1
    await sending
    writer.close()
    await writer.wait_closed()


def test_a_second_signal_ends_a_drain_that_takes_too_long(repository: Path) -> None:
    text = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [3.0]}]}).encode()
    with serving(repository) as server:
        opened = connect(server)
        head = b"POST /v2/models/sleeper/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text)
        opened.sendall(head + text)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None, "it did not wait for the answer"
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(1.5)
        opened.close()


def test_a_port_that_is_taken_is_one_clear_line(repository: Path, server: Server) -> None:
    command = [sys.executable, "-m", "onward", "serve", str(repository)]
    command += ["--port", str(server.port), "--admin-port", str(free_port())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode not in (0, 130)
    assert "address already in use" in done.stderr.lower()
    assert "Traceback" not in done.stderr
