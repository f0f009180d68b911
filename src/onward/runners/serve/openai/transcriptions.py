"""`POST /v1/audio/transcriptions`: a sound file in, what is said out: as JSON, text, subtitles, or as it is heard."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from onward.errors import ExecutionError, OnwardError, TooLarge
from onward.runners.serve.body import limited
from onward.runners.serve.openai.call import Call
from onward.runners.serve.openai.errors import Refused
from onward.runners.serve.openai.forms import EVENTS, encode, failure
from onward.runners.serve.openai.runs import Running, told
from onward.runners.serve.openai.serving import Serving

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("segment",)
_LISTS = ("timestamp_granularities[]", "timestamp_granularities", "include[]", "include")
_LEFT = ("prompt", "temperature", "chunking_strategy", "language")
"""Taken and left: the model speaks one language, and is not guided."""
_MOST_FIELDS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionRequest:
    """The form of a request."""

    model: str
    file: bytes
    response_format: str
    stream: bool


async def transcriptions(call: Call, serving: Serving) -> None:
    """Answer a transcription request."""
    request = await _read(call, serving.sound_limit())
    served = serving.transcriber(request.model)
    field = next(field.name for field in served.signature.inputs if field.content == "audio")
    outputs = [one.name for one in served.signature.outputs if one.name in ("segments", "audio_s")]
    deadline_s = call.deadline_s(served.pipeline.manifest.limits.deadline_ms / 1000)
    try:
        async with call.attended():
            prepared = await asyncio.to_thread(served.pipeline.prepare, {field: request.file}, outputs)
            running = served.admit(prepared, deadline_s=deadline_s)
            try:
                await (_stream if request.stream else _whole)(call, running, request)
            finally:
                running.cancel()
    except OnwardError as error:
        error = _too_long(error) if isinstance(error, TooLarge) else told(error, "file")
        if isinstance(error, Refused) and error.param == field:
            error.param = "file"
        if not call.begun:
            raise error from None
        await call.end(failure(error))


async def _whole(call: Call, running: Running, request: TranscriptionRequest) -> None:
    async for event in running:
        if event.kind == "end" and event.result is not None:
            body, media_type = _body(event.result.answer, request.response_format)
            await call.respond(body, media_type)
            return
    raise ExecutionError("the engine ended without an answer")


async def _stream(call: Call, running: Running, request: TranscriptionRequest) -> None:
    async for event in running:
        told: dict[str, Any]
        if event.kind == "delta":
            told = {"type": "transcript.text.delta", "delta": event.text}
        elif event.kind == "end" and event.result is not None:
            told = {"type": "transcript.text.done", "text": event.result.answer["text"]}
        else:
            continue
        if not call.begun:
            await call.begin(EVENTS)
        await call.write(b"data: %b\n\n" % encode(told))
    await call.end(b"data: [DONE]\n\n")


def _body(answer: Mapping[str, Any], form: str) -> tuple[bytes, bytes]:
    segments: Sequence[Mapping[str, Any]] = answer.get("segments", ())
    if form == "text":
        return f"{answer['text']}\n".encode(), b"text/plain; charset=utf-8"
    if form == "srt":
        return _subtitles(segments, comma=True).encode(), b"application/x-subrip; charset=utf-8"
    if form == "vtt":
        return ("WEBVTT\n\n" + _subtitles(segments, comma=False)).encode(), b"text/vtt; charset=utf-8"
    usage = {"type": "duration", "seconds": round(answer.get("audio_s", 0))}
    if form == "json":
        return encode({"text": answer["text"], "usage": usage}), b"application/json"
    told = [{"id": at, **segment} for at, segment in enumerate(segments)]
    whole = {"task": "transcribe", "language": "english", "duration": answer.get("audio_s", 0), "text": answer["text"],
             "segments": told, "usage": usage}  # fmt: skip
    return encode(whole), b"application/json"


def _subtitles(segments: Sequence[Mapping[str, Any]], *, comma: bool) -> str:
    """SubRip, or the cues of WebVTT, which have a point in their times and no numbers."""
    cues = []
    for at, segment in enumerate(segments, 1):
        times = f"{_time(segment['start'], comma)} --> {_time(segment['end'], comma)}"
        cues.append(f"{at}\n{times}\n{segment['text']}\n" if comma else f"{times}\n{segment['text']}\n")
    return "\n".join(cues)


def _time(at_s: float, comma: bool) -> str:
    milliseconds = round(at_s * 1000)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{',' if comma else '.'}{milliseconds:03}"


async def _read(call: Call, limit: int) -> TranscriptionRequest:
    request = limited(call.request, limit)
    if not call.request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused("the body: expected multipart/form-data", kind="invalid_type")
    try:
        async with request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=1 << 16) as form:
            file = form.get("file")
            data = await file.read() if isinstance(file, UploadFile) else None
            texts = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    except HTTPException as error:
        raise Refused(f"the body: {error.detail}") from None
    for name in texts:
        if name not in ("model", "response_format", "stream", *_LISTS, *_LEFT):
            raise Refused(f"unknown parameter: {name}", param=name, kind="unknown_parameter")
    for name in ("model",):
        if name not in texts:
            raise Refused(f"missing required parameter: {name}", param=name, kind="missing_required_parameter")
    if data is None:
        raise Refused("missing required parameter: file", param="file", kind="missing_required_parameter")
    form_of = texts.get("response_format", "json")
    if form_of not in FORMATS:
        raise Refused(f"response_format: expected one of {', '.join(FORMATS)}", param="response_format")
    for name in _LISTS[:2]:
        if texts.get(name, GRANULARITIES[0]) not in GRANULARITIES:
            raise Refused("timestamp_granularities: only segment is supported", param="timestamp_granularities",
                          kind="unsupported_parameter")  # fmt: skip
    stream = texts.get("stream", "false").lower() in ("true", "1")
    return TranscriptionRequest(model=texts["model"], file=data, response_format=form_of, stream=stream)


def _too_long(error: TooLarge) -> Refused:
    return Refused(str(error), param="file", kind="audio_too_long")
