"""A package of stages as an assistant: which stage is asked when, with what, and what of it is said."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from onward.errors import ExecutionError, UsageError
from onward.flow import Flow, signature_of_stages
from onward.package.manifest import load_manifest
from onward.package.stages import StageFields
from onward.runners.serve.voice.assistant import Sound, Talk, Words
from onward.runners.serve.voice.staged_assistant import StagedAssistant
from onward.types import Blob, Event, Field, PackageId, Result

GALLERY = Path(__file__).parents[5] / "gallery" / "voice_assistant"
TASKS = {"hear": "transcription", "understand": "dialogue", "free": "chat", "speak": "speech-synthesis"}
ID = PackageId(name="x", version="1.0.0", digest="d")


def text(name: str) -> Field:
    return Field(name=name, datatype="BYTES", content="text", required=False, default="")


def fields(inputs: list[Field], outputs: list[Field]) -> StageFields:
    return StageFields(
        inputs={one.name: one for one in inputs}, outputs={one.name: one for one in outputs}, asked=frozenset(),
        decides=False, talks=False,
    )  # fmt: skip


AUDIO = Field(name="audio", datatype="BYTES", content="audio")
FIELDS = {
    "hear": fields([AUDIO], [text("text")]),
    "understand": fields(
        [text("text"), text("customer"), text("conversation")],
        [text(name) for name in ("reply", "outcome", "conversation", "decision_id", "intent")],
    ),
    "free": fields([Field(name="messages", datatype="BYTES", content="chat")], [text("text")]),
    "speak": fields([text("text")], [AUDIO]),
}


class Stages:
    """Stands where `StagedModel` does: the real manifest and flow, and stages that say what they were asked."""

    def __init__(self, outcome: str = "ask") -> None:
        self.id = PackageId(name="voice-assistant", version="1.0.0", digest="d")
        self.manifest = load_manifest(GALLERY)
        self.signature = signature_of_stages(self.manifest)
        self.flow = Flow(self.manifest, FIELDS)
        self.tasks = dict(TASKS)
        self.outcome = outcome
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.closed: list[str] = []
        self.deciding_s = 0.0
        self.decided = 0
        self.voice: list[Event] = []

    def stage(self, name: str) -> Any:
        package = SimpleNamespace(task=self.tasks[name])
        return SimpleNamespace(pipeline=SimpleNamespace(manifest=SimpleNamespace(package=package)))

    async def ask(self, name: str, item: Mapping[str, Any], asked: Any) -> Mapping[str, Any]:
        self.asked.append((name, item))
        if name == "hear":
            return {"text": "hello"}
        await asyncio.sleep(self.deciding_s)
        self.decided += 1
        return {"reply": "Shall I?", "outcome": self.outcome, "conversation": "k7", "decision_id": "d1", "intent": "i"}

    async def stage_events(self, name: str, item: Mapping[str, Any], asked: Any) -> AsyncGenerator[Event, None]:
        self.asked.append((name, item))
        try:
            if name == "free":
                for piece in ("Well, ", "yes."):
                    yield Event(kind="delta", text=piece)
                yield Event(kind="end", result=Result(answer={"text": "Well, yes."}, tensors={}, package=ID))
            else:
                for event in self.voice:
                    yield event
        finally:
            self.closed.append(name)


def made(outcome: str = "ask") -> tuple[Stages, StagedAssistant]:
    stages = Stages(outcome)
    return stages, StagedAssistant(cast(Any, stages))


async def test_sound_goes_to_the_stage_that_hears_as_a_wav_file() -> None:
    stages, assistant = made()
    sound = np.arange(-500, 500, dtype="<i2")
    assert await assistant.transcribe(sound) == "hello"
    ((name, item),) = stages.asked
    with wave.open(io.BytesIO(item["audio"])) as reader:
        assert (name, reader.getframerate(), reader.getnchannels()) == ("hear", 16_000, 1)
        assert reader.readframes(2000) == sound.tobytes()


async def test_the_reply_is_the_dialogues_with_what_was_decided_and_the_conversation_is_kept() -> None:
    stages, assistant = made()
    talk = Talk(customer="c-anna")
    replied = [words async for words in assistant.reply("cancel it", talk)]
    fields = {"outcome": "ask", "conversation": "k7", "decision_id": "d1"}
    assert replied == [Words(text="Shall I?", fields=fields)]
    assert talk.conversation == "k7"
    [_ async for _ in assistant.reply("yes", talk)]
    assert stages.asked == [
        ("understand", {"text": "cancel it", "customer": "c-anna"}),
        ("understand", {"text": "yes", "customer": "c-anna", "conversation": "k7"}),
    ]


async def test_what_the_dialogue_does_not_understand_is_the_language_models_and_comes_in_pieces() -> None:
    stages, assistant = made("unknown")
    replied = [words async for words in assistant.reply("tell me a joke", Talk())]
    assert [words.text for words in replied] == ["Well, ", "yes.", "Well, yes."]
    assert [words.fields is None for words in replied] == [True, True, False]
    assert stages.asked[1] == ("free", {"messages": [{"role": "user", "content": "tell me a joke"}]})


async def test_a_reply_that_nobody_waits_for_ends_the_language_model() -> None:
    stages, assistant = made("unknown")
    replies = assistant.reply("tell me a joke", Talk())
    assert (await anext(replies)).text == "Well, "
    await replies.aclose()
    assert stages.closed == ["free"]


async def test_a_decision_that_is_being_made_is_made_although_nobody_listens_any_more() -> None:
    stages, assistant = made()
    stages.deciding_s = 0.05
    talk = Talk()
    task = asyncio.ensure_future(anext(assistant.reply("yes", talk)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.1)
    assert stages.decided == 1 and talk.conversation == "k7"


async def test_speech_comes_in_pieces_or_as_a_file() -> None:
    stages, assistant = made()
    raw = Blob(data=b"\x01\x00", media_type="audio/L16;rate=22050;channels=1")
    stages.voice = [Event(kind="blob", blob=raw, text="Hi."), Event(kind="end")]
    assert [sound async for sound in assistant.speak("Hi.")] == [Sound(pcm=b"\x01\x00", rate_hz=22_050)]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, 24_000, 0, "NONE", ""))
        writer.writeframes(b"\x02\x00")
    answer = {"audio": Blob(data=file.getvalue(), media_type="audio/wav")}
    stages.voice = [Event(kind="end", result=Result(answer=answer, tensors={}, package=ID))]
    assert [sound async for sound in assistant.speak("Hi.")] == [Sound(pcm=b"\x02\x00", rate_hz=24_000)]
    answer["audio"] = Blob(data=b"RIFF", media_type="audio/wav")
    with pytest.raises(ExecutionError):
        [_ async for _ in assistant.speak("Hi.")]


@pytest.mark.parametrize("stage", ["hear", "speak"])
def test_a_package_that_cannot_hear_or_speak_is_no_assistant(stage: str) -> None:
    stages = Stages()
    stages.tasks[stage] = "tabular"
    with pytest.raises(UsageError):
        StagedAssistant(cast(Any, stages))
