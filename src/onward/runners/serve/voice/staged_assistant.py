"""A served package of stages as the voice loop's assistant: one stage hears, one speaks, those between reply.

The loop asks each at its own time: sound is transcribed before the utterance is over, a reply is spoken while it is
still being written. Each stage is asked where it is served, as for any other request of the package.
"""

from __future__ import annotations

import asyncio
import io
import time
import wave
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from onward.errors import ExecutionError, UsageError
from onward.flow import Values
from onward.generate.answer import readable
from onward.package.records import SpeechWindows, Stage
from onward.runners.serve.caller import Caller
from onward.runners.serve.exchange import new_request_id
from onward.runners.serve.stage_call import Asked
from onward.runners.serve.staged import StagedModel
from onward.runners.serve.voice.assistant import Sound, Talk, Words
from onward.runners.serve.voice.endpointing import RATE_HZ
from onward.types import Array, Blob, Result

TASK = "voice-assistant"


class StagedAssistant:
    """See `onward.runners.serve.voice.assistant.Assistant`."""

    def __init__(self, served: StagedModel) -> None:
        """Raises `UsageError` where the package is not of the task voice-assistant or a stage is missing."""
        self._served = served
        self.named: Mapping[str, str] = {"package": served.id.name, "version": served.id.version}
        if served.manifest.package.task != TASK:
            raise UsageError(
                "nobody can talk with this package", where=served.id.name, expected=f"the task {TASK}",
                found=served.manifest.package.task,
            )  # fmt: skip
        self._deciding: set[asyncio.Future[Mapping[str, Any]]] = set()
        tasks = {stage.name: served.stage(stage.name).pipeline.manifest.package.task for stage in served.flow.stages}
        self._hears = _only(served, tasks, "transcription")
        self._speaks = _only(served, tasks, "speech-synthesis")
        self._replies = [stage for stage in served.flow.stages if stage not in (self._hears, self._speaks)]
        self._spoken = self._speaks.inputs["text"]  # where the words come from, best first
        (self._audio,) = (name for name, found in self._hears.inputs.items() if any("." not in one for one in found))

    async def ear(self) -> Callable[[Array], float]:
        """See `Assistant`: the transcriber's own detector, with a state of its own."""
        package = self._served.stage(self._hears.name).pipeline.package
        steps = [step for step in package.manifest.prepare if isinstance(step, SpeechWindows)]
        if not steps:
            raise UsageError("the transcriber has no voice activity detector", where=package.manifest.package.name)
        file = package.folder / steps[0].file

        def load() -> Callable[[Array], float]:
            from onward.prepare.vad import VoiceActivity

            detector: Callable[[Array], float] = VoiceActivity(file).probability
            return detector

        return await asyncio.to_thread(load)

    async def transcribe(self, sound: Array) -> str:
        """See `Assistant`."""
        answer = await self._served.ask(self._hears.name, {self._audio: _wav(sound)}, self._asked(Talk()))
        return str(answer.get("text", ""))

    async def reply(self, text: str, talk: Talk) -> AsyncGenerator[Words, None]:
        """See `Assistant`. What is being decided is waited for even where nobody listens any more: the conversation
        goes on from it."""
        flow = self._served.flow
        values: Values = {f"{self._hears.name}.text": text, "customer": talk.customer}
        values |= {"conversation": talk.conversation} if talk.conversation else {}
        asked = self._asked(talk)
        for stage in self._replies:
            if not flow.runs(stage, values):
                continue
            speaks = self._spoken[0].partition(".")[0] == stage.name
            if not speaks:
                flow.take(stage, values, await self._decided(stage.name, flow.feed(stage, values), asked, talk))
                continue
            async with aclosing(self._served.stage_events(stage.name, flow.feed(stage, values), asked)) as events:
                async for event in events:
                    if event.kind == "delta":
                        yield Words(text=event.text)
                    elif event.kind == "end" and event.result is not None:
                        flow.take(stage, values, event.result.answer)
        whole = next((str(values[source]) for source in self._spoken if source in values), "")
        yield Words(text=whole, fields=self._fields(values))

    async def _decided(self, name: str, item: Mapping[str, Any], asked: Asked, talk: Talk) -> Mapping[str, Any]:
        async def decide() -> Mapping[str, Any]:
            answer = await self._served.ask(name, item, asked)
            talk.conversation = str(answer.get("conversation") or talk.conversation)
            return answer

        task = asyncio.ensure_future(decide())
        self._deciding.add(task)
        task.add_done_callback(self._deciding.discard)
        return await asyncio.shield(task)

    def _fields(self, values: Values) -> dict[str, Any]:
        """What the package's answer says besides the words and the sound."""
        answer = {
            name: next(values[source] for source in sources if source in values)
            for name, sources in self._served.manifest.answer.items()
            if any(source in values for source in sources) and not _is_sound(self._served, name)
        }
        result = Result(answer=answer, tensors={}, package=self._served.id)
        hidden = ("reply", "transcript")
        return {name: value for name, value in readable(result).items() if name not in hidden}

    async def speak(self, text: str) -> AsyncGenerator[Sound, None]:
        """See `Assistant`."""
        came = False
        async with aclosing(
            self._served.stage_events(self._speaks.name, {"text": text}, self._asked(Talk()))
        ) as events:
            async for event in events:
                if event.kind == "blob" and event.blob is not None:
                    came = True
                    yield _pcm(event.blob)
                elif event.kind == "end" and event.result is not None and not came:
                    audio = event.result.answer.get("audio")
                    if isinstance(audio, Blob):
                        yield _pcm(audio)

    def _asked(self, talk: Talk) -> Asked:
        deadline_s = time.monotonic() + self._served.manifest.limits.deadline_ms / 1000
        return Asked(request_id=new_request_id(), deadline_s=deadline_s, caller=Caller(talk.tenant, ""))


def _only(served: StagedModel, tasks: Mapping[str, str], task: str) -> Stage:
    found: Sequence[Stage] = [stage for stage in served.flow.stages if tasks[stage.name] == task]
    if len(found) != 1:
        raise UsageError(
            "a voice assistant has one stage that hears and one that speaks", where=served.id.name,
            expected=f"one stage of the task {task}", found=str(len(found)),
        )  # fmt: skip
    return found[0]


def _is_sound(served: StagedModel, name: str) -> bool:
    return any(field.name == name and field.content == "audio" for field in served.signature.outputs)


def _wav(sound: Array) -> bytes:
    """Samples int16 at 16 kHz as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(sound.astype("<i2").tobytes())
    return file.getvalue()


def _pcm(blob: Blob) -> Sound:
    """`audio/L16;rate=22050;channels=1`, or a WAV file of 16 bit, as sound. Raises `ExecutionError`."""
    kind, *parameters = (part.strip() for part in blob.media_type.split(";"))
    if kind.lower() == "audio/l16":
        named = dict(part.partition("=")[::2] for part in parameters)
        return Sound(pcm=blob.data, rate_hz=int(named["rate"]))
    try:
        with wave.open(io.BytesIO(blob.data)) as reader:
            if (reader.getnchannels(), reader.getsampwidth()) != (1, 2):
                raise ExecutionError("the voice's sound is not mono of 16 bit", found=blob.media_type)
            return Sound(pcm=reader.readframes(reader.getnframes()), rate_hz=reader.getframerate())
    except (wave.Error, EOFError) as error:
        raise ExecutionError("the voice's sound cannot be read", found=f"{blob.media_type}: {error}") from None
