"""The service that actions go to: takes POSTs, counts them and their idempotency keys; `GET /count` tells.

python -m bench.target PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import ClassVar


class Target(asyncio.Protocol):
    """One connection; requests are read by their content length."""

    posts = 0
    keys: ClassVar[set[bytes]] = set()

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            lines = self._data[:end].split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
            whole = end + 4 + int(headers.get(b"content-length", 0))
            if len(self._data) < whole:
                return
            self._data = self._data[whole:]
            if lines[0].startswith(b"POST"):
                Target.posts += 1
                Target.keys.add(headers.get(b"idempotency-key", b""))
            body = json.dumps({"posts": Target.posts, "distinct": len(Target.keys)}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                  b"Content-Length: %d\r\n\r\n%b" % (len(body), body))  # fmt: skip


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Target, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
