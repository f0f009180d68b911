"""Builds the package `voice-assistant`: a manifest over four packages, and a golden example spoken by one of them.

1. Copy the manifest and the card.  2. Have the package `voice` say what a customer would.  3. Have `transcriber` write
it down: what it hears must be the words that were said.  4. Write the golden example.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from onward.errors import ParityError
from onward.opening import open_pipeline
from onward.package.examples import EXAMPLES_FILE

HERE = Path(__file__).parent
CARRIED = ("onward.toml", "card.md")
SAID = "Cancel my subscription."
CLIP = "examples/cancel.wav"

Progress = Callable[[str, float], None]


def build(out: Path, *, repository: Path, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`; the stages' packages are in `repository`.

    Raises `ParityError` where the transcriber hears other words than the voice said.
    """
    for name in CARRIED:
        shutil.copyfile(HERE / name, out / name)
    progress("speaking", 0.1)
    clip = spoken(repository, SAID)
    (out / CLIP).parent.mkdir()
    (out / CLIP).write_bytes(clip)
    progress("listening", 0.5)
    with open_pipeline(repository / "transcriber" / "1.0.0", check=False) as transcriber:
        heard = str(transcriber({"audio": clip}).answer["text"])
    if words(heard) != words(SAID):
        raise ParityError("the transcriber hears other words", expected=SAID, found=heard)
    example = {
        "name": "cancel, spoken by nobody who is known",
        "input": {"audio": {"file": CLIP}},
        "answer": {"transcript": heard, "outcome": "ask", "conversation": ""},
    }
    (out / EXAMPLES_FILE).write_text(json.dumps(example, ensure_ascii=False) + "\n", encoding="utf-8")
    progress("done", 1.0)


def spoken(repository: Path, text: str) -> bytes:
    """The text as the package `voice` says it: a WAV file."""
    with open_pipeline(repository / "voice" / "1.0.0", check=False) as voice:
        return bytes(voice({"text": text}).answer["audio"].data)


def words(text: str) -> list[str]:
    """The words of a text, for comparing: lower case, no punctuation."""
    return re.findall(r"[a-z']+", text.lower())
