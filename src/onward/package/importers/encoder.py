"""Imports a BERT sentence encoder from its folder as a package for text embedding, without PyTorch.

The folder holds config.json, model.safetensors and tokenizer.json; where it also holds the files of
sentence-transformers, they say how tokens become one vector and where texts are cut off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from onward.errors import UsageError
from onward.package.importers.bert import Pooling, write_bert_encoder
from onward.package.importers.draft import Draft
from onward.package.importers.encoderconfig import read_config
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.reference import Reference, provenance_of, read_reference
from onward.package.importers.tokenizing import (
    TOKENIZER_FILE,
    plain_tokenizer,
    read_json,
    read_object,
    tokenizer_of,
    tokens_of,
)
from onward.package.records import Batching, Manifest, PackageInfo, Tokenize
from onward.types import Field

if TYPE_CHECKING:
    import onnx

CONFIG_FILE = "config.json"
OUTPUT = "embedding"
TOLERANCE = 1e-5
MAX_BATCH_SIZE = 32
_IDS, _MASK = "input_ids", "attention_mask"
_WRITTEN = "sentence_embedding"  # what bert.py calls the output


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a text becomes a vector; `is_stated` where the folder says so, else these are our defaults."""

    pooling: Pooling = "mean"
    normalize: bool = True
    max_tokens: int
    lower_case: bool = False
    is_stated: bool = False


def draft_of_encoder(
    folder: Path, info: PackageInfo, *, reference: Reference | None = None, tolerance: float | None = None
) -> Draft:
    """Make a draft of the encoder in `folder`.

    `reference` holds `embeddings` FP32 [texts, width] of the original, and the texts as `texts`, or as `ids` (all
    token ids in a row) with `lengths`, or as both; then the tokenizer is held against the ids. Raises
    `UnsupportedModel` for a folder that would not be reproduced, `UsageError` for a reference that does not fit,
    `ParityError` where the tokenizer gives other tokens.
    """
    need("onnx", "packing an encoder")
    recipe = read_recipe(folder)
    text = plain_tokenizer(folder / TOKENIZER_FILE)
    vocabulary = read_config(folder / CONFIG_FILE).vocabulary
    tokenizer = tokenizer_of(
        text, folder, max_tokens=recipe.max_tokens, vocabulary=vocabulary, lower_case=recipe.lower_case
    )
    model = write_encoder(folder, pooling=recipe.pooling, normalize=recipe.normalize)
    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    draft = Draft(
        manifest=_manifest(info, recipe, width),
        files={"model.onnx": model.SerializeToString(), TOKENIZER_FILE: text.encode()},
        tolerance=TOLERANCE if tolerance is None else tolerance,
    )
    return draft if reference is None else _with_reference(draft, reference, tokenizer, width)


def read_recipe(folder: Path) -> Recipe:
    """Pooling, normalisation and the longest text, from the files of sentence-transformers where there are any.

    Raises `UnsupportedModel` for a module or a pooling that the graph does not have.
    """
    positions = read_config(folder / CONFIG_FILE).longest
    settings = read_object(folder / "sentence_bert_config.json")
    stated = settings.get("max_seq_length")
    longest = stated if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0 else positions
    recipe = Recipe(max_tokens=min(longest, positions), lower_case=settings.get("do_lower_case") is True)
    modules = read_json(folder / "modules.json")
    pooling_file = folder / "1_Pooling" / CONFIG_FILE
    if modules is not None:
        path, normalize = _modules(modules)
        pooling_file = folder / path / CONFIG_FILE if path else pooling_file
        recipe = replace(recipe, normalize=normalize, is_stated=True)
    pooling = read_json(pooling_file)
    if pooling is not None:
        recipe = replace(recipe, pooling=_pooling(pooling, pooling_file), is_stated=True)
    return recipe


def write_encoder(folder: Path, *, pooling: Pooling, normalize: bool) -> onnx.ModelProto:
    """The encoder's graph, its output called `embedding`: FP32 [batch, width]."""
    checker = need("onnx.checker", "packing an encoder")
    model = write_bert_encoder(folder, pooling=pooling, normalize=normalize)
    for node in model.graph.node:
        node.output[:] = [OUTPUT if name == _WRITTEN else name for name in node.output]
    model.graph.output[0].name = OUTPUT
    checker.check_model(model, full_check=True)
    return model


def _manifest(info: PackageInfo, recipe: Recipe, width: int) -> Manifest:
    vector = "the mean of its tokens' vectors" if recipe.pooling == "mean" else "the vector of its first token"
    vector += ", of length 1" if recipe.normalize else ", as long as it comes"
    if not recipe.is_stated:
        vector += " (Onward's default: the encoder's folder does not say)"
    description = info.description or f"Embeds texts: each becomes {vector}."
    return Manifest(
        package=replace(info, task="text-embedding", description=description),
        inputs=(
            Field(
                name="text",
                datatype="BYTES",
                content="text",
                description=f"A text; what exceeds {recipe.max_tokens} tokens is cut off.",
            ),
        ),
        outputs=(Field(name=OUTPUT, datatype="FP32", shape=(width,), description=f"The text's vector: {vector}."),),
        prepare=(Tokenize(input="text", file=TOKENIZER_FILE, max_tokens=recipe.max_tokens, outputs=(_IDS, _MASK)),),
        batching=Batching(max_batch_size=MAX_BATCH_SIZE, pad={_IDS: 0, _MASK: 0}),
    )


def _with_reference(draft: Draft, reference: Reference, tokenizer: Tokenizer, width: int) -> Draft:
    arrays = read_reference(reference, outputs="embeddings")
    embeddings = arrays["embeddings"].astype(np.float32)
    rows = len(embeddings)
    if embeddings.shape[1] != width:
        raise UsageError('"embeddings" is not of this encoder', expected=f"[{rows}, {width}]",
                         found=str(list(embeddings.shape)))  # fmt: skip
    tokens = tokens_of(arrays, rows, tokenizer)
    return replace(
        draft,
        items=tuple({"text": text} for text in tokens.texts),
        feeds={_IDS: tokens.ids, _MASK: tokens.mask},
        reference={OUTPUT: embeddings},
        provenance=provenance_of(arrays),
    )


def _modules(modules: Any) -> tuple[str, bool]:
    """The pooling's folder and whether a Normalize follows; the one order that the graph has."""
    listed = modules if isinstance(modules, list) else []
    kinds = [str(each.get("type", "")).rsplit(".", 1)[-1] if isinstance(each, dict) else "" for each in listed]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModel("modules.json asks for something else", where="modules.json",
                               expected="Transformer, Pooling and perhaps Normalize",
                               found=", ".join(kinds) or "nothing")  # fmt: skip
    path = str(listed[1].get("path", ""))
    if path.startswith(("/", "\\")) or ".." in Path(path).parts:
        raise UnsupportedModel("a path out of the folder", where="modules.json", found=f'"{path}"')
    return path, kinds[-1] == "Normalize"


def _pooling(content: Any, file: Path) -> Pooling:
    """The pooling of a sentence-transformers config: flags in most versions, one word in others."""
    values = content if isinstance(content, dict) else {}
    flags = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    asked = [flags.get(key, key) for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    word = values.get("pooling_mode")
    asked += [word] if isinstance(word, str) else []
    if asked == ["mean"]:
        return "mean"
    if asked == ["cls"]:
        return "cls"
    raise UnsupportedModel("this pooling is not known", where=str(file), expected="mean or cls",
                           found=", ".join(map(str, asked)) or "none")  # fmt: skip
