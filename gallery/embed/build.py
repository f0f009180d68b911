"""Builds the package `embed`: MiniLM's sentence embeddings, the encoder of the package `intent` without its head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gallery.intent.build import weights_folder
from onward.package.importers.encoder import OUTPUT, TOLERANCE, draft_of_encoder
from onward.package.pack import compare_graph
from onward.package.records import PackageInfo

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "reference"
EXAMPLES = 24

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`.

    Raises ParityError where an embedding differs from the original implementation's by more than `TOLERANCE`.
    """
    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    folder = weights_folder()
    progress("writing the encoder", 0.2)
    texts, wanted = reference()
    info = PackageInfo(name="embed", version="1.0.0")
    draft = draft_of_encoder(folder, info, reference={"texts": np.array(texts), "embeddings": wanted})
    for path in ("model.onnx", "tokenizer.json"):
        contents = draft.files[path]
        (out / path).write_bytes(contents if isinstance(contents, bytes) else contents.read_bytes())
    progress("comparing with the reference embeddings", 0.6)
    compare_graph(draft, out)
    lines = [
        json.dumps(
            {
                "name": f"sentence-{at + 1}",
                "input": {"text": texts[at]},
                "tensors": {OUTPUT: [round(float(value), 8) for value in wanted[at]]},
                "tolerance": TOLERANCE,
            },
            ensure_ascii=False,
        )
        for at in range(EXAMPLES)
    ]
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    progress("done", 1.0)


def reference() -> tuple[list[str], npt.NDArray[np.float32]]:
    """The reference sentences and their embeddings by the original implementation, [sentences, 384]."""
    texts = json.loads((REFERENCE / "minilm_sentences.json").read_text(encoding="utf-8"))
    with np.load(REFERENCE / "minilm.npz") as stored:
        return [str(text) for text in texts], stored["embeddings"]
