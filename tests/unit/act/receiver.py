"""A real HTTP server that receives webhooks, has effects, remembers idempotency keys, and misbehaves when told to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Received:
    """One POST as it came."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """`behave` names what happens to each POST, given how many came before; see `Handler.do_POST`.

    Where `by_key` is given, it is asked instead, with the idempotency key and how many came before with that.
    """

    behave: Callable[[int], str] = lambda count: "ok"
    by_key: Callable[[str, int], str] | None = None
    posts: Counter[str] = field(default_factory=Counter)
    slow_s: float = 1.0
    received: list[Received] = field(default_factory=list)
    effects: Counter[str] = field(default_factory=Counter)
    receipts: dict[str, bytes] = field(default_factory=dict)
    status_calls: int = 0
    status_up: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.receiver = self
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/do"

    @property
    def status_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/effects/{{idempotency_key}}"

    def effect(self, key: str) -> bytes:
        """Happen once for each key."""
        with self.lock:
            if key not in self.receipts:
                self.effects[key] += 1
                self.receipts[key] = json.dumps({"number": len(self.receipts) + 1}).encode()
            return self.receipts[key]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side may go whenever it likes."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:
        """Silent."""

    def cut(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        receiver = self.server.receiver
        with receiver.lock:
            receiver.status_calls += 1
            receipt = receiver.receipts.get(unquote(self.path.removeprefix("/effects/")))
        if not receiver.status_up:
            self.answer(500)
        elif receipt is None:
            self.answer(404)
        else:
            self.answer(200, receipt)

    def do_POST(self) -> None:
        receiver = self.server.receiver
        with receiver.lock:
            count = len(receiver.received)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(Received({k.lower(): v for k, v in self.headers.items()}, body))
            key = self.headers["Idempotency-Key"]
            earlier = receiver.posts[key]
            receiver.posts[key] += 1
        match receiver.by_key(key, earlier) if receiver.by_key else receiver.behave(count):
            case "ok":
                self.answer(200, receiver.effect(key))
            case "cut before":
                self.cut()
            case "cut after":
                receiver.effect(key)
                self.cut()
            case "cut during":
                receipt = receiver.effect(key)
                self.send_response(200)
                self.send_header("Content-Length", str(len(receipt) + 10))
                self.end_headers()
                self.wfile.write(receipt)
                self.wfile.flush()
                self.cut()
            case "slow":
                receiver.effect(key)
                time.sleep(receiver.slow_s)
                self.answer(200)
            case "late effect":
                time.sleep(receiver.slow_s)
                self.answer(200, receiver.effect(key))
            case "drip":
                receipt = receiver.effect(key)
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(1000):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.05)
            case "large":
                receiver.effect(key)
                self.answer(200, b"x" * 2_000_000)
            case "endless headers":
                receiver.effect(key)
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                for number in range(10_000):
                    self.wfile.write(f"x-{number}: {'y' * 100}\r\n".encode())
            case "redirect":
                self.answer(307, Location=receiver.url)
            case "500 after":
                receiver.effect(key)
                self.answer(500)
            case "503 soon":
                self.answer(503, Retry_After="1")
            case "503 later":
                self.answer(503, Retry_After="7")
            case status:
                self.answer(int(status), b"no: 4111 1111 1111 1111")
