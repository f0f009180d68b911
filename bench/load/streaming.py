"""Streams of `/v1/chat/completions` as a client sees them: when each token came.

Little work, so that the server has the cores: the bytes of each event are looked at, not parsed.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TOKEN = (b'"content":"', b'"content": "')
_NOTHING = (b'"content":""', b'"content": ""')


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """One answer: when it was asked for, and when each of its tokens came, on the monotonic clock."""

    asked_s: float
    tokens_s: tuple[float, ...]


def chat(port: int, bodies: Sequence[dict[str, Any]], *, together: int) -> dict[str, float]:
    """Ask for every body, `together` at a time: tokens a second of all, time to first token, time per token."""
    return asyncio.run(_chat(port, bodies, together))


async def _chat(port: int, bodies: Sequence[dict[str, Any]], together: int) -> dict[str, float]:
    left = list(reversed([json.dumps(body).encode() for body in bodies]))
    found: list[Streamed] = []

    async def work() -> None:
        while left:
            found.append(await _stream(port, left.pop()))

    started_s = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(together)))
    return figures(found, time.perf_counter() - started_s)


def figures(found: Sequence[Streamed], took_s: float) -> dict[str, float]:
    """What is told of many streams."""
    tokens = sum(len(one.tokens_s) for one in found)
    gaps = sorted(b - a for one in found for a, b in zip(one.tokens_s, one.tokens_s[1:], strict=False))
    first = [one.tokens_s[0] - one.asked_s for one in found if one.tokens_s]
    return {
        "tokens_per_s": tokens / took_s,
        "first_token_ms": statistics.median(first) * 1e3,
        "token_p50_ms": statistics.median(gaps) * 1e3,
        "token_p99_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
        "tokens": tokens,
    }


async def _stream(port: int, body: bytes) -> Streamed:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked_s = time.perf_counter()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    status = await reader.readline()
    if b" 200" not in status:
        raise SystemExit(f"{status!r}: {await reader.read(500)!r}")
    tokens_s = []
    while line := await reader.readline():
        if (
            line.startswith(b"data: {")
            and any(mark in line for mark in _TOKEN)
            and not any(mark in line for mark in _NOTHING)
        ):
            tokens_s.append(time.perf_counter())
    writer.close()
    return Streamed(asked_s=asked_s, tokens_s=tuple(tokens_s))
