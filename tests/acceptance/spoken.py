"""The gallery's voice assistant on a real server, beside a real shop, and clips spoken by the package `voice`."""

from __future__ import annotations

import base64
import contextlib
import io
import signal
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

from tests.acceptance.conftest import STOP_TIMEOUT_S, Server, start, wait_until_ready
from tests.acceptance.voices import RATE_HZ

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "var" / "repository"
NAME = "voice-assistant"
PACKAGES = ("transcriber", "support", "assistant-llm", "voice", NAME)
Clips = Callable[[str], np.ndarray]


class Spoken(NamedTuple):
    """A server of the assistant, the shop it acts on, and how to have something said: int16 at 16 kHz."""

    server: Server
    shop: Any
    clip: Clips


@contextlib.contextmanager
def assistant(folder: Path) -> Iterator[Spoken]:
    """The server, ready; at the end SIGTERM, which must end it with exit code 0."""
    from gallery.support.shop.process import ShopProcess

    shop = ShopProcess(folder / "shop")
    options = ("--store", f"sqlite:///{folder}/onward.db", "--actions", str(shop.actions))
    running = start(_repository(folder / "repository"), *options, environment={"SHOP_SECRET": shop.secret})
    try:
        wait_until_ready(running)
        for told in shop.get("/events"):
            path = f"{running.url}/profiles/{told['customer']}/events"
            assert httpx.post(path, json=told["event"]).status_code == 200
        yield Spoken(running, shop, _clips(running))
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(STOP_TIMEOUT_S) == 0, running.log()
    finally:
        running.process.kill()
        running.process.wait()
        running.log_file.unlink(missing_ok=True)
        shop.close()


def _repository(root: Path) -> Path:
    root.mkdir(parents=True)
    for name in PACKAGES:
        if not (REPOSITORY / name / "1.0.0" / "onward.lock").is_file():
            pytest.skip(f"{name} is not built: make gallery")
        (root / name).symlink_to(REPOSITORY / name)
    return root


def _clips(server: Server) -> Clips:
    soxr = pytest.importorskip("soxr", reason="the extra speech is not installed")
    said: dict[str, np.ndarray] = {}

    def clip(text: str) -> np.ndarray:
        if text not in said:
            response = httpx.post(f"{server.url}/models/voice", json={"text": text}, timeout=60)
            assert response.status_code == 200, response.text
            with wave.open(io.BytesIO(base64.b64decode(response.json()["answer"]["audio"]["base64"]))) as reader:
                sound = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float32)
                slow = soxr.resample(sound, reader.getframerate(), RATE_HZ)
            said[text] = np.clip(slow, -32768, 32767).astype("<i2")
        return said[text]

    return clip
