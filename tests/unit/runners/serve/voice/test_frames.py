"""Frames: what a client may send, and what it is told where it sends something else."""

from __future__ import annotations

import json

import pytest

from onward.errors import InputError, MalformedBody, OutOfRange, TooLarge
from onward.runners.serve.voice.frames import (
    MAX_FRAME_BYTES,
    Commit,
    Interrupt,
    Text,
    error_event,
    read_control,
    read_sound,
    read_start,
)


def test_the_first_frame_says_what_the_sound_is_and_who_speaks() -> None:
    start = read_start('{"type": "start", "sample_rate_hz": 16000, "customer": "c-anna", "conversation": "k1"}')
    assert (start.customer, start.conversation, start.barge_in) == ("c-anna", "k1", True)


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"\x00\x00", MalformedBody),
        ("hello", MalformedBody),
        ("[]", MalformedBody),
        ('{"type": "begin", "sample_rate_hz": 16000}', MalformedBody),
        ('{"type": "start"}', MalformedBody),
        ('{"type": "start", "sample_rate_hz": "16000"}', MalformedBody),
        ('{"type": "start", "sample_rate_hz": 16000, "colour": "red"}', MalformedBody),
        ('{"type": "start", "sample_rate_hz": 44100}', OutOfRange),
        (json.dumps({"type": "start", "sample_rate_hz": 16000, "customer": "c" * 300}), TooLarge),
        ("x" * MAX_FRAME_BYTES, TooLarge),
    ],
)
def test_another_first_frame_is_refused_with_what_is_wrong(frame: str | bytes, error: type[InputError]) -> None:
    with pytest.raises(error) as raised:
        read_start(frame)
    event = error_event(raised.value)
    assert event["type"] == "error" and event["code"] == error.code and event["error"] and event["field"]


def test_later_text_frames_are_controls() -> None:
    assert read_control('{"type": "commit"}') == Commit()
    assert read_control('{"type": "interrupt"}') == Interrupt()
    assert read_control('{"type": "text", "text": "hi"}') == Text(text="hi")


@pytest.mark.parametrize(
    "frame", ["{}", "null", '{"type": "start", "sample_rate_hz": 16000}', '{"type": "text"}', "RI"]
)
def test_text_that_is_no_control_is_refused(frame: str) -> None:
    with pytest.raises(MalformedBody):
        read_control(frame)


def test_a_typed_utterance_is_bounded() -> None:
    with pytest.raises(TooLarge):
        read_control(json.dumps({"type": "text", "text": "a" * 2001}))


def test_sound_is_whole_samples() -> None:
    assert read_sound(b"\x01\x00\xff\xff").tolist() == [1, -1]
    assert read_sound(b"").tolist() == []
    with pytest.raises(MalformedBody):
        read_sound(b"\x01\x00\xff")
