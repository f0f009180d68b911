"""The voice loop with the gallery's assistant: what is said aloud happens, once, and is answered aloud in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("cel_expr_python", reason="policies need the extra `decide`")
pytest.importorskip("websockets", reason="the extra speech is not installed")

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.acceptance.deciding import audit
from tests.acceptance.spoken import NAME, Spoken, assistant
from tests.acceptance.voices import RATE_HZ, Caller, calling

pytestmark = pytest.mark.weights
START = json.dumps({"type": "start", "sample_rate_hz": RATE_HZ})
FIRST_AUDIO_MS = 1200


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spoken]:
    with assistant(tmp_path_factory.mktemp("spoken")) as running:
        yield running


async def turn(caller: Caller, sound: np.ndarray, at: int) -> tuple[dict[str, dict[str, Any]], int]:
    """Say something and hear the reply to its end: the events of the turn by their type, and where the next begins."""
    caller.say(sound)
    told = {}
    for kind in ("transcript", "reply", "timings", "audio_end"):
        told[kind], at = await caller.event(kind, at)
    heard_s = told["timings"]["at_s"] + told["audio_end"]["audio_s"] + 0.5
    await asyncio.sleep(max(0.0, heard_s - time.monotonic()))
    return told, at


async def test_cancel_my_subscription_and_a_spoken_yes_is_one_effect_one_entry_and_a_spoken_confirmation(
    spoken: Spoken,
) -> None:
    server, shop, clip = spoken
    async with calling(server.url, NAME, customer="c-anna") as caller:
        asked, at = await turn(caller, clip("Cancel my subscription."), 0)
        assert asked["reply"]["outcome"] == "ask" and asked["audio_end"]["audio_s"] > 0.5
        assert shop.get("/customers/c-anna")["status"] == "active"
        done, _ = await turn(caller, clip("Yes please."), at)
    assert done["reply"]["outcome"] == "cancel" and "cancelled" in done["reply"]["text"]
    assert done["audio_end"]["audio_s"] > 0.5 and sum(len(pcm) for _, pcm in caller.sound) > RATE_HZ
    assert done["reply"]["conversation"] == asked["reply"]["conversation"] != ""
    decision = done["reply"]["decision_id"]
    told = httpx.get(f"{server.url}/decisions/{decision}", params={"wait_s": "10"}, timeout=20).json()
    assert [(one["name"], one["state"]) for one in told["actions"]] == [("cancel_subscription", "done")]
    assert shop.get("/customers/c-anna")["status"] == "cancelled"
    effects = [one for one in shop.get("/events") if one["customer"] == "c-anna" and "cancelled" in json.dumps(one)]
    assert len(effects) == 1
    with httpx.Client(base_url=server.admin_url) as admin:
        entries = [one for one in audit(admin) if one["subject"] == decision]
    assert [one["kind"] for one in entries] == ["decision"]


async def test_the_reply_is_heard_in_time_and_every_stage_is_told_and_counted(spoken: Spoken) -> None:
    server, _, clip = spoken
    says = ["How long can I pause my subscription?", "Cancel my subscription.", "No.", "Where is my order?"] * 2
    waits = []
    async with calling(server.url, NAME, customer="c-ben") as caller:
        at = 0
        for text in says:
            told, at = await turn(caller, clip(text), at)
            timings = told["timings"]
            stages = ("vad_ms", "transcribe_ms", "transcribe_wait_ms", "understand_ms", "synthesise_ms")
            waited = [timings[name] for name in stages if name != "transcribe_ms"]
            assert all(timings[name] >= 0 for name in stages)
            assert timings["first_audio_ms"] == pytest.approx(sum(waited), abs=1)
            waits.append(timings["first_audio_ms"])
    assert statistics.median(waits) <= FIRST_AUDIO_MS, waits
    metrics = httpx.get(f"{server.url}/metrics").text
    assert f'onward_voice_stage_duration_seconds_count{{model="{NAME}",stage="first_audio",version="1.0.0"}}' in metrics


async def test_speaking_over_the_reply_stops_it_and_what_has_been_done_stays_done(spoken: Spoken) -> None:
    server, shop, clip = spoken
    async with calling(server.url, NAME, customer="c-cara") as caller:
        _, at = await turn(caller, clip("Cancel my subscription."), 0)
        caller.say(clip("Yes please."))
        reply, at = await caller.event("reply", at)
        await caller.event("timings", at)
        caller.say(clip("How long can I pause my subscription?"))
        interrupted, at = await caller.event("interrupted", at)
        count = len(caller.sound)
        next_reply, _ = await caller.event("reply", at)
        late = [one for one in caller.sound[count:] if one[0] < next_reply["at_s"]]
    assert interrupted["turn"] == reply["turn"] and not late
    assert reply["outcome"] == "cancel" and next_reply["turn"] == reply["turn"] + 1
    assert shop.get("/customers/c-cara")["status"] == "cancelled"


async def test_a_short_pause_does_not_cut_a_sentence_in_two(spoken: Spoken) -> None:
    server, _, clip = spoken
    pause = np.zeros(int(0.25 * RATE_HZ), "<i2")
    sentence = clip("How long can I pause my subscription?")
    middle = len(sentence) // 2
    quiet = middle + int(np.argmin(np.convolve(np.abs(sentence[middle : middle + 8000]), np.ones(800), "same")))
    async with calling(server.url, NAME) as caller:
        await turn(caller, np.concatenate([sentence[:quiet], pause, sentence[quiet:]]), 0)
    assert sum(event["type"] == "transcript" for event in caller.events) == 1, caller.events


async def test_silence_is_no_order_and_costs_no_transcription(spoken: Spoken) -> None:
    async with calling(spoken.server.url, NAME, customer="c-ben") as caller:
        await asyncio.sleep(2)
    assert [event["type"] for event in caller.events] == ["ready"]


@pytest.mark.parametrize(
    ("name", "frames", "code", "closes"),
    [
        ("nobody", [START], "MODEL_NOT_FOUND", 1008),
        ("support", [START], "USAGE", 1008),
        (NAME, [b"\x00\x00"], "MALFORMED_BODY", 1007),
        (NAME, ['{"type": "start", "sample_rate_hz": 8000}'], "OUT_OF_RANGE", 1008),
        (NAME, [START, b"\x00\x00\x00"], "MALFORMED_BODY", 1007),
        (NAME, [START, "this is no sound"], "MALFORMED_BODY", 1007),
        (NAME, [START, *[b"\x00" * 60_000] * 40], "TOO_LARGE", 1008),
    ],
)
async def test_bad_frames_are_told_and_others_are_unharmed(
    spoken: Spoken, name: str, frames: list[str | bytes], code: str, closes: int
) -> None:
    async with connect(f"ws{spoken.server.url.removeprefix('http')}/voice/{name}", compression=None) as socket:
        with contextlib.suppress(ConnectionClosed):
            for frame in frames:
                await socket.send(frame)
        told: list[Any] = []
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                while True:
                    told.append(await socket.recv())
    errors = [json.loads(frame) for frame in told if isinstance(frame, str) and '"error"' in frame]
    assert errors and errors[-1]["code"] == code and socket.close_code == closes
    assert httpx.get(f"{spoken.server.url}/v2/health/ready").status_code == 200


async def test_a_client_that_vanishes_in_the_middle_of_a_reply_leaves_no_session(spoken: Spoken) -> None:
    server, _, clip = spoken
    async with calling(server.url, NAME) as caller:
        caller.say(clip("How long can I pause my subscription?"))
        await caller.event("timings")
        caller.socket.transport.abort()
    gauge = f'onward_voice_sessions{{model="{NAME}",version="1.0.0"}} 0.0'
    for _ in range(50):
        if gauge in httpx.get(f"{server.url}/metrics").text:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the session is still there")


async def test_the_servers_end_is_said_after_the_reply(tmp_path_factory: pytest.TempPathFactory) -> None:
    with assistant(tmp_path_factory.mktemp("ending")) as (server, _, clip):
        async with calling(server.url, NAME) as caller:
            caller.say(clip("How long can I pause my subscription?"))
            _, at = await caller.event("timings")
            server.process.send_signal(signal.SIGTERM)
            _, at = await caller.event("audio_end", at)
            await caller.event("closing", at)
            await asyncio.sleep(0.2)
            assert caller.socket.close_code == 1001
