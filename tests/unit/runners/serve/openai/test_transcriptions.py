"""`POST /v1/audio/transcriptions`: a form with a file in; JSON, text, subtitles or events out."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.errors import CorruptMedia, ExecutionError, Overloaded, TooLarge
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.transcriptions import _time, transcriptions
from onward.types import Event, PackageId, Result
from tests.unit.runners.serve.openai.audio import Client, Model, Stream

PACKAGE = PackageId(name="transcriber", version="1.0.0", digest="0123456789abcdef")
SOUND = bytes(range(256)) * 10
SEGMENTS = [{"start": 0.5, "end": 2.0, "text": "One."}, {"start": 3661.25, "end": 3662.0, "text": "Two & three."}]
ANSWER = {"text": "One. Two & three.", "segments": SEGMENTS, "audio_s": 3663.4}


def end(**answer: Any) -> Event:
    return Event(kind="end", result=Result(answer=ANSWER | answer, tensors={}, package=PACKAGE))


def hearing(*more: Any) -> Model:
    deltas = [Event(kind="delta", text="One."), Event(kind="delta", text=" Two & three.")]
    return Model(Stream([*deltas, *(more or (end(),))]))


def client_of(fields: dict[str, Any], files: dict[str, Any] | None = None) -> Client:
    sent = {"file": ("clip.wav", SOUND)} if files is None else files
    request = httpx.Request("POST", "http://localhost/", data=fields, files=sent or {"x": (None, b"")})
    return Client(request.read(), dict(request.headers))


async def ask(model: Model, client: Client | None = None, limit: int = 1 << 20, **fields: Any) -> Client:
    client = client or client_of({"model": "transcriber"} | fields)
    await transcriptions(client.call, model.serving(limit))
    return client


async def test_the_files_bytes_and_the_outputs_there_are_is_what_is_asked() -> None:
    model = hearing()
    await ask(model)
    assert model.prepared == [({"clip": SOUND}, ["segments", "audio_s"])]


async def test_json_is_the_text_and_how_long_it_was() -> None:
    client = await ask(hearing())
    usage = {"type": "duration", "seconds": 3663}
    assert json.loads(client.body) == {"text": ANSWER["text"], "usage": usage}
    assert client.media_type == "application/json" and client.whole


async def test_verbose_json_has_the_segments() -> None:
    told = json.loads((await ask(hearing(), response_format="verbose_json")).body)
    assert told["segments"] == [{"id": at, **segment} for at, segment in enumerate(SEGMENTS)]
    assert (told["text"], told["duration"], told["language"]) == (ANSWER["text"], 3663.4, "english")


@pytest.mark.parametrize(
    ("form", "media_type", "body"),
    [("text", "text/plain", "One. Two & three.\n"),
     ("srt", "application/x-subrip",
      "1\n00:00:00,500 --> 00:00:02,000\nOne.\n\n2\n01:01:01,250 --> 01:01:02,000\nTwo & three.\n"),
     ("vtt", "text/vtt",
      "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nOne.\n\n01:01:01.250 --> 01:01:02.000\nTwo & three.\n")],
)  # fmt: skip
async def test_text_and_subtitles_are_forms_of_it(form: str, media_type: str, body: str) -> None:
    client = await ask(hearing(), response_format=form)
    assert client.body.decode() == body and client.media_type.startswith(media_type)


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_where_nobody_speaks_every_form_is_empty_and_well_formed(form: str) -> None:
    client = await ask(Model(Stream([end(text="", segments=[])])), response_format=form)
    assert "None" not in client.body.decode() and client.whole
    if "json" in form:
        assert json.loads(client.body)["text"] == ""


@given(st.floats(0, 99 * 3600), st.booleans())
def test_a_time_is_the_same_time_in_hours_minutes_and_seconds(at_s: float, comma: bool) -> None:
    found = re.fullmatch(r"(\d\d):([0-5]\d):([0-5]\d)([.,])(\d{3})", _time(at_s, comma))
    assert found is not None and found[4] == (",.")[not comma]
    told_ms = ((int(found[1]) * 60 + int(found[2])) * 60 + int(found[3])) * 1000 + int(found[5])
    assert told_ms == pytest.approx(at_s * 1000, abs=0.51)


@pytest.mark.parametrize("value", ["true", "True", "1"])
async def test_a_stream_tells_each_text_as_it_is_heard_and_then_the_whole(value: str) -> None:
    client = await ask(hearing(), stream=value)
    *deltas, done, last = client.events()
    assert [event["delta"] for event in deltas] == ["One.", " Two & three."]
    assert done == {"type": "transcript.text.done", "text": ANSWER["text"]} and last == "[DONE]"
    assert client.whole and len(client.bodies) == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"model": None}, "model"), ({"response_format": "xml"}, "response_format"), ({"speakers": "2"}, "speakers"),
     ({"timestamp_granularities[]": "word"}, "timestamp_granularities"),
     ({"timestamp_granularities[]": ["segment", "word"]}, "timestamp_granularities")],
    ids=str,
)  # fmt: skip
async def test_a_field_that_is_not_taken_is_refused_and_nothing_is_heard(fields: dict[str, Any], param: str) -> None:
    model = hearing()
    sent = {name: value for name, value in ({"model": "transcriber"} | fields).items() if value is not None}
    with pytest.raises(Refused) as refused:
        await ask(model, client_of(sent))
    assert refused.value.param == param and not model.prepared


async def test_fields_of_the_api_that_do_nothing_here_are_taken() -> None:
    client = await ask(hearing(), language="en", prompt="Names: Joe", temperature="0", chunking_strategy="auto",
                       **{"timestamp_granularities[]": "segment"})  # fmt: skip
    assert json.loads(client.body)["text"] == ANSWER["text"]


@pytest.mark.parametrize("files", [{}, {"file": (None, "a text")}, {"sound": ("clip.wav", SOUND)}], ids=str)
async def test_without_a_file_it_is_refused(files: dict[str, Any]) -> None:
    model = hearing()
    with pytest.raises(Refused):
        await ask(model, client_of({"model": "transcriber"}, files))
    assert not model.prepared


@pytest.mark.parametrize("media_type", ["application/json", "", "text/plain", "multipart/form-data"])
async def test_a_body_that_is_no_form_is_refused(media_type: str) -> None:
    with pytest.raises(Refused):
        await ask(hearing(), Client(b'{"model": "transcriber"}', {"content-type": media_type}))


@pytest.mark.parametrize("body", [b"", b"broken", b"--b\r\nno colon\r\n\r\nx\r\n--b--\r\n", b"--b\r\n" + b"A" * 100_000,
                                  b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"],
                         ids=["nothing", "text", "no colon", "endless", "no name"])  # fmt: skip
async def test_a_form_that_is_broken_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        await ask(hearing(), Client(body, {"content-type": "multipart/form-data; boundary=b"}))


async def test_two_files_and_many_fields_are_refused() -> None:
    two = {"file": ("a.wav", SOUND), "image": ("b.wav", SOUND)}
    for client in (client_of({"model": "m"}, two), client_of({"model": "m"} | {f"f{at}": "" for at in range(40)})):
        with pytest.raises(Refused):
            await ask(hearing(), client)


async def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(TooLarge):
        await ask(hearing(), limit=1000)


@pytest.mark.parametrize(
    "error", [CorruptMedia("no sound", where="clip"), TooLarge(where="clip", expected="at most 5 s")]
)
async def test_what_is_wrong_with_the_sound_is_about_the_file(error: Any) -> None:
    model = hearing()
    model.refusal = error
    with pytest.raises(Refused) as refused:
        await ask(model)
    assert refused.value.param == "file" and not model.asked


async def test_a_full_server_says_so_before_anything_is_sent() -> None:
    client = client_of({"model": "transcriber"})
    with pytest.raises(Overloaded):
        await ask(Model(Overloaded("full")), client)
    assert not client.sent


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_failure_before_anything_was_sent_is_an_answer_of_its_own(stream: str) -> None:
    model = Model(Stream([ExecutionError("broken")]))
    client = client_of({"model": "transcriber", "stream": stream})
    with pytest.raises(ExecutionError):
        await ask(model, client)
    assert not client.sent and isinstance(model.stream, Stream) and model.stream.cancelled


async def test_a_failure_amid_a_stream_is_its_last_event() -> None:
    client = await ask(hearing(ExecutionError("broken")), stream="true")
    *deltas, last = client.events()
    assert len(deltas) == 2 and "error" in last and client.whole


async def test_a_client_that_leaves_stops_the_transcriber() -> None:
    model, client = hearing(None), client_of({"model": "transcriber", "stream": "true"})
    asking = asyncio.create_task(ask(model, client))
    while len(client.bodies) < 2:
        await asyncio.sleep(0.001)
    client.leave()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 5)
    assert client.call.gone and isinstance(model.stream, Stream) and model.stream.cancelled
