"""The frames of `WS /voice/{name}`: what a client may send, and how events go down.

Text frames are JSON objects with a `type`; binary frames are PCM, signed 16 bit, little-endian, mono. Knows no sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from onward.errors import MalformedBody, OnwardError, OutOfRange, TooLarge
from onward.runners.serve.voice.endpointing import RATE_HZ
from onward.types import Array

MAX_FRAME_BYTES = 64 << 10
"""Two seconds of sound; a frame that is larger ends the connection."""
MAX_TEXT = 2000


class Start(msgspec.Struct, tag="start", tag_field="type", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The first frame: what the sound is, and who speaks. Without `barge_in` nobody is listened to during a reply."""

    sample_rate_hz: int
    customer: str = ""
    conversation: str = ""
    barge_in: bool = True


class Commit(msgspec.Struct, tag="commit", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """The utterance is over, whatever the silence says (a button was let go)."""


class Interrupt(msgspec.Struct, tag="interrupt", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Stop the reply."""


class Text(msgspec.Struct, tag="text", tag_field="type", forbid_unknown_fields=True, frozen=True, kw_only=True):
    """An utterance that was typed."""

    text: str


Control: TypeAlias = Commit | Interrupt | Text
T = TypeVar("T")
_start: msgspec.json.Decoder[Start] = msgspec.json.Decoder(Start)
_control: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)
_encode = msgspec.json.Encoder().encode


def read_start(data: str | bytes) -> Start:
    """The first frame. Raises `MalformedBody`, `TooLarge` or `OutOfRange`."""
    if isinstance(data, bytes):
        raise MalformedBody(where="first frame", expected='text: {"type": "start", …}', found="a binary frame")
    start = _decoded(_start, data, "first frame")
    if start.sample_rate_hz != RATE_HZ:
        raise OutOfRange(where="sample_rate_hz", expected=str(RATE_HZ), found=str(start.sample_rate_hz))
    for name, value in (("customer", start.customer), ("conversation", start.conversation)):
        if len(value) > 200:
            raise TooLarge(where=name, expected="at most 200 characters", found=f"{len(value)}")
    return start


def read_control(data: str) -> Control:
    """A text frame after the first. Raises `MalformedBody` or `TooLarge`."""
    control = _decoded(_control, data, "text frame")
    if isinstance(control, Text) and len(control.text) > MAX_TEXT:
        raise TooLarge(where="text", expected=f"at most {MAX_TEXT} characters", found=f"{len(control.text)}")
    return control


def _decoded(decoder: msgspec.json.Decoder[T], data: str, where: str) -> T:
    if len(data) > MAX_FRAME_BYTES // 4:
        raise TooLarge(where=where, expected=f"at most {MAX_FRAME_BYTES // 4} characters", found=f"{len(data)}")
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise MalformedBody(where=where, expected="a JSON object with a known type", found=str(error)) from None


def read_sound(data: bytes) -> Array:
    """A binary frame as samples: int16 (samples,). Raises `MalformedBody` where it ends within a sample."""
    if len(data) % 2:
        raise MalformedBody(where="binary frame", expected="whole 16-bit samples", found=f"{len(data)} bytes")
    return np.frombuffer(data, "<i2")


def error_event(error: OnwardError) -> dict[str, Any]:
    """An error as an event: what the body of an HTTP answer says."""
    told = dict(error.as_dict())
    return {"type": "error", "code": told.pop("code"), "error": told.pop("message"), **told}


def encode_event(event: Mapping[str, Any]) -> str:
    """An event as the text frame that carries it."""
    return _encode(event).decode()
