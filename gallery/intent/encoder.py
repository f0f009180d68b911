"""Runs a sentence encoder's graph over many texts at build time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx
    from tokenizers import Tokenizer

MAX_TOKENS = 256
BATCH = 64
THREADS = 1  # builds run beside each other; and with one thread sums are always made in the same order


def encode(
    model: onnx.ModelProto,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    outputs: Sequence[str],
    *,
    progress: Callable[[float], None] = lambda share: None,
) -> list[npt.NDArray[np.float32]]:
    """The named outputs of every text, each [texts, width]; texts of like length run together."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = [np.array(encoding.ids, np.int64) for encoding in tokenizer.encode_batch(list(texts))]
    order = sorted(range(len(texts)), key=lambda at: len(ids[at]))
    rows: list[list[npt.NDArray[np.float32]]] = [[np.empty(0, np.float32)] * len(texts) for _ in outputs]
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        longest = len(ids[chosen[-1]])
        tokens = np.zeros((len(chosen), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, at in enumerate(chosen):
            tokens[row, : len(ids[at])] = ids[at]
            mask[row, : len(ids[at])] = 1
        found = session.run(list(outputs), {"input_ids": tokens, "attention_mask": mask})
        for output, values in zip(rows, found, strict=True):
            for row, at in enumerate(chosen):
                output[at] = values[row]
        progress((start + len(chosen)) / len(order))
    return [np.stack(output) for output in rows]
