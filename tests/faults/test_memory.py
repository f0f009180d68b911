"""A server does not grow with what it has answered: its memory over a million requests of all shapes.

`ONWARD_MEMORY_CURVE=FILE.csv` keeps the curve (requests answered, MiB); `python -m bench.memory` draws it.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.acceptance.conftest import Server, serving
from tests.acceptance.questions import Oracle, Question, ask_all, post

CONNECTIONS = 50
AHEAD = 8
BLOCK = 10_000  # requests between two looks at the memory
ITEM = {"amount": 9000.0, "income": 3200.0, "years_employed": 6, "purpose": "car", "customer": True}


def rss_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def ask_block(server: Server, questions: list[Question]) -> None:
    """The questions over connections that are opened for them; all answers are right."""
    seen: Counter[str] = Counter()
    shares = [questions[at::CONNECTIONS] for at in range(CONNECTIONS)]
    await asyncio.gather(*(ask_all(server.port, share, seen, ahead=4) for share in shares))
    assert seen == {"right": len(questions)}


async def pour(server: Server, questions: list[Question]) -> None:
    """The same without a look at what the answers say: a client that is no slower than the server."""

    async def client(share: list[Question]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for at in range(0, len(share), AHEAD):
            few = share[at : at + AHEAD]
            writer.write(b"".join(question.data for question in few))
            received = b""
            while received.count(b"HTTP/1.1 200 OK\r\n") < len(few):
                piece = await reader.read(1 << 16)
                assert piece, received[-500:]
                received += piece
        writer.transport.abort()

    await asyncio.gather(*(client(questions[at::CONNECTIONS]) for at in range(CONNECTIONS)))


async def ask_oddly(server: Server) -> None:
    """What else clients do: wrong, compressed, line by line, in the middle of a request gone, and looking at pages."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(10):
            wrong = [
                client.post("/models/loan", json=ITEM | {"amount": -1}), client.post("/models/loan", content=b"{"),
                client.post(f"/models/nobody-{os.urandom(4).hex()}", json={}), client.get("/models/loan"),
                client.post("/v2/models/mlp/infer", json={"inputs": []}), client.get(f"/{os.urandom(20).hex()}"),
            ]  # fmt: skip
            assert all(400 <= answer.status_code < 500 for answer in await asyncio.gather(*wrong))
        packed = gzip.compress(json.dumps([ITEM] * 20).encode())
        answer = await client.post("/models/loan", content=packed, headers={"content-encoding": "gzip"})
        assert len(answer.json()["answers"]) == 20
        content = b"".join(json.dumps(ITEM).encode() + b"\n" for _ in range(300))
        answer = await client.post("/models/loan", content=content, headers={"content-type": "application/x-ndjson"})
        assert answer.text.count('"answer"') == 300
        for path in ("/metrics", "/v2/models/loan", "/openapi.json", "/", "/v2/models/stats"):
            assert (await client.get(path)).status_code == 200
    whole = post("/models/loan", json.dumps(ITEM).encode(), f"X-Unique: {os.urandom(8).hex()}")
    for cut in range(1, len(whole), 10):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(whole[:cut])
        await asyncio.sleep(0)
        writer.transport.abort()
    await asyncio.sleep(0.01)  # only then are they closed


async def curve_of(root: Path, requests: int) -> np.ndarray:
    """(looks, 2): requests answered so far, MiB."""
    questions = list(Oracle(root).questions(range(3 * BLOCK)))
    looks = []
    with serving(root) as server:
        for block in range(requests // BLOCK):
            start = block * BLOCK % len(questions)
            ask = ask_block if block % 20 == 0 else pour
            await ask(server, questions[start : start + BLOCK])
            await ask_oddly(server)
            looks.append(((block + 1) * BLOCK, rss_mib(server)))
        assert "Traceback" not in server.log()
    return np.array(looks)


@pytest.mark.long
async def test_memory_is_flat_over_a_million_requests(tmp_path: Path) -> None:
    curve = await curve_of(tmp_path, int(os.environ.get("ONWARD_MEMORY_REQUESTS", "1000000")))
    kept = os.environ.get("ONWARD_MEMORY_CURVE")
    if kept:
        np.savetxt(kept, curve, fmt=["%d", "%.2f"], delimiter=",", header="requests,rss_mib", comments="")
    settled = curve[len(curve) // 5 :]  # by then every path has been taken, and every buffer has its size
    slope = np.polyfit(settled[:, 0] / 1e6, settled[:, 1], 1)[0]
    assert slope < 4, f"{slope:.2f} MiB a million requests"
    assert settled[:, 1].max() - settled[0, 1] < 8
