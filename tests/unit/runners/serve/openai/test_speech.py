"""`POST /v1/audio/speech`: pieces become a file or events; what cannot be said is refused before a voice is asked."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from typing import Any

import numpy as np
import pytest

from onward.errors import ExecutionError, InputError, OnwardError, Overloaded
from onward.generate.audio import FORMS, Encoder
from onward.runners.serve.openai import speech as module
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.speech import speech
from onward.types import Blob, Event
from tests.unit.runners.serve.openai.audio import Client, Model, Stream

RATE_HZ = 22_050
PIECES = [np.random.default_rng(at).integers(-9000, 9000, 9000).astype("<i2").tobytes() for at in range(3)]
PCM = b"".join(PIECES)


def blob(pcm: bytes) -> Event:
    return Event(kind="blob", text="x", blob=Blob(data=pcm, media_type=f"audio/L16;rate={RATE_HZ};channels=1"))


def end() -> Event:
    return Event(kind="end", attributes={"answer": {"prompt_tokens": 6}})


def saying(*more: Any) -> Model:
    return Model(Stream([*map(blob, PIECES), *(more or (end(),))]))


async def ask(model: Model, client: Client | None = None, limit: int = 1 << 20, **fields: Any) -> Client:
    body = json.dumps({"model": "voice", "input": "Hello.", "voice": "alloy", "response_format": "pcm"} | fields)
    client = client or Client(body.encode())
    await speech(client.call, model.serving(limit))
    return client


async def test_pcm_is_the_pieces_in_order_each_as_it_comes() -> None:
    client = await ask(saying())
    assert client.body == PCM and len([body for body in client.bodies if body]) == 3
    assert client.whole and client.media_type == "audio/pcm"


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_is_a_whole_file_of_its_type(form: str) -> None:
    client = await ask(saying(), response_format=form)
    assert client.whole and client.media_type == FORMS[form].media_type
    if form == "wav":
        assert client.body[44:] == PCM
    elif form != "pcm":
        soundfile = pytest.importorskip("soundfile", reason="encoding needs the extra `speech`")
        samples, rate_hz = soundfile.read(io.BytesIO(client.body))
        assert len(samples) / rate_hz == pytest.approx(len(PCM) / 2 / RATE_HZ, abs=0.1)


async def test_mp3_is_what_comes_where_no_form_is_asked_for() -> None:
    body = json.dumps({"model": "voice", "input": "Hello.", "voice": "alloy"}).encode()
    assert (await ask(saying(), Client(body))).media_type == "audio/mpeg"


async def test_events_have_the_same_sound_and_end_with_its_usage() -> None:
    client = await ask(saying(), stream_format="sse")
    *deltas, done = client.events()
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == PCM
    assert {event["type"] for event in deltas} == {"speech.audio.delta"} and client.whole
    assert done == {"type": "speech.audio.done", "usage": {"input_tokens": 6, "output_tokens": 0, "total_tokens": 6}}


async def test_the_text_and_the_speed_are_what_the_voice_is_asked() -> None:
    model = saying()
    await ask(model, input="Hello. Goodbye.", speed=2.5)
    (asked,) = model.asked
    assert (asked.pieces, asked.speed) == (("Hello.", "Goodbye."), 2.5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input": ""}, "input"), ({"input": " ...\n"}, "input"), ({"input": "a" * 101}, "input"), ({"input": 3}, "input"),
     ({"response_format": "aac"}, "response_format"), ({"speed": 5}, "speed"), ({"speed": 0}, "speed"),
     ({"stream_format": "file"}, "stream_format"), ({"volume": 2}, "volume")],
    ids=str,
)  # fmt: skip
async def test_what_cannot_be_said_is_refused_and_no_voice_is_asked(fields: dict[str, Any], param: str) -> None:
    model = saying()
    with pytest.raises(Refused) as refused:
        await ask(model, **fields)
    assert refused.value.param == param and not model.asked


async def test_a_body_beyond_the_limit_is_refused() -> None:
    with pytest.raises(OnwardError):
        await ask(saying(), limit=20)


async def test_a_full_server_says_so_before_anything_is_sent() -> None:
    client = Client(json.dumps({"model": "voice", "input": "Hello."}).encode())
    with pytest.raises(Overloaded):
        await ask(Model(Overloaded("full")), client)
    assert not client.sent


async def test_a_failure_before_the_first_sound_is_an_answer_of_its_own() -> None:
    stream = Stream([ExecutionError("broken")])
    client = Client(json.dumps({"model": "voice", "input": "Hello."}).encode())
    with pytest.raises(ExecutionError):
        await ask(Model(stream), client)
    assert not client.sent and stream.cancelled


async def test_what_sounds_like_nothing_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        await ask(Model(Stream([end()])))
    assert refused.value.param == "input"


async def test_what_the_voice_finds_wrong_is_about_the_input() -> None:
    with pytest.raises(Refused) as refused:
        await ask(Model(Stream([InputError("no such words")])))
    assert refused.value.param == "input"


async def test_a_failure_amid_the_sound_breaks_it_off_and_amid_events_is_the_last_of_them() -> None:
    broken = await ask(saying(ExecutionError("broken")))
    assert broken.body == PCM and not broken.whole and broken.call.ended
    told = await ask(saying(ExecutionError("broken")), stream_format="sse")
    assert told.whole and "error" in told.events()[-1]


async def test_a_client_that_leaves_stops_the_voice() -> None:
    model = saying(None)
    client = Client(json.dumps({"model": "voice", "input": "Hello.", "response_format": "pcm"}).encode())
    asking = asyncio.create_task(ask(model, client))
    while len(client.bodies) < 3:
        await asyncio.sleep(0.001)
    client.leave()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asking, 5)
    assert client.call.gone and isinstance(model.stream, Stream) and model.stream.cancelled


async def test_encoding_keeps_nobody_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """All callers share the event loop; an MP3 of four minutes takes a second to encode."""
    used: set[threading.Thread] = set()

    class Watched(Encoder):
        def feed(self, pcm: bytes) -> bytes:
            used.add(threading.current_thread())
            return super().feed(pcm)

        def finish(self) -> bytes:
            used.add(threading.current_thread())
            return super().finish()

    monkeypatch.setattr(module, "Encoder", Watched)
    client = await ask(saying(), response_format="wav")
    assert client.body[44:] == PCM and used and threading.current_thread() not in used
