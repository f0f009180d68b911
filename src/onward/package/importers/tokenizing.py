"""A folder's tokenizer as a package will use it, and the texts and tokens of a reference of its model's numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from onward.errors import ParityError, UsageError
from onward.package.importers.graph import UnsupportedModel
from onward.package.importers.reference import take
from onward.types import Array

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A reference's inputs: token ids and mask INT64 [texts, longest], and the texts, where it has them."""

    ids: Array
    mask: Array
    texts: tuple[str, ...] = ()


def plain_tokenizer(file: Path) -> str:
    """The tokenizer without the truncation and padding of some training run: those are the manifest's."""
    content = read_object(file)
    if not content:
        raise UnsupportedModel("no tokenizer", where=str(file), expected="a tokenizer.json of Hugging Face tokenizers")
    content["truncation"] = content["padding"] = None
    return json.dumps(content, ensure_ascii=False) + "\n"


def tokenizer_of(text: str, folder: Path, *, max_tokens: int, vocabulary: int, lower_case: bool = False) -> Tokenizer:
    """The tokenizer, set up as the package will use it, and checked against the model's `vocabulary`.

    Raises `UnsupportedModel` for one that does not fit the model.
    """
    where = str(folder / TOKENIZER_FILE)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise UnsupportedModel(f"not a tokenizer: {error}", where=where) from None
    words, rows = tokenizer.get_vocab_size(), vocabulary
    if words > rows:
        expected = f"at most the {rows} words of config.json"
        raise UnsupportedModel("the tokenizer knows more words than the encoder", where=where, expected=expected,
                               found=str(words))  # fmt: skip
    if lower_case and tokenizer.encode("ABC").ids != tokenizer.encode("abc").ids:
        expected = "a tokenizer that lowers the case, as do_lower_case asks"
        raise UnsupportedModel("the tokenizer keeps capitals", where=where, expected=expected)
    around = tokenizer.num_special_tokens_to_add(False)
    if max_tokens <= around:
        raise UnsupportedModel("no room for a text", where="max_seq_length", expected=f"more than {around}",
                               found=str(max_tokens))  # fmt: skip
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def tokens_of(arrays: dict[str, Array], rows: int, tokenizer: Tokenizer) -> Tokens:
    """The inputs of a reference with `rows` answers: its `texts`, or its `ids` with `lengths`, or both.

    Raises `UsageError` where they do not fit, `ParityError` where the tokenizer gives other tokens.
    """
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
    return Tokens(ids=tokens, mask=mask, texts=tuple(texts))


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


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    content = read_json(file)
    if content is not None and not isinstance(content, dict):
        raise UnsupportedModel("not a JSON object", where=str(file))
    return content or {}


def read_json(file: Path) -> Any:
    """A file's JSON, None where there is no such file. Raises `UnsupportedModel` for what is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModel(f"cannot be read: {error}", where=str(file), expected="JSON in UTF-8") from None
