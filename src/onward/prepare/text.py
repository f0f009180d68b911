"""Text → token ids, by the `tokenizer.json` that the browser uses too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from onward.errors import PackageError, WrongDatatype
from onward.prepare.fields import shown
from onward.types import Array, Item

_COLUMNS = ("ids", "attention_mask", "type_ids")


class TokenizePreparation:
    """Tokenises one text field, cut at `max_tokens`; never padded here: the scheduler pads a batch to its longest."""

    def __init__(self, file: Path, *, input: str, max_tokens: int, outputs: tuple[str, ...]) -> None:
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise PackageError(f"{file.name} is not a tokenizer: {error}") from error
        # The settings in the file are those of some training run; ours are the manifest's.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        self._tokenizer = tokenizer
        self._input = input
        self._outputs = outputs

    def __call__(self, item: Item) -> dict[str, Array]:
        """The text as {output: INT64 [1, length]}."""
        text = item[self._input]
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise WrongDatatype(where=self._input, expected="text in UTF-8", found=str(error)) from None
        if not isinstance(text, str):
            raise WrongDatatype(where=self._input, expected="text", found=shown(text))
        try:
            encoding = self._tokenizer.encode(text)
        except TypeError:  # lone surrogates have no UTF-8 form
            raise WrongDatatype(where=self._input, expected="valid Unicode text", found=shown(text)) from None
        return {
            output: np.array([getattr(encoding, column)], np.int64)
            for output, column in zip(self._outputs, _COLUMNS, strict=False)
        }
