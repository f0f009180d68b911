"""What supervisor and workers say to each other, as typed frames: a length (u32), then msgpack of an `Envelope`.

Never unpickled; what is not a frame of ours ends the connection. Knows nothing of processes or sockets.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from onward.errors import TooLarge
from onward.runners.serve.options import ServeOptions

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 64 << 20


class Version(msgspec.Struct, frozen=True, array_like=True):
    """A version that a worker serves."""

    name: str
    version: str
    digest: str


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A version that did not load in a worker, and why."""

    name: str
    version: str
    code: str
    reason: str


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric as a worker counts it: samples by name and labels."""

    name: str
    kind: str
    text: str
    samples: tuple[tuple[str, tuple[tuple[str, str], ...], float], ...]


class Desired(msgspec.Struct, frozen=True, array_like=True):
    """What is to be served: all that the repository holds, but for these models, and for these versions, which did not
    load in another worker (name, version, code)."""

    unloaded: tuple[str, ...] = ()
    avoided: tuple[tuple[str, str, str], ...] = ()


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Supervisor to worker, first of all. `sockets`: the descriptors that listen, by slot; `turns`: of the file whose
    locks are taken for conversations; `secret`: what the workers of this server have in common; `weights`: the folder
    for weights that they share, or ""."""

    options: ServeOptions
    slot: int
    sockets: tuple[tuple[int, ...], ...]
    turns: int
    secret: bytes
    weights: str
    desired: Desired


class Listen(msgspec.Struct, frozen=True, tag="listen"):
    """Supervisor to worker: accept connections of these slots, and of no others."""

    slots: tuple[int, ...]


class Readiness(msgspec.Struct, frozen=True, tag="readiness"):
    """Supervisor to worker: whether the server as a whole is ready, which is what callers are told."""

    ready: bool


class Scan(msgspec.Struct, frozen=True, tag="scan"):
    """Supervisor to worker: serve what is desired of what the repository holds by now. → State"""

    desired: Desired


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Supervisor to worker: not ready; after the grace, take nothing more, answer what was taken, and end.

    `for_good`: the server ends, not this worker alone."""

    grace_s: float
    for_good: bool


class Measure(msgspec.Struct, frozen=True, tag="measure"):
    """Either way. To a worker: its counters. To the supervisor: those of all, as a page. → Measured, Told"""


class Measured(msgspec.Struct, frozen=True, tag="measured"):
    """A worker's counters."""

    families: tuple[Family, ...]


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """To a worker: a request of the admin port. To the supervisor: one that is to be asked of all workers. → Told"""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Told(msgspec.Struct, frozen=True, tag="told"):
    """The answer to a request."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Command(msgspec.Struct, frozen=True, tag="command"):
    """Supervisor to worker: a request of the admin port that changes what is served. → Commanded"""

    ask: Ask
    desired: Desired


class State(msgspec.Struct, frozen=True, tag="state"):
    """Worker to supervisor, whenever it changes: what it serves. `looked`: it has tried to load all that was there at
    its start. `complete`: and serves all that it should."""

    looked: bool
    complete: bool
    unloaded: tuple[str, ...] = ()
    served: tuple[Version, ...] = ()
    failed: tuple[Failure, ...] = ()
    stopping: bool = False


class Commanded(msgspec.Struct, frozen=True, tag="commanded"):
    """What a worker answered to a command, and what it serves after it."""

    told: Told
    state: State


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """Worker to supervisor, every few seconds: it is not stuck, and what it has counted so far."""

    state: State
    families: tuple[Family, ...]


class OpenStore(msgspec.Struct, frozen=True, tag="open-store"):
    """Worker to supervisor: a package needs the store. Answered once it is there, and its relay at work. → Done"""


class Wake(msgspec.Struct, frozen=True, tag="wake"):
    """Worker to supervisor: the outbox may hold something to do."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """What was asked for is done."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """What was asked for failed: an error's parts, as it would be answered over HTTP."""

    code: str
    message: str
    status: int
    where: str = ""


Message: TypeAlias = (
    Begin | Listen | Readiness | Scan | Command | Commanded | Stop | Measure | Measured | Ask | Told | State | Pulse
    | OpenStore | Wake | Done | Refused
)  # fmt: skip


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message with its number: 0 where no answer is wanted, else the answer has the same."""

    number: int
    is_answer: bool
    message: Message


class BrokenFrame(Exception):
    """What came is not a frame of ours."""


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, Path):
        return os.fsencode(value)  # a folder's name need not be text
    raise NotImplementedError(type(value).__name__)


def _from_bytes(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(os.fsdecode(value))
    raise NotImplementedError(kind.__name__)


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_bytes)
_decoder = msgspec.msgpack.Decoder(Envelope, dec_hook=_from_bytes)


def encode(envelope: Envelope) -> bytes:
    """One frame; of texts, what is no character (a file's name may have such) is escaped. Raises `TooLarge`."""
    try:
        body = _encoder.encode(envelope)
    except UnicodeEncodeError:
        parts = msgspec.to_builtins(envelope, builtin_types=(bytes,), enc_hook=_to_bytes)
        body = _encoder.encode(_escaped(parts))
    if len(body) > MAX_FRAME_BYTES:
        raise TooLarge(
            "more than the processes of a server tell each other at once",
            expected=f"at most {MAX_FRAME_BYTES} bytes", found=f"{len(body)} bytes",
        )  # fmt: skip
    return LENGTH.pack(len(body)) + body


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_escaped(one) for one in value]
    if isinstance(value, dict):
        return {_escaped(key): _escaped(one) for key, one in value.items()}
    return value


def decode(body: bytes) -> Envelope:
    """What a frame holds, without its length. Raises `BrokenFrame`."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BrokenFrame(str(error)) from error
