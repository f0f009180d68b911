"""Answers HTTP requests with a canned reply, at most one for each row that the loop has finished."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import sys
from dataclasses import dataclass, field

BODY = b'{"outputs":[]}'
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
CANNED = REPLY % (len(BODY), BODY)
CARRIED_BATCHES = 4  # finished rows that may wait for requests: enough to keep the generator busy, bounded


@dataclass
class Responder:
    """Pairs finished rows with waiting connections."""

    batch: int
    rows_done: int = 0
    credit: int = 0
    waiting: list[socket.socket] = field(default_factory=list)
    partial: dict[socket.socket, bytearray] = field(default_factory=dict)

    def finished(self, batches: int) -> None:
        """Take note of batches that the loop has run, and answer who waits."""
        self.rows_done += batches * self.batch
        self.credit = min(self.credit + batches * self.batch, CARRIED_BATCHES * self.batch)
        self.answer()

    def received(self, connection: socket.socket, data: bytes) -> None:
        """Collect a request; once it is whole, its connection waits for a row."""
        buffer = self.partial.setdefault(connection, bytearray())
        buffer += data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(buffer[:end])
        if head.startswith(b"GET"):
            count = str(self.rows_done).encode()
            connection.sendall(REPLY % (len(count), count))
            buffer.clear()
            return
        start = head.index(b"Content-Length: ") + 16
        length = int(head[start:].split(b"\r\n", 1)[0])
        if len(buffer) >= end + 4 + length:
            buffer.clear()
            self.waiting.append(connection)
            self.answer()

    def answer(self) -> None:
        """Send as many replies as there are finished rows and waiting connections."""
        count = min(self.credit, len(self.waiting))
        for connection in self.waiting[:count]:
            try:
                connection.send(CANNED)
            except OSError:
                continue
        del self.waiting[:count]
        self.credit -= count

    def gone(self, connection: socket.socket) -> None:
        """Forget a connection that was closed."""
        self.partial.pop(connection, None)
        if connection in self.waiting:
            self.waiting.remove(connection)


def main(port: int, folder: str, batch: int, threads: int) -> None:
    """Start the loop, wait for its first batch, then listen."""
    argv = [sys.executable, "-m", "bench.peers.limit.loop", folder, str(batch), str(threads)]
    loop = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert loop.stdout is not None
    finished = loop.stdout.fileno()
    os.read(finished, 1)
    responder = Responder(batch=batch)
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    selector = selectors.DefaultSelector()
    selector.register(finished, selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while loop.poll() is None:
        for key, _ in selector.select(1.0):
            source = key.fileobj
            if source == finished:
                responder.finished(len(os.read(finished, 4096)))
            elif source is listener:
                connection, _address = listener.accept()
                selector.register(connection, selectors.EVENT_READ)
            elif isinstance(source, socket.socket):
                serve(selector, responder, source)


def serve(selector: selectors.BaseSelector, responder: Responder, connection: socket.socket) -> None:
    """Read what a connection has sent; drop it once it has closed."""
    try:
        data = connection.recv(65536)
    except OSError:
        data = b""
    if data:
        responder.received(connection, data)
        return
    selector.unregister(connection)
    responder.gone(connection)
    connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
