"""The official `openai` client, unchanged, against a real server with a voice and a transcriber: speech both ways."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

pytest.importorskip("soundfile", reason="speech needs the extra `speech`")
pytest.importorskip("piper", reason="a voice needs the extra `phonemes`")

import soundfile
import soxr

from gallery.transcriber import build as transcriber
from gallery.voice import build as voice
from onward.package.assembly import assemble
from tests.acceptance.conftest import Server, serving

pytestmark = pytest.mark.weights
SAID = "The last bus leaves the station at midnight."
LONG = f"{SAID} She learned to swim in a lake behind the school. The garden looks best at the end of May."
FORMS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "opus": "OGG"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("openai-audio")
    for name, build in (("voice", voice.build), ("transcriber", transcriber.build)):
        build(root / name / "1.0.0", progress=lambda step, share: None)
        assemble(root / name / "1.0.0")
    with serving(root) as server:
        yield server


@pytest.fixture(scope="module")
def client(running: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def clip(client: openai.OpenAI) -> bytes:
    return spoken(client, SAID)


def spoken(client: openai.OpenAI, text: str, form: Any = "wav", **options: Any) -> bytes:
    return client.audio.speech.create(model="voice", voice="alloy", input=text, response_format=form, **options).content


def heard(client: openai.OpenAI, data: bytes, name: str = "clip.wav") -> str:
    return client.audio.transcriptions.create(model="transcriber", file=(name, data)).text


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def samples(data: bytes) -> tuple[np.ndarray[Any, Any], int]:
    sound, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    return sound, rate_hz


def file_of(sound: np.ndarray[Any, Any], rate_hz: int, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate_hz, **options)
    return file.getvalue()


def test_what_a_voice_says_is_heard_as_the_same_words(client: openai.OpenAI) -> None:
    for text in (SAID, "The orchestra played until late in the evening.", LONG):
        assert words(heard(client, spoken(client, text))) == words(text)


@pytest.mark.parametrize("form", FORMS)
def test_speech_comes_in_every_form_and_is_heard_in_every_form(client: openai.OpenAI, form: str) -> None:
    data = spoken(client, SAID, form)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.format == FORMS[form]
    assert words(heard(client, data, f"clip.{form}")) == words(SAID)


def test_pcm_is_bare_and_speed_makes_it_shorter(client: openai.OpenAI) -> None:
    usual, fast = (spoken(client, SAID, "pcm", speed=speed) for speed in (1.0, 2.0))
    assert len(usual) % 2 == 0 and 0.35 < len(fast) / len(usual) < 0.65


def test_the_same_words_sound_the_same(client: openai.OpenAI, clip: bytes) -> None:
    assert spoken(client, SAID) == clip


def test_speech_is_sent_sentence_by_sentence(running: Server) -> None:
    body = {"model": "voice", "input": LONG, "response_format": "pcm"}
    with httpx.stream("POST", running.url + "/v1/audio/speech", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("audio/pcm")
        pieces = list(answer.iter_raw())
    assert len(pieces) >= 3
    with httpx.stream("POST", running.url + "/v1/audio/speech", json=body | {"stream_format": "sse"}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * (len(events) - 1) + ["speech.audio.done"]
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1]) == b"".join(pieces)


def test_a_transcription_has_segments_with_times(client: openai.OpenAI) -> None:
    sound, rate_hz = samples(spoken(client, SAID))
    quiet = np.zeros(2 * rate_hz, np.float32)
    data = file_of(np.concatenate([quiet, sound, quiet, sound]), rate_hz, format="WAV")
    told = client.audio.transcriptions.create(
        model="transcriber", file=("a.wav", data), response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert words(told.text) == words(SAID) * 2 and told.duration == pytest.approx(4 + 2 * len(sound) / rate_hz, abs=0.1)
    assert told.segments is not None and len(told.segments) == 2
    assert told.segments[0].start == pytest.approx(2.0, abs=0.5)
    assert told.segments[1].start == pytest.approx(4 + len(sound) / rate_hz, abs=0.5)


def test_subtitles_and_text_are_forms_of_it(client: openai.OpenAI, clip: bytes) -> None:
    def form(kind: Any) -> str:
        return str(client.audio.transcriptions.create(model="transcriber", file=("a.wav", clip), response_format=kind))

    assert words(form("text")) == words(SAID)
    assert re.match(r"1\n00:00:0\d,\d{3} --> 00:00:0\d,\d{3}\n.+", form("srt"))
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\n.+", form("vtt"))


def test_a_long_sound_is_told_window_by_window(client: openai.OpenAI) -> None:
    sound, rate_hz = samples(spoken(client, LONG))
    data = file_of(np.concatenate([sound] * 5), rate_hz, format="FLAC")
    events = list(client.audio.transcriptions.create(model="transcriber", file=("a.flac", data), stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) >= 2 and events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text
    assert len(words(events[-1].text)) == pytest.approx(5 * len(words(LONG)), abs=5)


def test_any_rate_channels_and_depth_are_heard(client: openai.OpenAI, clip: bytes) -> None:
    sound, rate_hz = samples(clip)
    slow = soxr.resample(sound, rate_hz, 8000)
    stereo = file_of(np.stack([slow, slow], axis=1), 8000, format="WAV", subtype="PCM_24")
    found = words(heard(client, stereo))
    assert len(set(found) & set(words(SAID))) >= len(set(words(SAID))) - 2


def test_silence_and_noise_are_no_words(client: openai.OpenAI) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 16_000 * 5).astype(np.float32)
    for sound in (np.zeros(16_000 * 3, np.float32), noise):
        assert heard(client, file_of(sound, 16_000, format="WAV")) == ""


def long_header() -> bytes:
    """A WAV that says to be ten hours long and is not."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(1)
        writer.setframerate(1000)
        writer.writeframes(bytes(36_000_000))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "param"),
    [(b"Dear sir or madam", "file"), (b"", "file"), (file_of(np.zeros(0, np.float32), 16_000, format="WAV"), "file"),
     (long_header(), "file")],
    ids=["a text", "nothing", "no samples", "ten hours"],
)  # fmt: skip
def test_what_is_no_sound_or_too_long_is_a_400_and_the_next_is_heard(
    client: openai.OpenAI, clip: bytes, data: bytes, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        heard(client, data)
    assert refused.value.param == param, refused.value.body
    assert words(heard(client, clip)) == words(SAID)


@pytest.mark.parametrize("text", ["", "   ", "...", "?!\u0000"])
def test_nothing_to_say_is_a_400(client: openai.OpenAI, text: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        spoken(client, text)
    assert refused.value.param == "input"


def test_too_much_to_say_or_an_unknown_form_is_a_400(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        spoken(client, "word " * 2000)
    with pytest.raises(openai.BadRequestError) as refused:
        spoken(client, SAID, "aac")
    assert refused.value.param == "response_format"
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model="voice", file=("a.wav", b"x"))


async def test_many_at_once_are_what_they_are_alone(running: Server) -> None:
    texts = ["My coffee was cold.", SAID, "He forgot his keys on the kitchen table again.", "The soup needs more salt."]
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:

        async def there_and_back(text: str) -> tuple[bytes, str]:
            made = await client.audio.speech.create(model="voice", voice="x", input=text, response_format="wav")
            told = await client.audio.transcriptions.create(model="transcriber", file=("a.wav", made.content))
            return made.content, told.text

        alone = [await there_and_back(text) for text in texts]
        assert await asyncio.gather(*map(there_and_back, texts * 3)) == alone * 3


def test_the_phonemiser_is_a_process_of_its_own_and_is_started_again(running: Server, client: openai.OpenAI) -> None:
    threads = Path(f"/proc/{running.process.pid}/task").glob("*/children")
    children = [pid for thread in threads for pid in thread.read_text().split()]
    phonemisers = [
        int(pid) for pid in children if b"onward.execute.phonemes" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(phonemisers) == 1
    assert "espeak" not in Path(f"/proc/{running.process.pid}/maps").read_text()
    os.kill(phonemisers[0], signal.SIGKILL)
    assert words(heard(client, spoken(client, SAID))) == words(SAID)
