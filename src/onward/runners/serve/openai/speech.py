"""`POST /v1/audio/speech`: a text in, its sound out, as it is spoken."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from onward.errors import OnwardError
from onward.generate.audio import FORMS, Encoder
from onward.prepare.speech import Speech, speech_of
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.forms import EVENTS, encode, failure
from onward.runners.serve.openai.runs import Running, told
from onward.runners.serve.openai.schema import read
from onward.runners.serve.openai.serving import Serving
from onward.runners.serve.streams import StreamedModel
from onward.types import Blob


class SpeechRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/audio/speech`. A package has one voice, so `voice` is taken and left, as are `instructions`."""

    model: str
    input: str
    voice: Any = None
    instructions: Any = None
    response_format: Literal["mp3", "opus", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"


_decoder = msgspec.json.Decoder(SpeechRequest)


async def speech(call: Call, serving: Serving) -> None:
    """Answer a speech request."""
    request = read(_decoder, await call.body(serving.body_limit()))
    served = serving.voice(request.model)
    try:
        asked = await asyncio.to_thread(_asked, request, served)
    except OnwardError as error:
        raise told(error, "input") from None
    deadline_s = call.deadline_s(served.pipeline.manifest.limits.deadline_ms / 1000)
    try:
        async with call.attended():
            running = served.admit(asked, deadline_s=deadline_s)
            try:
                await _answer(call, running, request)
            finally:
                running.cancel()
    except OnwardError as error:
        error = told(error, "input")
        if not call.begun:
            raise error from None
        if request.stream_format == "sse":
            await call.end(failure(error))
        else:  # sound has no room for words
            call.abort()


def _asked(request: SpeechRequest, served: StreamedModel) -> Speech:
    limit = served.pipeline.manifest.limits.characters
    if len(request.input) > limit:
        raise Refused(f"input: expected at most {limit} characters, got {len(request.input)}", param="input")
    return speech_of(request.input, speed=request.speed, where="input")


async def _answer(call: Call, running: Running, request: SpeechRequest) -> None:
    events = request.stream_format == "sse"
    media_type = EVENTS if events else FORMS[request.response_format].media_type.encode()
    encoder: Encoder | None = None
    usage: Mapping[str, Any] = {}
    async for event in running:
        if event.kind == "end":
            usage = event.attributes.get("answer", {})
        if event.blob is None:
            continue
        if encoder is None:
            encoder = Encoder(_rate_hz(event.blob), request.response_format)
            await call.begin(media_type)
        # A minute of MP3 takes 0.3 s, of Opus 0.8 s: nobody else waits for it.
        await _tell(call, await asyncio.to_thread(encoder.feed, event.blob.data), events=events)
    if encoder is None:
        raise Refused("input: there is nothing to say", param="input")
    await _tell(call, await asyncio.to_thread(encoder.finish), events=events)
    read_tokens = usage.get("prompt_tokens", 0)
    done = {"type": "speech.audio.done",
            "usage": {"input_tokens": read_tokens, "output_tokens": 0, "total_tokens": read_tokens}}  # fmt: skip
    await call.end(b"data: %b\n\n" % encode(done) if events else b"")


async def _tell(call: Call, sound: bytes, *, events: bool) -> None:
    if not sound:
        return
    if events:
        piece = {"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()}
        sound = b"data: %b\n\n" % encode(piece)
    await call.write(sound)


def _rate_hz(blob: Blob) -> int:
    """The rate in `audio/L16;rate=22050;channels=1`."""
    parameters = dict(part.split("=", 1) for part in blob.media_type.split(";")[1:])
    return int(parameters["rate"])
