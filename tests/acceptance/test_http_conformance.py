"""The fast path's HTTP is uvicorn's own: the same bytes get the same answers and leave the connection alike.

Every case is sent to two servers of the same packages: one with the fast path, one without it (`ONWARD_FAST_PATH=off`,
where uvicorn's parser and Starlette do all). Where Onward means to differ, the case says how, and why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from onnx import TensorProto, helper

from tests.acceptance.conftest import Server, serving
from tests.acceptance.wire import Outcome, talk
from tests.packages import field_toml, graph, manifest, value, write

LIMIT = 2000
PATH = b"/v2/models/small/infer"
TEXT = json.dumps({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}).encode()
ITEM = b'{"x": [1, 2, 3]}'
N = len(TEXT)


def request(
    *headers: bytes, body: bytes = TEXT, method: bytes = b"POST", path: bytes = PATH, version: bytes = b"1.1",
    length: bool = True, end: bytes = b"\r\n",
) -> bytes:  # fmt: skip
    """A request as bytes; the headers as they are given."""
    lines = [b"%b %b HTTP/%b" % (method, path, version), b"Host: h", *headers]
    lines += [b"Content-Length: %d" % len(body)] if length else []
    return end.join([*lines, b"", b""]) + body


def chunks(*headers: bytes, body: bytes) -> bytes:
    """A request with `Transfer-Encoding: chunked` and these bytes for its body."""
    return request(b"Transfer-Encoding: chunked", *headers, body=body, length=False)


WHOLE = request()
IN_CHUNKS = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, TEXT[:10], N - 10, TEXT[10:])
PLAIN = request(b"Content-Type: application/json", body=ITEM, path=b"/models/small")
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
WRONG = request(body=b'{"inputs": []}')
LARGE = b'{"inputs": "' + b"x" * LIMIT + b'"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is sent, and the statuses of uvicorn's answers where they are not for it alone to say.

    `differs` says why the fast path's outcome is another one; it then has the statuses of `fast`, and ends in `state`.
    """

    pieces: tuple[bytes, ...]
    half_close: bool = False
    heads: bool = False
    statuses: tuple[int, ...] | None = None
    differs: str = ""
    fast: tuple[int, ...] = ()
    pause_s: float = 0.02
    state: str = "closed"


def case(*pieces: bytes, **more: Any) -> Case:
    """A case of these pieces, sent one after the other."""
    return Case(pieces=pieces, **more)


IN_ORDER = "the answer that is due comes before what is wrong behind it"
EARLY = "a body that is too large is refused before it is read"
ANY_HEAD = "uvicorn reads heads of any size"
NO_UPGRADE = "an upgrade that is not to be had is ignored, its request is not"

