"""Builds the package `embed`: MiniLM's sentence embeddings, the encoder of the package `intent` without its head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gallery.intent.build import weights_folder
from gallery.intent.layers import EMBEDDING
from onward.errors import ParityError
from onward.package.importers.bert import write_bert_encoder

if TYPE_CHECKING:
    import onnx

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "reference"
OUTPUT = "embedding"
TOLERANCE = 1e-5
EXAMPLES = 24

Progress = Callable[[str, float], None]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`.

    Raises ParityError where an embedding differs from the original implementation's by more than `TOLERANCE`.
    """
    import onnx

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    folder = weights_folder()
    progress("writing the encoder", 0.2)
    model = write_model(folder)
    onnx.save(model, str(out / "model.onnx"))
    (out / "tokenizer.json").write_text(plain_tokenizer(folder / "tokenizer.json"), encoding="utf-8")
    progress("comparing with the reference embeddings", 0.6)
    texts, wanted = reference()
    compare(out, model, texts, wanted)
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


def write_model(folder: Path) -> onnx.ModelProto:
    """The encoder, its output called `embedding`: FP32 [batch, 384], of length 1."""
    import onnx

    model = write_bert_encoder(folder, pooling="mean", normalize=True)
    for node in model.graph.node:
        node.output[:] = [OUTPUT if name == EMBEDDING else name for name in node.output]
    model.graph.output[0].name = OUTPUT
    onnx.checker.check_model(model, full_check=True)
    return model


def plain_tokenizer(file: Path) -> str:
    """The tokenizer without the truncation and padding of some training run: those are the manifest's."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False) + "\n"


def reference() -> tuple[list[str], npt.NDArray[np.float32]]:
    """The reference sentences and their embeddings by the original implementation, [sentences, 384]."""
    texts = json.loads((REFERENCE / "minilm_sentences.json").read_text(encoding="utf-8"))
    with np.load(REFERENCE / "minilm.npz") as stored:
        return [str(text) for text in texts], stored["embeddings"]


def compare(out: Path, model: onnx.ModelProto, texts: list[str], wanted: npt.NDArray[np.float32]) -> float:
    """The largest difference from the reference; raises ParityError above `TOLERANCE`."""
    from tokenizers import Tokenizer

    from gallery.intent.encoder import encode

    found = encode(model, Tokenizer.from_file(str(out / "tokenizer.json")), texts, [OUTPUT])[0]
    difference = float(np.abs(found - wanted).max())
    if not difference <= TOLERANCE:
        raise ParityError(where=OUTPUT, expected=f"at most {TOLERANCE}", found=str(difference))
    return difference
