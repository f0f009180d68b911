"""The gallery package `voice-assistant` over HTTP: what is said is heard, understood, done once, and answered aloud."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

pytest.importorskip("cel_expr_python", reason="policies need the extra `decide`")

from onward.package.digest import read_lock
from onward.package.manifest import load_manifest
from tests.acceptance.conftest import Server, start, wait_until_ready
from tests.acceptance.deciding import audit

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "var" / "repository"
STAGES = ("transcriber", "support", "assistant-llm", "voice")
NAME = "voice-assistant"
ANNA, BEN = "c-anna", "c-ben"
pytestmark = pytest.mark.weights


def test_the_stages_do_what_a_voice_assistant_does() -> None:
    manifest = load_manifest(ROOT / "gallery" / "voice_assistant")
    assert [stage.name for stage in manifest.stages] == ["hear", "understand", "free", "speak"]
    assert manifest.stages[2].values == ("unknown",)
    policy = (ROOT / "gallery" / "support" / "policy.toml").read_text()
    assert re.search(r"input\.step == 'unknown'\"\noutcome = \"unknown\"", policy)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five packages alone."""
    root = tmp_path_factory.mktemp("repository")
    for name in (*STAGES, NAME):
        if not (REPOSITORY / name / "1.0.0" / "onward.lock").is_file():
            pytest.skip(f"{name} is not built: make gallery")
        (root / name).symlink_to(REPOSITORY / name)
    return root


@pytest.fixture(scope="module")
def shop(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from gallery.support.shop.process import ShopProcess

    process = ShopProcess(tmp_path_factory.mktemp("shop"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def server(repository: Path, shop: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("place")
    options = ("--store", f"sqlite:///{place}/onward.db", "--actions", str(shop.actions))
    running = start(repository, *options, environment={"SHOP_SECRET": shop.secret})
    try:
        wait_until_ready(running)
        for told in shop.get("/events"):
            path = f"{running.url}/profiles/{told['customer']}/events"
            assert httpx.post(path, json=told["event"]).status_code == 200
        yield running
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0, running.log()
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink(missing_ok=True)


class Caller:
    """Somebody who speaks with the assistant; their voice is the package `voice`."""

    def __init__(self, client: httpx.Client, customer: str) -> None:
        self.client = client
        self.customer = customer
        self.conversation = ""

    def clip(self, text: str) -> bytes:
        response = self.client.post("/models/voice", json={"text": text})
        assert response.status_code == 200, response.text
        return base64.b64decode(response.json()["answer"]["audio"]["base64"])

    def says(self, text: str, headers: dict[str, str] | None = None, **more: str) -> dict[str, Any]:
        fields = {"customer": self.customer, "conversation": self.conversation} | more
        response = self.client.post(
            f"/models/{NAME}?outputs=stages_ms", files={"audio": ("said.wav", self.clip(text), "audio/wav")},
            data={name: value for name, value in fields.items() if value}, headers=headers,
        )  # fmt: skip
        assert response.status_code == 200, response.text
        answer = cast(dict[str, Any], response.json()["answer"])
        self.conversation = answer["conversation"]
        return answer


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def length_s(answer: dict[str, Any]) -> float:
    assert answer["audio"]["media_type"] == "audio/wav"
    with wave.open(io.BytesIO(base64.b64decode(answer["audio"]["base64"]))) as sound:
        return sound.getnframes() / sound.getframerate()


def test_cancel_my_subscription_and_a_spoken_yes_is_one_effect_and_one_entry(
    client: httpx.Client, server: Server, shop: Any
) -> None:
    anna = Caller(client, ANNA)
    asked = anna.says("Cancel my subscription.")
    assert words(asked["transcript"]) == ["cancel", "my", "subscription"] and asked["outcome"] == "ask"
    assert shop.get(f"/customers/{ANNA}")["status"] == "active" and length_s(asked) > 0.5
    assert set(asked["stages_ms"]) == {"hear", "understand", "speak"}
    done = anna.says("Yes, please.", {"idempotency-key": "yes-1"})
    assert done["outcome"] == "cancel" and "cancelled" in done["reply"] and length_s(done) > 0.5
    told = client.get(f"/decisions/{done['decision_id']}", params={"wait_s": "10"}).json()
    assert [(one["name"], one["state"]) for one in told["actions"]] == [("cancel_subscription", "done")]
    assert shop.get(f"/customers/{ANNA}")["status"] == "cancelled"
    effects = [one for one in shop.get("/events") if one["customer"] == ANNA and "cancelled" in json.dumps(one)]
    assert len(effects) == 1
    with httpx.Client(base_url=server.admin_url) as admin:
        entries = [one for one in audit(admin) if one["subject"] == done["decision_id"]]
    assert [one["kind"] for one in entries] == ["decision"]


def test_the_spoken_confirmation_says_what_the_reply_says(client: httpx.Client) -> None:
    answer = Caller(client, "").says("How long can I pause my subscription?")
    clip = base64.b64decode(answer["audio"]["base64"])
    heard = client.post("/models/transcriber", content=clip, headers={"content-type": "audio/wav"}).json()["answer"]
    said, wanted = words(heard["text"]), words(answer["reply"])
    assert len(set(said) & set(wanted)) >= 0.7 * len(set(wanted)), (said, wanted)


def test_only_what_is_not_understood_goes_to_free_talk(client: httpx.Client) -> None:
    answer = Caller(client, BEN).says("What is the capital of Mongolia?")
    assert answer["outcome"] == "unknown" and "free" in answer["stages_ms"] and answer["reply"]
    assert "I don't know that" not in answer["reply"] and length_s(answer) > 0.3


def test_silence_is_no_order(client: httpx.Client, shop: Any) -> None:
    silence = io.BytesIO()
    with wave.open(silence, "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(32_000))
    before = shop.get(f"/customers/{BEN}")
    answer = client.post(
        f"/models/{NAME}", files={"audio": silence.getvalue()}, data={"customer": BEN}
    )  # fmt: skip
    assert answer.status_code == 200 and answer.json()["answer"] == {"transcript": ""}, answer.text
    assert shop.get(f"/customers/{BEN}") == before


def test_what_is_no_sound_is_a_clear_error_and_the_next_request_is_answered(client: httpx.Client) -> None:
    broken = client.post(f"/models/{NAME}", content=b"not a sound", headers={"content-type": "audio/wav"})
    assert broken.status_code == 400 and broken.json()["field"] == "audio"
    late = client.post(
        f"/models/{NAME}", content=Caller(client, "").clip("hello there"),
        headers={"content-type": "audio/wav", "x-onward-timeout-ms": "5"},
    )  # fmt: skip
    assert late.status_code == 504
    assert Caller(client, "").says("Hello there!")["reply"]


def test_the_lock_pins_the_stages_that_are_in_the_repository(repository: Path) -> None:
    pinned = read_lock(repository / NAME / "1.0.0").stages
    assert pinned == {f"{name}==1.0.0": read_lock(repository / name / "1.0.0").digest for name in STAGES}