CASES: dict[str, Case] = {
    # One request, several, and in which order.
    "one": case(WHOLE, statuses=(200,)),
    "plain": case(PLAIN, statuses=(200,)),
    "two, one after the other": case(WHOLE, WHOLE, statuses=(200, 200)),
    "three pipelined": case(WHOLE * 3, statuses=(200, 200, 200)),
    "pipelined with another path between": case(WHOLE + LIVE + WHOLE + LIVE, statuses=(200,) * 4),
    "pipelined with a wrong one between": case(WHOLE + WRONG + WHOLE, statuses=(200, 400, 200)),
    "pipelined in chunks": case(chunks(body=IN_CHUNKS) * 3, statuses=(200, 200, 200)),
    "pipelined, the second torn": case(WHOLE + WHOLE[:60], WHOLE[60:], statuses=(200, 200)),
    "pipelined, the second torn in its body": case(WHOLE + WHOLE[:-20], WHOLE[-20:], statuses=(200, 200)),
    "what follows a close": case(request(b"Connection: close") + WHOLE, statuses=(200,)),
    "a close between": case(WHOLE + request(b"Connection: close") + WHOLE, statuses=(200, 200)),
    "pipelined, then nonsense": case(WHOLE + b"nonsense\r\n\r\n", statuses=(400,), differs=IN_ORDER, fast=(200, 400)),
    "an empty line in front": case(b"\r\n" + WHOLE),
    "empty lines between": case(WHOLE + b"\r\n\r\n" + WHOLE),
    # Bodies in chunks.
    "chunks": case(chunks(body=IN_CHUNKS), statuses=(200,)),
    "one chunk": case(chunks(body=b"%x\r\n%b\r\n0\r\n\r\n" % (N, TEXT)), statuses=(200,)),
    "a chunk a byte": case(chunks(body=b"".join(b"1\r\n%c\r\n" % byte for byte in TEXT) + b"0\r\n\r\n")),
    "chunk sizes in capitals with zeros": case(chunks(body=b"000%X\r\n%b\r\n0\r\n\r\n" % (N, TEXT))),
    "chunk extensions": case(chunks(body=b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (N, TEXT))),
    "trailers": case(chunks(b"Trailer: X-T", body=b"%x\r\n%b\r\n0\r\nX-T: 1\r\n\r\n" % (N, TEXT))),
    "a trailer that is a length": case(chunks(body=b"%x\r\n%b\r\n0\r\nContent-Length: 5\r\n\r\n" % (N, TEXT)) + WHOLE),
    "no chunk": case(chunks(body=b"0\r\n\r\n"), statuses=(400,)),
    "a chunk size that is none": case(chunks(body=b"zz\r\n%b\r\n0\r\n\r\n" % TEXT)),
    "a negative chunk size": case(chunks(body=b"-5\r\n%b\r\n0\r\n\r\n" % TEXT)),
    "a chunk size with 0x": case(chunks(body=b"0x%x\r\n%b\r\n0\r\n\r\n" % (N, TEXT))),
    "a chunk size with a sign": case(chunks(body=b"+%x\r\n%b\r\n0\r\n\r\n" % (N, TEXT))),
    "a chunk size with blanks": case(chunks(body=b" %x \r\n%b\r\n0\r\n\r\n" % (N, TEXT))),
    "a chunk size beyond 64 bits": case(chunks(body=b"1%b\r\n%b\r\n0\r\n\r\n" % (b"0" * 16, TEXT))),
    "a chunk longer than its size": case(chunks(body=b"%x\r\n%b\r\n0\r\n\r\n" % (N - 2, TEXT))),
    "a chunk shorter than its size": case(chunks(body=b"%x\r\n%b\r\n0\r\n\r\n" % (N + 2, TEXT)), half_close=True),
    "chunks with bare line feeds": case(chunks(body=b"%x\n%b\n0\n\n" % (N, TEXT))),
    "chunks without their end": case(chunks(body=b"%x\r\n%b\r\n" % (N, TEXT))),
    "chunks without their end, closed": case(chunks(body=b"%x\r\n%b\r\n" % (N, TEXT)), half_close=True),
    # Expect.
    "expect, the body at once": case(request(b"Expect: 100-continue"), statuses=(200,)),
    "expect, the body later": case(request(b"Expect: 100-continue")[:-N], TEXT, statuses=(200,)),
    "expect, no body yet": case(request(b"Expect: 100-continue")[:-N]),
    "expect in capitals": case(request(b"EXPECT: 100-Continue")[:-N], TEXT, statuses=(200,)),
    "expect in chunks": case(chunks(b"Expect: 100-continue", body=b""), IN_CHUNKS, statuses=(200,)),
    "expect something else": case(request(b"Expect: the-unexpected"), statuses=(200,)),
    "expect with 1.0": case(request(b"Expect: 100-continue", version=b"1.0")[:-N], TEXT),
    "expect twice, pipelined": case(request(b"Expect: 100-continue")[:-N], TEXT + WHOLE, statuses=(200, 200)),
    "expect, pipelined": case(WHOLE + request(b"Expect: 100-continue")[:-N], TEXT, statuses=(200, 200)),
    # Lengths.
    "no length and no body": case(request(body=b"", length=False), statuses=(400,)),
    "a length of 0": case(request(body=b""), statuses=(400,)),
    "no length but a body": case(request(length=False), differs=IN_ORDER, fast=(400, 400)),
    "the length twice": case(request(b"Content-Length: %d" % N)),
    "two lengths": case(request(b"Content-Length: %d" % (N - 1))),
    "two lengths, the longer first": case(request(b"Content-Length: %d" % (N + 40))),
    "lengths in a list": case(request(b"Content-Length: %d, %d" % (N, N), length=False)),
    "a negative length": case(request(b"Content-Length: -1", length=False)),
    "a length with a sign": case(request(b"Content-Length: +%d" % N, length=False)),
    "a length in hexadecimals": case(request(b"Content-Length: 0x%x" % N, length=False)),
    "a length with blanks": case(request(b"Content-Length:   %d  " % N, length=False), statuses=(200,)),
    "a length with a blank inside": case(request(b"Content-Length: %d %d" % (N // 10, N % 10), length=False)),
    "a length with zeros": case(request(b"Content-Length: 000%d" % N, length=False), statuses=(200,)),
    "a length of nothing": case(request(b"Content-Length:", length=False)),
    "a length beyond 64 bits": case(request(b"Content-Length: 1" + b"0" * 22, length=False)),
    "a length in words": case(request(b"Content-Length: ten", length=False)),
    "a length in other digits": case(request("Content-Length: ١٢".encode(), length=False)),
    "a length with an underscore": case(request(b"Content-Length: 1_0", length=False)),
    "a length that is too short": case(request(b"Content-Length: %d" % (N - 3), length=False), differs=IN_ORDER,
                                       fast=(400, 400)),
    "a length that is too long": case(request(b"Content-Length: %d" % (N + 3), length=False), differs=IN_ORDER,
                                      fast=(400, 400)),
    "a length that is too long, closed": case(request(b"Content-Length: %d" % (N + 3), length=False), half_close=True),
    "length, then chunks": case(request(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=IN_CHUNKS,
                                        length=False)),
    "chunks, then length": case(request(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=IN_CHUNKS,
                                        length=False)),
    "chunked twice": case(request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=IN_CHUNKS,
                                  length=False)),
    "chunked, identity": case(request(b"Transfer-Encoding: chunked, identity", body=IN_CHUNKS, length=False)),
    "identity": case(request(b"Transfer-Encoding: identity", length=False)),
    "identity with a length": case(request(b"Transfer-Encoding: identity")),
    "gzip, chunked": case(request(b"Transfer-Encoding: gzip, chunked", body=IN_CHUNKS, length=False)),
    "an encoding like chunked": case(request(b"Transfer-Encoding: xchunked", body=IN_CHUNKS, length=False)),
    "chunked with a tab": case(request(b"Transfer-Encoding:\tchunked", body=IN_CHUNKS, length=False)),
    "chunked in capitals": case(request(b"Transfer-Encoding: CHUNKED", body=IN_CHUNKS, length=False)),
    "chunked in 1.0": case(request(b"Transfer-Encoding: chunked", body=IN_CHUNKS, length=False, version=b"1.0")),
    # Lines.
    "bare line feeds": case(request(end=b"\n")),
    "a bare line feed in a header": case(request(b"X-A: 1\nX-B: 2")),
    "a bare line feed at the end of the head": case(WHOLE.replace(b"\r\n\r\n", b"\r\n\n")),
    "bare carriage returns": case(request(end=b"\r")),
    "a carriage return in a header": case(request(b"X-A: 1\rX-B: 2")),
    "a folded header": case(request(b"X-A: 1", b" 2")),
    "a folded length": case(request(b"Content-Length:", b" %d" % N, length=False)),
    "a blank before a colon": case(request(b"X-A : 1")),
    "a blank before the length's colon": case(request(b"Content-Length : %d" % N, length=False)),
    "a header without a colon": case(request(b"X-A")),
    "a header without a name": case(request(b": 1")),
    "a nought in a header": case(request(b"X-A: a\0b")),
    "a nought in a header's name": case(request(b"X-\0A: b")),
    "bytes beyond ASCII in a header": case(request(b"X-A: \xff\xfe")),
    "a header of nothing": case(request(b"X-A:")),
    "a header named twice": case(request(b"Content-Type: text/plain", b"Content-Type: application/json")),
    "no host": case(WHOLE.replace(b"Host: h\r\n", b"")),
    "two hosts": case(request(b"Host: i")),
    "1000 headers": case(request(*(b"X-%d: 1" % number for number in range(1000))), statuses=(200,)),
    "a header of 60 KiB": case(request(b"X-A: " + b"a" * (60 << 10)), statuses=(200,)),
    "a head of 70 KiB": case(request(b"X-A: " + b"a" * (70 << 10)), statuses=(200,), differs=ANY_HEAD, fast=(431,)),
    "a target of 70 KiB": case(request(path=PATH + b"?" + b"a" * (70 << 10)), differs=ANY_HEAD, fast=(431,)),
    # The first line.
    "1.0": case(request(version=b"1.0"), statuses=(200,)),
    "1.0, kept alive": case(request(b"Connection: keep-alive", version=b"1.0"), statuses=(200,)),
    "1.0, pipelined": case(request(b"Connection: keep-alive", version=b"1.0") * 2, statuses=(200,)),
    "1.2": case(request(version=b"1.2")),
    "2.0": case(request(version=b"2.0")),
    "0.9": case(request(version=b"0.9")),
    "no version": case(b"POST " + PATH + b"\r\n\r\n"),
    "http/1.1 in small letters": case(WHOLE.replace(b"HTTP/", b"http/")),
    "post in small letters": case(request(method=b"post")),
    "a method that is none": case(request(method=b"PUSH")),
    "two blanks": case(WHOLE.replace(b"POST ", b"POST  ")),
    "a tab": case(WHOLE.replace(b"POST ", b"POST\t")),
    "the whole address": case(request(path=b"http://h" + PATH)),
    "an asterisk": case(request(path=b"*")),
    "a fragment": case(request(path=PATH + b"#part")),
    "a query": case(request(path=PATH + b"?a=b&c"), statuses=(200,)),
    "an empty query": case(request(path=PATH + b"?"), statuses=(200,)),
    "two question marks": case(request(path=PATH + b"?a?b"), statuses=(200,)),
    "a query with outputs": case(request(path=b"/models/small?outputs=y", body=ITEM)),
    "an escape": case(request(path=b"/v2/models/%73mall/infer"), statuses=(200,)),
    "two strokes": case(request(path=b"/" + PATH)),
    "a stroke at the end": case(request(path=PATH + b"/")),
    "dots": case(request(path=b"/v2/../v2/models/small/infer")),
    "bytes beyond ASCII in the path": case(request(path=b"/models/\xc3\xa9")),
    "a nought in the path": case(request(path=PATH + b"\0")),
    "nothing for a path": case(request(path=b"")),
    # Other methods, and the connection's own words.
    **{f"{method}": case(request(method=method.encode(), body=b""), heads=method == "HEAD")
       for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE")},
    **{f"{method} with a body": case(request(method=method.encode()) + LIVE) for method in ("GET", "PUT", "OPTIONS")},
    "CONNECT": case(b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "close": case(request(b"Connection: close"), statuses=(200,)),
    "close in capitals": case(request(b"Connection: CLOSE"), statuses=(200,)),
    "close among others": case(request(b"Connection: x-a, close"), statuses=(200,)),
    "keep-alive and close": case(request(b"Connection: keep-alive", b"Connection: close"), statuses=(200,)),
    "an error, then close": case(request(b"Connection: close", body=b"{}"), statuses=(400,)),
    "an upgrade to h2c": case(request(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A"),
                              differs=NO_UPGRADE, fast=(200,), state="open"),
    "an upgrade to nothing known": case(request(b"Connection: Upgrade", b"Upgrade: x"), differs=NO_UPGRADE, fast=(200,),
                                        state="open"),
    "an upgrade without its connection": case(request(b"Upgrade: websocket"), statuses=(200,)),
    # Half a farewell in the middle of a request.
    "part of the head, then closed": case(WHOLE[:40], half_close=True),
    "part of the body, then closed": case(WHOLE[:-10], half_close=True),
    "nothing, then closed": case(half_close=True),
    # Too large.
    "too large": case(request(body=LARGE), statuses=(413,), differs=EARLY, fast=(413,)),
    "too large in chunks": case(chunks(body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)), statuses=(413,),
                                differs=EARLY, fast=(413,)),
    "too large, expected": case(request(b"Expect: 100-continue", body=LARGE)[: -len(LARGE)], statuses=(),
                                differs=EARLY, fast=(413,)),
    "just not too large": case(request(body=LARGE[:LIMIT]), statuses=(400,)),
}  # fmt: skip
CUT = {f"cut at {at}": case(WHOLE[:at], WHOLE[at:] + WHOLE, statuses=(200, 200)) for at in range(1, len(WHOLE))}
CHUNKS = chunks(body=IN_CHUNKS)
CUT |= {f"chunks cut at {at}": case(CHUNKS[:at], CHUNKS[at:], statuses=(200,)) for at in range(1, len(CHUNKS), 5)}
CUT |= {"byte by byte": case(*(WHOLE[at : at + 1] for at in range(len(WHOLE))), pause_s=0.001, statuses=(200,))}
Outcomes: TypeAlias = dict[str, tuple[Outcome, Outcome]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A server with the fast path, and one without it."""
    root = tmp_path_factory.mktemp("conformance")
    small_package(root / "small" / "1.0.0")
    with serving(root) as fast, serving(root, environment={"ONWARD_FAST_PATH": "off"}) as slow:
        yield fast, slow
        assert "Traceback" not in fast.log()


@pytest.fixture(scope="module")
def outcomes(servers: tuple[Server, Server]) -> Outcomes:
    """Every case's outcome with the fast path and without it."""
    return asyncio.run(_all(CASES | CUT, *servers))


async def _all(cases: dict[str, Case], fast: Server, slow: Server) -> Outcomes:
    turns = asyncio.Semaphore(200)

    async def one(each: Case) -> tuple[Outcome, Outcome]:
        async with turns:
            how: dict[str, Any] = {"half_close": each.half_close, "heads": each.heads, "pause_s": each.pause_s}
            told = await asyncio.gather(*(talk(server.port, each.pieces, **how) for server in (fast, slow)))
        return told[0], told[1]

    found = await asyncio.gather(*(one(each) for each in cases.values()))
    return dict(zip(cases, found, strict=True))


def small_package(folder: Path) -> Path:
    """y = x of three numbers, with bodies of at most `LIMIT` bytes."""
    made = graph([helper.make_node("Identity", ["x"], ["y"])], [value("x", TensorProto.FLOAT, ["n", 3])],
                 [value("y", TensorProto.FLOAT, ["n", 3])])  # fmt: skip
    fields = [field_toml("input", "x", "FP32", (3,)), field_toml("output", "y", "FP32", (3,))]
    return write(folder, manifest("small", fields, more=f"[limits]\nbody_bytes = {LIMIT}\n"), {"model.onnx": made})


@pytest.mark.parametrize("name", [name for name, each in CASES.items() if not each.differs])
def test_the_fast_path_answers_as_uvicorn_does(outcomes: Outcomes, name: str) -> None:
    fast, slow = outcomes[name]
    assert fast == slow
    wanted = CASES[name].statuses
    assert wanted is None or slow.statuses == wanted


def test_a_request_may_be_cut_at_every_byte(outcomes: Outcomes) -> None:
    for name, each in CUT.items():
        fast, slow = outcomes[name]
        assert (name, fast) == (name, slow)
        assert (name, fast.statuses, fast.state) == (name, each.statuses, "open")


@pytest.mark.parametrize("name", [name for name, each in CASES.items() if each.differs])
def test_where_it_means_to_differ_it_does_so_as_told(outcomes: Outcomes, name: str) -> None:
    fast, slow = outcomes[name]
    each = CASES[name]
    assert fast != slow, "they do not differ any more"
    assert (fast.statuses, fast.state, fast.rest) == (each.fast, each.state, b"")
    assert each.statuses is None or slow.statuses == each.statuses


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_that_closes_its_half_has_left(servers: tuple[Server, Server], count: int) -> None:
    """Nobody can tell it from one that is gone: it may have had its answers by then, and gets no more."""
    for server in servers:
        outcome = await talk(server.port, [WHOLE * count], half_close=True)
        assert outcome.state == "closed" and outcome.rest == b""
        assert outcome.statuses == (200,) * len(outcome.answers) and len(outcome.answers) <= count


def test_no_bad_request_is_worth_a_traceback(outcomes: Outcomes, servers: tuple[Server, Server]) -> None:
    assert len(outcomes) > 300
    assert "Traceback" not in servers[0].log()
