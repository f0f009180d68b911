"""Text becomes token ids: never padded, cut at `max_tokens`, with clear errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onward.errors import InputError, MissingInput, PackageError, WrongDatatype
from onward.prepare.text import TokenizePreparation
from onward.types import Field

TEXT = Field(name="text", datatype="BYTES", content="text")
WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "grün": 3, "blue": 4}


def write_tokenizer(file: Path, *, unknown: bool = True) -> Path:
    """A word tokenizer whose file asks for padding and truncation, as those of training runs do."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]") if unknown else models.WordLevel({"blue": 4}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if unknown:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(file))
    return file


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> TokenizePreparation:
    file = write_tokenizer(tmp_path_factory.mktemp("text") / "tokenizer.json")
    return TokenizePreparation(file, TEXT, max_tokens=8, outputs=("input_ids", "attention_mask", "token_type_ids"))


@given(count=st.integers(0, 30))
def test_a_text_has_as_many_tokens_as_words_and_two_around_up_to_max_tokens(
    step: TokenizePreparation, count: int
) -> None:
    tensors = step({"text": "blue " * count})
    length = min(count + 2, 8)
    assert tensors["input_ids"].tolist() == [[1, *[4] * (length - 2), 2]]
    assert tensors["attention_mask"].tolist() == [[1] * length]
    assert tensors["token_type_ids"].tolist() == [[0] * length]
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.int64)}


@given(st.text())
def test_any_text_with_a_utf_8_form_is_the_same_as_its_bytes(step: TokenizePreparation, text: str) -> None:
    assert step({"text": text})["input_ids"].tolist() == step({"text": text.encode()})["input_ids"].tolist()


@pytest.mark.parametrize("value", [b"\xff\xfe", "a \ud800", 3, ["blue"]])
def test_what_is_not_unicode_text_is_refused_by_name(step: TokenizePreparation, value: Any) -> None:
    with pytest.raises(WrongDatatype, match=r"^text: .*text") as caught:
        step({"text": value})
    str(caught.value).encode()  # the message itself can be written


def test_null_is_a_missing_text_and_a_default_stands_for_it(step: TokenizePreparation, tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        step({"text": None})
    field = Field(name="text", datatype="BYTES", content="text", default="grün")
    file = write_tokenizer(tmp_path / "tokenizer.json")
    tensors = TokenizePreparation(file, field, max_tokens=8, outputs=("ids",))({})
    assert tensors["ids"].tolist() == [[1, 3, 2]]


def test_only_the_named_outputs_are_made(tmp_path: Path) -> None:
    step = TokenizePreparation(write_tokenizer(tmp_path / "t.json"), TEXT, max_tokens=8, outputs=("ids", "mask"))
    assert list(step({"text": ""})) == ["ids", "mask"]


@pytest.mark.parametrize("max_tokens", [1, 2])
def test_a_limit_without_room_for_the_text_is_an_error_of_the_package(tmp_path: Path, max_tokens: int) -> None:
    with pytest.raises(PackageError, match="leaves no room"):
        TokenizePreparation(write_tokenizer(tmp_path / "t.json"), TEXT, max_tokens=max_tokens, outputs=("ids",))


def test_a_word_that_the_vocabulary_cannot_express_is_an_input_error(tmp_path: Path) -> None:
    step = TokenizePreparation(
        write_tokenizer(tmp_path / "t.json", unknown=False), TEXT, max_tokens=8, outputs=("ids",)
    )
    assert step({"text": "blue"})["ids"].tolist() == [[4]]
    with pytest.raises(InputError, match=r"^text: .*cannot be tokenised"):
        step({"text": "red"})


def test_a_file_that_is_no_tokenizer_is_an_error_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(PackageError, match=r"t\.json is not a tokenizer"):
        TokenizePreparation(tmp_path / "t.json", TEXT, max_tokens=8, outputs=("ids",))
