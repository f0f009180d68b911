"""Text → token ids, by the `tokenizer.json` that the browser uses too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Encoding, Tokenizer

from onward.errors import InputError, PackageError, WrongDatatype
from onward.prepare.fields import shown, value_of
from onward.types import Array, Field, Item

_COLUMNS = ("ids", "attention_mask", "type_ids")


class TokenizePreparation:
    """Tokenises one text field, cut at `max_tokens`; never padded here: the scheduler pads a batch to its longest."""

    def __init__(self, file: Path, field: Field, *, max_tokens: int, outputs: tuple[str, ...]) -> None:
        try:
            tokenizer = Tokenizer.from_file(str(file))
            # The settings in the file are those of some training run; ours are the manifest's.
            tokenizer.no_padding()
            around = tokenizer.num_special_tokens_to_add(False)
            if max_tokens > around:  # the library would not truncate at all
                tokenizer.enable_truncation(max_tokens)
            tokenizer.encode("")  # templates may name tokens that are nowhere
        except BaseException as error:  # the library raises bare Exception
            if not _is_its_own(error):
                raise
            raise PackageError(f"{file.name} is not a tokenizer: {error}") from None
        if max_tokens <= around:
            raise PackageError(
                "max_tokens leaves no room for the text", where=file.name, expected=f"more than the {around} tokens "
                "that the tokenizer puts around a text", found=str(max_tokens),
            )  # fmt: skip
        self._tokenizer = tokenizer
        self._field = field
        self._outputs = outputs

    def __call__(self, item: Item) -> dict[str, Array]:
        """The text as {output: INT64 [1, length]}."""
        encoding = self.encode(item)[1]
        return {
            output: np.array([getattr(encoding, column)], np.int64)
            for output, column in zip(self._outputs, _COLUMNS, strict=False)
        }

    def encode(self, item: Item) -> tuple[str, Encoding]:
        """The item's text and its tokens, with where in the text each stands."""
        text = value_of(self._field, item)
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError as error:
                raise WrongDatatype(where=self._field.name, expected="text in UTF-8", found=str(error)) from None
        if not isinstance(text, str):
            raise WrongDatatype(where=self._field.name, expected="text", found=shown(text))
        try:
            return text, self._tokenizer.encode(text)
        except TypeError:  # lone surrogates have no UTF-8 form
            expected = "valid Unicode text"
            raise WrongDatatype(where=self._field.name, expected=expected, found=ascii(text[:60])) from None
        except BaseException as error:  # bare Exception, as for a word that a vocabulary without unknowns does not have
            if not _is_its_own(error):
                raise
            raise InputError(f"the text cannot be tokenised: {error}", where=self._field.name) from None


def _is_its_own(error: BaseException) -> bool:
    """Whether the library raised it. A panic of its Rust code is no `Exception`, and would end a server's thread."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
