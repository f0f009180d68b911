"""Imports a classifier of texts from its Hugging Face folder, without PyTorch: sequences or tokens.

The folder holds config.json, model.safetensors and tokenizer.json. A sequence classifier answers with labels and their
probabilities, one that may give several labels with each one's, a regression with its number; a token classifier with
the entities that it finds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from onward.errors import UsageError
from onward.package.examples import EXAMPLES_FILE
from onward.package.importers.bert import write_classifier
from onward.package.importers.draft import Draft
from onward.package.importers.encoderconfig import HeadConfig, read_config, read_head
from onward.package.importers.extra import need
from onward.package.importers.reference import Reference, provenance_of, read_reference
from onward.package.importers.tokenizing import (
    TOKENIZER_FILE,
    Tokens,
    plain_tokenizer,
    read_object,
    tokenizer_of,
    tokens_of,
)
from onward.package.parity import compare
from onward.package.records import Batching, Entities, GenerateStep, Labels, Manifest, Named, PackageInfo, Tokenize
from onward.package.tensors import GraphSession
from onward.types import Array, Field

CONFIG_FILE = "config.json"
LABELS_FILE = "labels.txt"
TOLERANCE = 1e-4
"""Of logits, times their size where that is above 1; they are some ten units at most."""
MAX_BATCH_SIZE = 32
MAX_EXAMPLES = 5
MAX_NAMED = 64
"""Up to so many labels an answer that may have several names each one's probability."""
_IDS, _MASK = "input_ids", "attention_mask"


