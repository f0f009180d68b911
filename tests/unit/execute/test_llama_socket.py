"""What llama.cpp is asked beside texts: over a real socket, with a small server at its other end."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from onward.errors import ExecutionError, InputError
from onward.execute import llama_socket
from onward.execute.llama_socket import LlamaSocket

KEY = "a key"
HELLO = [{"role": "user", "content": "Hello"}]


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers as llama.cpp does; `asked` are the requests, `replies` what to say instead, by path."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.asked: list[tuple[str, Any, str]] = []
        self.replies: dict[str, tuple[int, bytes]] = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Engine

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers["Authorization"]))
        status, data = self.server.replies.get(self.path, (200, b""))
        if not data and self.path == "/apply-template":
            data = json.dumps({"prompt": "".join(f"<{one['content']}>" for one in body["messages"])}).encode()
        elif not data:
            data = json.dumps({"tokens": list(body["content"].encode())}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def asking(engine: Engine, tmp_path: Path) -> LlamaSocket:
    return LlamaSocket(tmp_path / "engine.sock", KEY)


def test_a_chat_is_rendered_and_a_text_counted_with_the_key(engine: Engine, asking: LlamaSocket) -> None:
    assert asking.rendered(HELLO) == "<Hello>"
    assert asking.count("<Hello>") == 7
    assert [(path, key) for path, _, key in engine.asked] == [
        ("/apply-template", f"Bearer {KEY}"), ("/tokenize", f"Bearer {KEY}"),
    ]  # fmt: skip


def test_the_same_chat_is_rendered_once_and_another_is_another(engine: Engine, asking: LlamaSocket) -> None:
    assert asking.rendered(HELLO) == asking.rendered([dict(HELLO[0])]) == "<Hello>"
    assert asking.rendered([*HELLO, *HELLO]) == "<Hello><Hello>"
    assert len(engine.asked) == 2


def test_few_chats_are_remembered_and_no_large_one(
    engine: Engine, asking: LlamaSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_socket, "_MOST_KEPT", 2)
    for name in ("a", "b", "c", "b", "a"):
        asking.rendered([{"role": "user", "content": name}])
    assert [body["messages"][0]["content"] for _, body, _ in engine.asked] == ["a", "b", "c", "a"]
    large = [{"role": "user", "content": "x" * llama_socket._LARGEST_KEPT}]
    before = len(engine.asked)
    assert asking.rendered(large) == asking.rendered(large)
    assert len(engine.asked) == before + 2


def test_a_chat_that_the_template_refuses_is_the_requests_fault(engine: Engine, asking: LlamaSocket) -> None:
    engine.replies["/apply-template"] = (500, b'{"error": {"message": "roles must alternate"}}')
    with pytest.raises(InputError, match="roles must alternate") as caught:
        asking.rendered(HELLO)
    assert caught.value.where == "messages"
    del engine.replies["/apply-template"]
    assert asking.rendered(HELLO) == "<Hello>"  # what failed is not remembered


@pytest.mark.parametrize("reply", [(503, b'{"error": {"message": "loading"}}'), (200, b"no JSON")])
def test_an_engine_that_answers_otherwise_is_told(engine: Engine, asking: LlamaSocket, reply: Any) -> None:
    engine.replies["/tokenize"] = reply
    with pytest.raises(ExecutionError, match="/tokenize"):
        asking.count("text")


def test_an_engine_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="does not answer"):
        LlamaSocket(tmp_path / "nowhere.sock", KEY).count("text")


def test_many_threads_ask_at_a_time(asking: LlamaSocket) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda size=size: found.append(asking.count("x" * size))) for size in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(16))
