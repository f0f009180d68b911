"""A language model on a real server: many who leave, many who wait, one who is slow; nobody hurts another."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("xllamacpp", reason="language models need the extra `llm`")

from gallery.assistant_llm import build as assistant
from onward.package.assembly import assemble
from tests.acceptance.conftest import Server, serving

pytestmark = pytest.mark.weights
NAME = "assistant-llm"
LONG = {"messages": "Tell me a very long story about a ship.", "max_tokens": 600, "temperature": 0, "seed": 1}
SHORT = {"messages": "Name three colours.", "max_tokens": 12, "temperature": 0}
LEAVERS = 120
EVENTS = {"accept": "text/event-stream"}


def write_package(folder: Path, **changes: str) -> None:
    assistant.build(folder, progress=lambda step, share: None)
    text = (folder / "onward.toml").read_text("utf-8").replace("[limits]", "[limits]\n" + changes.pop("limits", ""))
    (folder / "onward.toml").write_text(text, "utf-8")
    assemble(folder)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("streams")
    write_package(root / NAME / "1.0.0", limits="queue_tokens = 200000")
    with serving(root) as server:
        yield server


def post(server: Server, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/models/{NAME}", json=body, headers=headers, timeout=60)


def gauge(server: Server, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{"))


def memory_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def idle(server: Server, within_s: float = 20.0) -> bool:
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        if gauge(server, "onward_running_streams") == gauge(server, "onward_queued_tokens") == 0:
            return True
        time.sleep(0.05)
    return False


def leave_midway(server: Server) -> None:
    """Many ask for a long text; all are gone before a tenth of it is written."""
    body = json.dumps(LONG).encode()
    head = f"POST /models/{NAME} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n"
    sockets = []
    for _ in range(LEAVERS):
        one = socket.create_connection(("127.0.0.1", server.port))
        one.sendall(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        sockets.append(one)
    sockets[0].settimeout(30)
    assert b"event: delta" in sockets[0].recv(1 << 16) + sockets[0].recv(1 << 16)
    for one in sockets:
        one.close()


def test_many_who_leave_in_the_middle_leave_nothing_running_and_no_memory(running: Server) -> None:
    leave_midway(running)
    assert idle(running)
    before = memory_bytes(running)
    for _ in range(2):
        leave_midway(running)
        assert idle(running)
    assert memory_bytes(running) - before < 64 << 20
    assert post(running, SHORT).status_code == 200


def test_events_are_the_whole_answer_in_pieces(running: Server) -> None:
    whole = post(running, SHORT).json()["answer"]["text"]
    told = post(running, SHORT, **EVENTS)
    assert told.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in told.text.strip().split("\n\n")]
    pieces = [json.loads(data.removeprefix("data: ")) for kind, data in events if kind == "event: delta"]
    assert "".join(piece["text"] for piece in pieces) == whole and len(pieces) > 5
    assert events[-1][0] == "event: end"
    assert json.loads(events[-1][1].removeprefix("data: "))["answer"] == {"text": whole}


def test_the_deadline_counts_between_tokens(running: Server) -> None:
    limit = {"x-onward-timeout-ms": "300"}
    assert post(running, LONG, **limit).json()["code"] == "DEADLINE_EXCEEDED"
    told = post(running, LONG, **limit, **EVENTS)
    assert told.status_code == 200 and told.text.rpartition("event: ")[2].startswith("error")
    assert "DEADLINE_EXCEEDED" in told.text and idle(running)


def test_a_slow_reader_holds_nobody_else_up(running: Server) -> None:
    with httpx.stream("POST", f"{running.url}/models/{NAME}", json=LONG, headers=EVENTS, timeout=60) as slow:
        next(slow.iter_lines())  # and reads no more
        started = time.monotonic()
        assert all(post(running, SHORT).status_code == 200 for _ in range(3))
        assert time.monotonic() - started < 20
    assert idle(running)


def test_a_text_is_the_same_alone_and_among_others(running: Server) -> None:
    bodies = [SHORT | {"messages": f"Say something about the number {number}."} for number in range(10)]
    alone = [post(running, body).json()["answer"] for body in bodies]
    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(lambda body: post(running, body).json()["answer"], bodies)) == alone


def test_what_has_no_tensors_says_what_to_use_instead(running: Server) -> None:
    told = httpx.post(f"{running.url}/v2/models/{NAME}/infer", json={"inputs": []})
    assert 400 <= told.status_code < 500 and f"POST /models/{NAME}" in told.json()["error"]
    metadata = httpx.get(f"{running.url}/v2/models/{NAME}").json()
    assert metadata["platform"] == "onward_llama" and metadata["inputs"] == []
    assert next(field["name"] for field in metadata["fields"]["inputs"]) == "messages"


def test_beyond_the_budget_of_tokens_a_request_is_refused_and_told_when_to_come_back(tmp_path: Path) -> None:
    write_package(tmp_path / NAME / "1.0.0", limits="queue_tokens = 1500")
    with serving(tmp_path) as server:
        with ThreadPoolExecutor(6) as threads:
            told = list(threads.map(lambda _: post(server, LONG | {"max_tokens": 400}), range(6)))
        statuses = sorted(one.status_code for one in told)
        assert 200 in statuses and 429 in statuses and set(statuses) == {200, 429}
        refused = next(one for one in told if one.status_code == 429)
        assert refused.json()["code"] == "QUEUE_FULL" and int(refused.headers["retry-after"]) >= 1
        assert idle(server) and post(server, SHORT).status_code == 200


def test_sigterm_lets_a_stream_end(tmp_path: Path) -> None:
    write_package(tmp_path / NAME / "1.0.0")
    with serving(tmp_path) as server:
        body = SHORT | {"max_tokens": 100}
        with httpx.stream("POST", f"{server.url}/models/{NAME}", json=body, headers=EVENTS, timeout=60) as told:
            lines = told.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            assert "event: end" in list(lines)
        assert server.process.wait(30) == 0