def draft_of_classifier(
    folder: Path, info: PackageInfo, *, reference: Reference | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of the classifier in `folder`.

    `reference` holds `logits` of the original, FP32 [texts, labels], or of tokens [all texts' tokens, labels], and the
    texts as `texts`, or as `ids` (all token ids in a row) with `lengths`, or as both. Raises `UnsupportedModel` for a
    folder that would not be reproduced, `UsageError` for a reference that does not fit, `ParityError` where logits or
    tokens are others.
    """
    need("onnx", "packing a classifier")
    config, head = read_config(folder / CONFIG_FILE), read_head(folder / CONFIG_FILE)
    longest = max_tokens(folder, config.longest)
    text = plain_tokenizer(folder / TOKENIZER_FILE)
    tokenizer = tokenizer_of(text, folder, max_tokens=longest, vocabulary=config.vocabulary)
    model = write_classifier(folder, head).SerializeToString()
    files: dict[str, bytes | Path] = {"model.onnx": model, TOKENIZER_FILE: text.encode()}
    manifest = _manifest(info, head, longest, padding=config.padding or 0)
    if any(isinstance(step, Labels | Entities) for step in manifest.generate):
        files[LABELS_FILE] = ("\n".join(head.labels) + "\n").encode()
    draft = Draft(manifest=manifest, files=files, tolerance=TOLERANCE if tolerance is None else tolerance)
    if reference is None:
        return draft
    arrays = read_reference(reference, outputs="logits")
    logits = arrays["logits"].astype(np.float32)
    if logits.shape[1] != len(head.labels):
        raise UsageError('"logits" are not of this classifier', expected=f"[{len(logits)}, {len(head.labels)}]",
                         found=str(list(logits.shape)))  # fmt: skip
    draft = replace(draft, provenance=provenance_of(arrays))
    if head.task == "tokens":
        return _with_tokens(draft, head, model, _tokens_of_tokens(arrays, tokenizer), logits)
    return _with_reference(draft, head, model, tokens_of(arrays, len(logits), tokenizer), logits)


def max_tokens(folder: Path, positions: int) -> int:
    """The longest text: what the tokenizer's settings say, at most as many tokens as there are positions."""
    stated = read_object(folder / "tokenizer_config.json").get("model_max_length")
    if not isinstance(stated, int) or isinstance(stated, bool) or stated < 1:
        return positions
    return min(stated, positions)


def activated(logits: Array, head: HeadConfig) -> Array:
    """Logits as what the answer shows of them, FP32."""
    exact = logits.astype(np.float64)
    if head.activation == "none":
        return logits.astype(np.float32)
    if head.activation == "sigmoid":
        return (1 / (1 + np.exp(-exact))).astype(np.float32)
    shares = np.exp(exact - exact.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True), np.float32)


def _manifest(info: PackageInfo, head: HeadConfig, longest: int, *, padding: int) -> Manifest:
    count = len(head.labels)
    steps: tuple[GenerateStep, ...] = ()
    if head.task == "tokens":
        names = sorted({label.partition("-")[2] or label for label in head.labels} - {"O"})
        task, does = "token-classification", f"Finds entities in a text: {', '.join(names[:40])}."
        output = Field(name="probabilities", datatype="FP32", shape=(-1, count), minimum=0, maximum=1, on_request=True,
                       description="The labels' probabilities for each token.")  # fmt: skip
        steps = (Entities(scores="probabilities", input="text", file=LABELS_FILE),)
    elif head.activation == "none":
        task, does = "text-regression", "Gives a text a number."
        numbers = "The number." if count == 1 else f"The numbers: {', '.join(head.labels)}."
        output = Field(name="prediction", datatype="FP32", shape=(count,), description=numbers)
        steps = (Named(input="prediction", names=head.labels),) if 1 < count <= MAX_NAMED else ()
    elif head.activation == "sigmoid":
        task, does = "text-classification", f"Says of each of {count} labels how probable it is of a text."
        output = Field(name="probabilities", datatype="FP32", shape=(count,), minimum=0, maximum=1,
                       description="Each label's own probability; several may be true.")  # fmt: skip
        steps = (Named(input="probabilities", names=head.labels),) if count <= MAX_NAMED else ()
    else:
        task, does = "text-classification", f"Says which of {count} labels a text has."
        output = Field(name="probabilities", datatype="FP32", shape=(count,), minimum=0, maximum=1,
                       description="The labels' probabilities, which add up to 1.")  # fmt: skip
        steps = (Labels(scores="probabilities", file=LABELS_FILE, top_k=min(5, count)),)
    return Manifest(
        package=replace(info, task=task, description=info.description or does),
        inputs=(text_field(longest),),
        outputs=(output,),
        prepare=(Tokenize(input="text", file=TOKENIZER_FILE, max_tokens=longest, outputs=(_IDS, _MASK)),),
        generate=steps,
        batching=Batching(max_batch_size=MAX_BATCH_SIZE, pad={_IDS: padding, _MASK: 0}),
    )


def text_field(longest: int) -> Field:
    """The one input: a text."""
    return Field(name="text", datatype="BYTES", content="text",
                 description=f"A text; what exceeds {longest} tokens is cut off.")  # fmt: skip


def _compared(draft: Draft, model: bytes, tokens: Tokens, logits: Array) -> None:
    """Compare logits with the original's: probabilities near 0 or 1 would hide differences. Raises `ParityError`."""
    feeds = {_IDS: tokens.ids, _MASK: tokens.mask}
    session = GraphSession(model)
    step = draft.manifest.batching.max_batch_size
    parts = [
        session.run({name: array[start : start + step] for name, array in feeds.items()})["logits"]
        for start in range(0, len(logits), step)
    ]
    compare({"logits": logits}, {"logits": np.concatenate(parts)}, tolerance=draft.tolerance)


def _with_reference(draft: Draft, head: HeadConfig, model: bytes, tokens: Tokens, logits: Array) -> Draft:
    """The draft of a sequence classifier with what the original gave."""
    _compared(draft, model, tokens, logits)
    (output,) = draft.manifest.outputs
    scores = activated(logits, head)
    is_labelled = head.activation == "softmax"
    return replace(
        draft,
        items=tuple({"text": text} for text in tokens.texts),
        feeds={_IDS: tokens.ids, _MASK: tokens.mask},
        reference={output.name: scores},
        labels=tuple(head.labels[int(best)] for best in scores.argmax(axis=1)) if is_labelled else (),
        label_scores=output.name if is_labelled else "",
    )


def _tokens_of_tokens(arrays: dict[str, Array], tokenizer: Tokenizer) -> Tokens:
    """The inputs of a reference whose answers are of tokens."""
    texts = arrays.get("texts", arrays.get("lengths"))
    if texts is None or texts.ndim != 1:
        raise UsageError("the reference does not say whose tokens these are", where="reference",
                         expected="`texts`, or `ids` with `lengths`")  # fmt: skip
    return tokens_of(arrays, len(texts), tokenizer)


def _with_tokens(draft: Draft, head: HeadConfig, model: bytes, tokens: Tokens, logits: Array) -> Draft:
    """The draft of a token classifier with what the original gave; its golden examples are written here.

    Texts have different numbers of tokens, and so their answers do not stack to rows.
    """
    is_token = tokens.mask == 1
    if int(is_token.sum()) != len(logits):
        raise UsageError('"logits" are not one row a token', expected=f"{int(is_token.sum())} rows",
                         found=str(len(logits)))  # fmt: skip
    wide = np.zeros((*tokens.ids.shape, logits.shape[1]), np.float32)
    wide[is_token] = logits
    _compared(draft, model, tokens, wide)
    scores = np.zeros_like(wide)
    scores[is_token] = activated(logits, head)
    lines = [
        {"name": f"sample row {row}", "input": {"text": text}, "tolerance": draft.tolerance,
         "tensors": {"probabilities": scores[row][is_token[row]].tolist()}}
        for row, text in list(enumerate(tokens.texts))[:MAX_EXAMPLES]
    ]  # fmt: skip
    examples = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    return replace(
        draft,
        files={**draft.files, **({EXAMPLES_FILE: examples.encode()} if lines else {})},
        feeds={_IDS: tokens.ids, _MASK: tokens.mask},
        reference={"probabilities": scores},
    )
