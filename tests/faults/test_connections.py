"""Very many connections, idle, slow, half open or more than there are files for: whoever asks besides is answered."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from onward.testing import tiny_package
from tests.acceptance.conftest import Server, serving
from tests.faults.test_server import WHOLE, answer_of, connect, reset

FILES = 160
KEPT = 64  # of those, for other things than connections


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    tiny_package(root / "tiny" / "1.0.0")
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def room() -> Iterator[int]:
    """How many connections this process can open: as many as it may have files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield int(hard * 0.9) - 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def latencies_s(server: Server, count: int) -> np.ndarray:
    """How long each of so many requests took, one after the other on a connection of their own; all are right."""
    took = []
    with connect(server) as opened:
        for _ in range(count):
            started = time.perf_counter()
            opened.sendall(WHOLE)
            status, body = answer_of(opened)
            took.append(time.perf_counter() - started)
            assert status == 200 and json.loads(body)["outputs"][0]["data"] == [3, 5, 7]
    return np.array(took)


def files_of(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def cpu_s(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until_files_are_below(server: Server, count: int) -> None:
    give_up_s = time.monotonic() + 10
    while files_of(server) >= count:
        assert time.monotonic() < give_up_s, "connections are not let go"
        time.sleep(0.05)


@pytest.mark.parametrize("count", [5000, pytest.param(17_000, marks=pytest.mark.long)])
def test_thousands_of_idle_connections_cost_the_others_nothing(server: Server, room: int, count: int) -> None:
    before = np.median(latencies_s(server, 100))
    idle = []
    try:
        for index in range(min(count, room)):
            opened = connect(server)
            idle.append(opened)
            if index % 3 == 0:  # a part of a request
                opened.sendall(WHOLE[: index % len(WHOLE)] or b"P")
        give_up_s = time.monotonic() + 10
        while files_of(server) < len(idle):  # the kernel has them before the server does
            assert time.monotonic() < give_up_s
            time.sleep(0.05)
        spent = cpu_s(server)
        time.sleep(1.0)
        assert cpu_s(server) - spent < 0.5, "it is busy with connections that ask for nothing"
        assert np.median(latencies_s(server, 100)) < 10 * before + 0.005
        # And one of them may go on.
        opened = idle[1]
        opened.sendall(WHOLE)
        assert answer_of(opened)[0] == 200
    finally:
        for opened in idle:
            reset(opened)
    until_files_are_below(server, 100)


def test_clients_that_send_drop_by_drop_cost_the_others_nothing(server: Server) -> None:
    slow = [connect(server) for _ in range(300)]
    dripping = threading.Event()

    def drip() -> None:
        for index in range(len(WHOLE)):
            for opened in slow:
                opened.sendall(WHOLE[index : index + 1])
            if dripping.wait(0.005):
                return

    before = np.median(latencies_s(server, 100))
    thread = threading.Thread(target=drip)
    thread.start()
    assert np.median(latencies_s(server, 200)) < 10 * before + 0.01
    thread.join(20)
    dripping.set()
    for opened in slow:
        status, body = answer_of(opened)
        assert status == 200 and json.loads(body)["outputs"][0]["data"] == [3, 5, 7]
        opened.close()


@pytest.mark.long
def test_a_request_that_does_not_come_in_time_is_a_408_and_its_connection_is_free_again(server: Server) -> None:
    slow = [connect(server) for _ in range(200)]
    body = WHOLE[:-5]  # in the middle of its body
    for index, opened in enumerate(slow):
        opened.sendall(body if index % 2 else WHOLE[:20])
    for _ in range(30):
        time.sleep(1)
        for opened in slow[::2]:  # of the heads there is always a little more
            with contextlib.suppress(OSError):
                opened.sendall(b"x")
        assert np.median(latencies_s(server, 20)) < 0.05
    time.sleep(2)
    for opened in slow:
        status, told = answer_of(opened)
        assert status == 408 and json.loads(told)["code"] == "TOO_SLOW"
        assert opened.recv(1) == b""
        opened.close()
    until_files_are_below(server, 100)


@pytest.mark.long
def test_a_client_that_never_reads_is_let_go_whatever_it_has_asked(server: Server) -> None:
    """A minute after it has read last; also where the answer it does not read is its last one."""
    before = files_of(server)
    deaf = []
    for closing in (b"", WHOLE.replace(b"Host: h", b"Host: h\r\nConnection: close")):
        opened = socket.socket()
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", server.port))
        opened.settimeout(1)
        if closing:  # just enough to fill what the kernel holds for it, and the server's own buffer a little
            opened.sendall(WHOLE * 12_000 + closing)
        else:
            with contextlib.suppress(TimeoutError):
                for _ in range(200):
                    opened.sendall(WHOLE * 500)
                pytest.fail("a client that reads nothing is read without end")
        deaf.append(opened)
    started = time.monotonic()
    time.sleep(20)
    assert files_of(server) == before + len(deaf)
    while files_of(server) > before:
        assert time.monotonic() - started < 75
        time.sleep(0.5)
    for opened in deaf:
        opened.close()


@pytest.mark.long
def test_clients_that_stop_in_the_middle_of_a_request_do_not_hold_a_server_that_drains(repository: Path) -> None:
    with serving(repository) as server, contextlib.ExitStack() as opened:
        for cut in (20, len(WHOLE) - 5):
            opened.enter_context(connect(server)).sendall(WHOLE[:cut])
        slow = opened.enter_context(connect(server))
        slow.sendall(WHOLE[:-4])
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        for index in range(len(WHOLE) - 4, len(WHOLE)):  # it goes on, if slowly
            time.sleep(0.4)
            slow.sendall(WHOLE[index : index + 1])
        assert answer_of(slow)[0] == 200
        assert server.process.wait(10) == 0
        assert time.monotonic() - started < 8


def test_connections_beyond_the_limit_of_files_are_told_so_and_nobody_else_notices(tmp_path: Path) -> None:
    tiny_package(tmp_path / "tiny" / "1.0.0")
    with serving(tmp_path, "--watch-interval", "0.2", files=FILES) as server:
        kept = connect(server)
        kept.sendall(WHOLE)
        assert answer_of(kept)[0] == 200
        many = [connect(server) for _ in range(2 * FILES)]
        refused = []
        for opened in many:
            opened.settimeout(5)
            with contextlib.suppress(OSError):
                opened.sendall(WHOLE)
        for opened in many:
            try:
                status, body = answer_of(opened)
            except (OSError, IndexError):  # what it had sent was not read: a reset may have overtaken the answer
                refused.append(opened)
                continue
            if status == 503:
                assert "too many connections" in json.loads(body)["error"]
                refused.append(opened)
        served = len(many) - len(refused)
        assert FILES - KEPT - 5 <= served <= FILES - KEPT
        # Others go on, the admin port answers, and a new version finds the files it needs.
        kept.sendall(WHOLE)
        assert answer_of(kept)[0] == 200
        tiny_package(tmp_path / "tiny" / "1.1.0", version="1.1.0")
        give_up_s = time.monotonic() + 10
        while {"1.1.0"} != {one["version"] for one in httpx.get(server.admin_url + "/admin/models").json()["models"]}:
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        for opened in many:
            opened.close()
        until_files_are_below(server, 60)
        assert latencies_s(server, 10).max() < 1
        assert "Too many open files" not in server.log() and "Traceback" not in server.log()
        kept.close()


def test_a_server_without_a_file_to_spare_answers_whom_it_has_and_recovers(repository: Path) -> None:
    with serving(repository) as server:
        pid = server.process.pid
        with connect(server) as kept:
            kept.sendall(WHOLE)
            assert answer_of(kept)[0] == 200
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 5, hard))
            many = [connect(server) for _ in range(60)]
            spent = cpu_s(server)
            time.sleep(1.2)
            assert cpu_s(server) - spent < 0.5, "it tries to accept without end"
            kept.sendall(WHOLE)
            assert answer_of(kept)[0] == 200
            for opened in many:
                opened.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert latencies_s(server, 10).max() < 1
            with httpx.Client() as client:
                assert client.get(server.url + "/v2/health/ready").status_code == 200
        assert "Traceback" not in server.log()
