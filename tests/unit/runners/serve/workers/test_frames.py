"""What supervisor and workers say arrives as it was said; anything else ends the connection."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from onward.errors import TooLarge
from onward.runners.serve.options import ServeOptions
from onward.runners.serve.workers.frames import (
    LENGTH,
    MAX_FRAME_BYTES,
    Ask,
    Begin,
    BrokenFrame,
    Commanded,
    Desired,
    Envelope,
    Failure,
    Family,
    Measured,
    Message,
    State,
    Told,
    Version,
    decode,
    encode,
)

STATE = State(looked=True, complete=False, served=(Version("m", "1", "d"),), failed=(Failure("m", "2", "X", "why"),))
MESSAGES: list[Message] = [
    Begin(
        options=ServeOptions(repository=Path("a/b"), workers=3, key_file=Path("key")), slot=2, sockets=((3, 4), (5, 6)),
        turns=7, secret=b"\x00s", weights="", desired=Desired(unloaded=("m",), avoided=(("n", "1", "CODE"),)),
    ),
    Commanded(told=Told(status=200, headers=((b"a", b"b"),), body=b"{}"), state=STATE),
    Measured(families=(Family("f", "gauge", "text", (("f", (("le", "1"),), 2.5),)),)),
    Ask(method="GET", path="/x", query=b"", headers=(), body=b""),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_arrives_as_it_was_said(message: Message) -> None:
    frame = encode(Envelope(3, True, message))
    (length,) = LENGTH.unpack(frame[: LENGTH.size])
    assert length == len(frame) - LENGTH.size
    assert decode(frame[LENGTH.size :]) == Envelope(3, True, message)


def test_names_that_are_no_text_arrive_escaped_and_folders_as_they_are() -> None:
    failed = State(looked=True, complete=True, failed=(Failure("m", "\udcff", "X", "m/1/\udcff.bin"),))
    escaped = State(looked=True, complete=True, failed=(Failure("m", "\\udcff", "X", "m/1/\\udcff.bin"),))
    assert decode(encode(Envelope(3, True, failed))[LENGTH.size :]).message == escaped
    assert isinstance(MESSAGES[0], Begin)
    begin = msgspec.structs.replace(MESSAGES[0], options=ServeOptions(repository=Path("a/\udcff")), secret=b"\xff")
    assert decode(encode(Envelope(0, False, begin))[LENGTH.size :]).message == begin


def test_what_the_other_end_would_not_take_is_not_sent() -> None:
    with pytest.raises(TooLarge, match="at most 67108864 bytes"):
        encode(Envelope(3, True, Told(status=200, headers=(), body=bytes(MAX_FRAME_BYTES))))


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x93\x01\xc3\x81\xa4type\xa4nope", b"\xff" * 40])
def test_what_is_no_frame_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenFrame):
        decode(data)
