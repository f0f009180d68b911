"""A request's body on ASGI's way in: read whole or piece by piece, unpacked where it came compressed, and never more
than the limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from onward.errors import Cancelled, MalformedBody, TooLarge, UnsupportedMedia

_PIECE_BYTES = 64 << 10


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, unpacked if it came compressed; at most `limit` bytes either way."""
    encoding = encoding_of(request)
    # Both forms are recognised by their first bytes; clients call the zlib form "deflate".
    unpacked = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk if unpacked is None else unpacked.decompress(chunk, limit + 1 - len(body))
            if len(body) > limit:
                raise TooLarge(where="body", expected=f"at most {limit} bytes", found="more")
    except ClientDisconnect:
        raise Cancelled from None
    except zlib.error as error:
        raise MalformedBody(where="body", expected=encoding, found=str(error)) from None
    if unpacked is not None and not unpacked.eof:
        raise MalformedBody(where="body", expected=f"a whole {encoding} stream", found="a part of it")
    return bytes(body)


def encoding_of(request: Request) -> str:
    """How the body is compressed: `identity`, `gzip` or `deflate`. Raises `UnsupportedMedia`."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise UnsupportedMedia(where="Content-Encoding", expected="gzip or deflate", found=encoding[:40])
    return encoding


async def pieces_of(receive: Callable[[], Awaitable[Message]], encoding: str) -> AsyncIterator[bytes]:
    """The body piece by piece, unpacked, none of them large. Raises `ClientDisconnect` and `MalformedBody`."""
    unpacked = None if encoding == "identity" else zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        data, more = message.get("body", b""), message.get("more_body", False)
        if unpacked is None:
            yield data
            continue
        while data:
            if unpacked.eof:  # files that were packed one by one may stand one behind the other
                unpacked = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            try:
                piece = unpacked.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise MalformedBody(where="body", expected=encoding, found=str(error)) from None
            data = unpacked.unconsumed_tail or unpacked.unused_data
            yield piece
            await asyncio.sleep(0)  # one small message may hold a thousand pieces: others get their turn
    if unpacked is not None and not unpacked.eof:
        raise MalformedBody(where="body", expected=f"a whole {encoding} stream", found="a part of it")


def limited(request: Request, limit: int) -> Request:
    """The request, of which no more than `limit` bytes of body are read, whatever its headers say."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise TooLarge(where="body", expected=f"at most {limit} bytes", found="more")
        return message

    return Request(request.scope, receive)
