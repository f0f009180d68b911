"""Clients that keep a server of small tensor packages busy, each on a connection of its own, and check every answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.acceptance.conftest import Server

OFFSETS = {"1.0.0": 1.0, "2.0.0": 5.0}
"""What each version of `tiny` adds to twice its input."""


class Callers:
    """`counts`: answers by version; `wrong`: answers that are not; `lost`: connections' ports that a request was lost
    on, each as often as one was."""

    def __init__(self, port: int, count: int, *, offsets: Mapping[str, float] = OFFSETS) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.wrong: list[Any] = []
        self.lost: Counter[int] = Counter()
        self.refused = 0
        self.told_to_close = 0
        self.done = False
        self.draining = False
        self._offsets = offsets
        self._numbers = itertools.count(1)
        self._tasks = [asyncio.create_task(self._call()) for _ in range(count)]

    async def stop(self) -> None:
        """Let every caller have its last answer. Raises what went wrong in one."""
        self.done = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    async def stop_when_refused(self) -> None:
        """Wait until every caller has been sent away by a server that drains."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), 20)

    async def _call(self) -> None:
        while not self.done:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                self.refused += 1
                await asyncio.sleep(0.01)
                if self.draining:
                    return
                continue
            try:
                await self._talk(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = writer.get_extra_info("sockname")[1]
        while not self.done:
            number = float(next(self._numbers))
            data = [number, -number, number / 2]
            text = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": data}]}).encode()
            writer.write(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(text))
            writer.write(text)
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = int(head.partition("content-length: ")[2].split("\r\n")[0])
                answer = json.loads(await reader.readexactly(length))
            except (OSError, asyncio.IncompleteReadError):
                self.lost[port] += 1
                return
            if " 200 " not in head.split("\r\n")[0]:
                self.wrong.append(answer)
            else:
                version = answer["model_version"]
                self.counts[version] += 1
                if answer["outputs"][0]["data"] != [2 * value + self._offsets[version] for value in data]:
                    self.wrong.append((data, answer))
            if "connection: close" in head:
                self.told_to_close += 1
                return
            await asyncio.sleep(0.001)  # the server is to be busy, not this machine


def workers(server: Server) -> list[dict[str, Any]]:
    """What the admin port says of each."""
    listed: list[dict[str, Any]] = httpx.get(server.admin_url + "/admin/workers", verify=False).json()["workers"]
    return listed


def workers_of(server: Server) -> dict[int, int]:
    """Which worker, by its process id, has accepted the connection of a caller's port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{server.port:04X}"
    callers = {row[9]: int(row[2].partition(":")[2], 16) for row in rows if row[1].endswith(port)}
    found = {}
    for pid in (one["pid"] for one in workers(server)):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                name = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                caller = callers.get(name.removeprefix("socket:[").removesuffix("]"))
                if caller:
                    found[caller] = pid
    return found
