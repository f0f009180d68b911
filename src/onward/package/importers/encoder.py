"""Imports a BERT sentence encoder from its folder as a package for text embedding, without PyTorch.

The folder holds config.json, model.safetensors and tokenizer.json; where it also holds the files of
sentence-transformers, they say how tokens become one vector and where texts are cut off.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from onward.errors import ParityError, UsageError
from onward.package.importers.bert import Pooling, read_config, write_bert_encoder
from onward.package.importers.draft import Draft
from onward.package.importers.extra import need
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.reference import Reference, provenance_of, read_reference, take
from onward.package.records import Batching, Manifest, PackageInfo, Tokenize
from onward.types import Array, Field

if TYPE_CHECKING:
    import onnx

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
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
    tokenizer = _tokenizer(text, folder, recipe)
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
    positions = read_config(folder / CONFIG_FILE).positions
    settings = _object(folder / "sentence_bert_config.json")
    stated = settings.get("max_seq_length")
    longest = stated if isinstance(stated, int) and not isinstance(stated, bool) and stated > 0 else positions
    recipe = Recipe(max_tokens=min(longest, positions), lower_case=settings.get("do_lower_case") is True)
    modules = _json(folder / "modules.json")
    pooling_file = folder / "1_Pooling" / CONFIG_FILE
    if modules is not None:
        path, normalize = _modules(modules)
        pooling_file = folder / path / CONFIG_FILE if path else pooling_file
        recipe = replace(recipe, normalize=normalize, is_stated=True)
    pooling = _json(pooling_file)
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


def plain_tokenizer(file: Path) -> str:
    """The tokenizer without the truncation and padding of some training run: those are the manifest's."""
    content = _object(file)
    if not content:
        raise UnsupportedModel("no tokenizer", where=str(file), expected="a tokenizer.json of Hugging Face tokenizers")
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False) + "\n"


def _tokenizer(text: str, folder: Path, recipe: Recipe) -> Tokenizer:
    """The tokenizer, set up as the package will use it, and checked against the encoder."""
    where = str(folder / TOKENIZER_FILE)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UnsupportedModel(f"not a tokenizer: {error}", where=where) from None
    words, rows = tokenizer.get_vocab_size(), read_config(folder / CONFIG_FILE).vocabulary
    if words > rows:
        expected = f"at most the {rows} words of config.json"
        raise UnsupportedModel("the tokenizer knows more words than the encoder", where=where, expected=expected,
                               found=str(words))  # fmt: skip
    if recipe.lower_case and tokenizer.encode("ABC").ids != tokenizer.encode("abc").ids:
        expected = "a tokenizer that lowers the case, as do_lower_case asks"
        raise UnsupportedModel("the tokenizer keeps capitals", where=where, expected=expected)
    around = tokenizer.num_special_tokens_to_add(False)
    if recipe.max_tokens <= around:
        raise UnsupportedModel("no room for a text", where="max_seq_length", expected=f"more than {around}",
                               found=str(recipe.max_tokens))  # fmt: skip
    tokenizer.enable_truncation(recipe.max_tokens)
    return tokenizer


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
    texts = _texts(take(arrays, "texts", rows=rows)) if "texts" in arrays else []
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    if "ids" in arrays or not texts:
        given = _given_ids(arrays, rows)
        for row, (expected, found) in enumerate(zip(given, ids, strict=False)):
            if expected != found:
                message = f"the tokenizer gives other tokens than the original's in row {row}"
                raise ParityError(message, where=TOKENIZER_FILE, expected=str(expected[:16]), found=str(found[:16]))
        ids = given
    tokens = np.zeros((rows, max(map(len, ids))), np.int64)
    mask = np.zeros_like(tokens)
    for row, each in enumerate(ids):
        tokens[row, : len(each)] = each
        mask[row, : len(each)] = 1
    return replace(
        draft,
        items=tuple({"text": text} for text in texts),
        feeds={_IDS: tokens, _MASK: mask},
        reference={OUTPUT: embeddings},
        provenance=provenance_of(arrays),
    )


def _texts(array: Array) -> list[str]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise UsageError('"texts" are not texts', expected="strings [texts]", found=f"{array.dtype} {array.ndim}-d")
    return [str(text) for text in array]


def _given_ids(arrays: dict[str, Array], rows: int) -> list[list[int]]:
    """Token ids by row, from all of them in a row and the rows' lengths."""
    lengths, flat = take(arrays, "lengths", rows=rows), take(arrays, "ids")
    whole = lengths.dtype.kind in "iu" and flat.dtype.kind in "iu" and lengths.ndim == flat.ndim == 1
    if not whole or lengths.min() < 1 or int(lengths.sum()) != len(flat):
        expected = "integers: `ids` with all tokens in a row, `lengths` with how many are each text's"
        raise UsageError('"ids" and "lengths" do not fit each other', where="reference", expected=expected)
    ends = np.cumsum(lengths)
    return [flat[end - length : end].tolist() for length, end in zip(lengths.tolist(), ends.tolist(), strict=True)]


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


def _object(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    content = _json(file)
    if content is not None and not isinstance(content, dict):
        raise UnsupportedModel("not a JSON object", where=str(file))
    return content or {}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModel(f"cannot be read: {error}", where=str(file), expected="JSON in UTF-8") from None
